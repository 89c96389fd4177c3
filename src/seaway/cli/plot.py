"""Curves as people see them: bars of characters in a terminal, lines in an SVG file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_WIDTH, _HEIGHT, _MARGIN = 420, 260, 56
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#7f7f7f")


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: what is along the bottom, and a line for each name."""

    title: str
    across: str
    places: tuple[float, ...]
    lines: dict[str, tuple[float, ...]]


def bar(value: float, most: float, *, width: int = 24) -> str:
    """A bar of at most `width` characters.

    >>> bar(3, 4, width=2), bar(0, 0, width=2)
    ('█▌', '')
    """
    eighths = round(8 * width * value / most) if most > 0 else 0
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def svg(title: str, panels: Sequence[Panel]) -> str:
    """The panels under each other, as a file of its own."""
    each = _HEIGHT + 2 * _MARGIN
    height = len(panels) * each + _MARGIN
    drawn = "".join(_panel(panel, 2 * _MARGIN + number * each) for number, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + 5 * _MARGIN}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{_MARGIN}" y="28" font-size="16">{escape(title)}</text>{drawn}</svg>\n'
    )


def _panel(panel: Panel, top: float) -> str:
    most = max((value for line in panel.lines.values() for value in line), default=0.0) or 1.0
    step = _WIDTH / max(1, len(panel.places) - 1)
    left, bottom = 1.5 * _MARGIN, top + _HEIGHT
    parts = [f'<text x="{left}" y="{top - 14}" font-weight="bold">{escape(panel.title)}</text>']
    for tenth in range(0, 11, 2):
        y = bottom - _HEIGHT * tenth / 10
        parts.append(f'<line x1="{left}" x2="{left + _WIDTH}" y1="{y:g}" y2="{y:g}" stroke="#ddd"/>')
        parts.append(_text(left - 6, y + 4, f"{most * tenth / 10:.3g}", "end"))
    for number, place in enumerate(panel.places):
        x = left + step * number
        parts.append(_text(x, bottom + 18, f"{place:g}", "middle"))
    parts.append(_text(left + _WIDTH / 2, bottom + 36, panel.across, "middle"))
    for number, (name, line) in enumerate(panel.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(left + step * i, bottom - _HEIGHT * value / most) for i, value in enumerate(line)]
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:g}" cy="{y:g}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(_text(left + _WIDTH + 10, top + 14 + 18 * number, name, "start", colour))
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str, colour: str = "black") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
