"""What is measured: a cell is one model, asked in one way, under one load."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.systems.base import System

ISOLATION_CONNECTIONS = 4
ISOLATION_RATE = 300
RESTRICTED = {
    "isolation": ("seaway", "triton", "mosec"),
    "unseen": ("seaway", "seaway-worker", "constant"),
    "settings": ("seaway", "seaway-no-metrics", "seaway-debug"),
}
"""Groups that are measured of some systems only."""
GROUPS = {
    "tabular": "6 µs model, JSON, closed loop",
    "binary": "6 µs model, binary tensors, closed loop",
    "settings": "what metrics, logging and tracing cost",
    "unseen": "each request with a head never seen before",
    "open": "requests at random moments of a fixed rate",
    "minilm": "sentence vectors of 16 tokens",
    "int8": "the same, quantized",
    "vision": "picture as JSON and as binary tensors",
    "identity": "600 kB in, 600 kB out",
    "sentences": "sentence vectors from strings (Seaway alone)",
    "isolation": "a fast model beside a slow one",
}


@dataclass(frozen=True)
class Cell:
    """One column of a table."""

    group: str
    model: str
    wire: str = "json"
    """json, binary or text."""
    load: str = "closed"
    """closed: `level` connections; open: `level` requests a second."""
    level: int = 8
    variant: str = ""
    """traceparent: one is sent, always the same; unseen: another in each request, and bodies of different lengths.

    Of the limit: shared, where the cores share weights."""
    beside: str = ""
    """The model that is kept busy meanwhile, over ISOLATION_CONNECTIONS connections."""

    @property
    def key(self) -> str:
        return " ".join(str(value) for value in asdict(self).values() if value)

    def seconds(self, window: float) -> float:
        """Poisson arrivals and a slow neighbour need a longer look."""
        return window * (2 if self.load == "open" or self.beside else 1)


def _closed(group: str, model: str, levels: tuple[int, ...], **more: Any) -> list[Cell]:
    return [Cell(group, model, level=level, **more) for level in levels]


CELLS: tuple[Cell, ...] = (
    *_closed("tabular", "tabular", (1, 8, 32, 128)),
    Cell("settings", "tabular"),
    Cell("settings", "tabular", variant="traceparent"),
    *_closed("unseen", "tabular", (8, 32), variant="unseen"),
    *_closed("binary", "tabular", (1, 32), wire="binary"),
    Cell("open", "tabular", load="open", level=500),
    Cell("open", "tabular", load="open", level=2000),
    Cell("open", "minilm", load="open", level=100),
    *_closed("minilm", "minilm", (1, 8, 32, 128)),
    *_closed("int8", "minilm_int8", (1, 8, 32)),
    *_closed("vision", "vision", (8,)),
    *_closed("vision", "vision", (8,), wire="binary"),
    *_closed("identity", "identity", (8,), wire="binary"),
    *_closed("sentences", "sentences", (8,), wire="text"),
    Cell("isolation", "tabular", level=ISOLATION_CONNECTIONS),
    Cell("isolation", "tabular", level=ISOLATION_CONNECTIONS, beside="slow"),
    Cell("isolation", "tabular", load="open", level=ISOLATION_RATE),
    Cell("isolation", "tabular", load="open", level=ISOLATION_RATE, beside="slow"),
)


def cells_of(system: System, groups: tuple[str, ...]) -> list[Cell]:
    """What of the chosen groups a system can be asked."""
    return [cell for cell in CELLS if cell.group in groups and takes(system, cell)]


def takes(system: System, cell: Cell) -> bool:
    if system.groups is not None and cell.group not in system.groups:
        return False
    if system.name not in RESTRICTED.get(cell.group, (system.name,)):
        return False
    served = {"json": system.models, "binary": system.binary, "text": system.text}[cell.wire]
    return cell.model in served and (not cell.beside or cell.beside in system.models)


def models_of(cells: list[Cell]) -> tuple[str, ...]:
    """The models that have to be served for these cells, each once."""
    return tuple(dict.fromkeys(name for cell in cells for name in (cell.model, cell.beside) if name))
