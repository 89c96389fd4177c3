"""What Seaway is to come to beside others, and what it came to in a result."""

from __future__ import annotations

from typing import Any

Result = dict[str, Any]
_RATE, _CPU = "requests_per_second", "cpu_seconds_per_1000"
_OF_LIMIT = {"minilm": ("json", 0.95), "minilm_int8": ("json", 0.92), "vision": ("binary", 0.85)}
"""The part of what ONNX Runtime does alone, at 8 connections, and the wire of these requests."""
_TURNS = 1.5
"""p99 in times of what ONNX Runtime alone would take for one request of each connection."""
_LEVEL = 8
_BESIDE = 3.0
"""p99 beside a slow model, in times of that alone."""


def rows(result: Result) -> list[tuple[str, str, str]]:
    """What, how much, and the aim; of what was measured only. All from medians over the rounds."""
    found = _ratios(result)
    for cell in result["cells"]:
        if cell["system"] == "seaway" and cell["load"] == "closed" and cell["level"] >= _LEVEL:
            found += _of_limit(result, cell)
    for load, how in (("closed", "without a pause"), ("open", "300 a second")):
        alone, beside = (
            _value(result, "seaway", "p99_ms", group="isolation", load=load, beside=model) for model in ("", "slow")
        )
        if alone and beside:
            found.append((f"p99 beside a slow model, {how}", f"{beside / alone:.2f} of alone", f"at most {_BESIDE:g}"))
    return found


def _ratios(result: Result) -> list[tuple[str, str, str]]:
    tabular = {"group": "tabular", "wire": "json"}
    asked: list[tuple[str, str, str, str, str, dict[str, Any]]] = []
    for level in (8, 32):
        at = {**tabular, "level": level}
        asked.append((f"tabular at {level}: CPU", "seaway", "constant", _CPU, "at most 1.5", at))
        asked.append((f"tabular at {level}: requests/s", "seaway", "triton", _RATE, "at least 3", at))
        asked.append((f"tabular at {level}: requests/s", "seaway", "fastapi", _RATE, "at least 5", at))
    at = {**tabular, "level": 32}
    asked.append(("tabular in a worker at 32: requests/s", "seaway-worker", "triton", _RATE, "at least 1.7", at))
    pictures = {"group": "vision", "wire": "json"}
    asked += [
        ("pictures as JSON: requests/s", "seaway", peer, _RATE, "at least 1.3", pictures)
        for peer in ("triton", "mosec")
    ]
    asked.append(("identity: requests/s", "seaway", "triton", _RATE, "at least 1.3", {"group": "identity"}))
    found = []
    for what, system, other, name, aim, cell in asked:
        ours, theirs = (_value(result, one, name, load="closed", **cell) for one in (system, other))
        if ours and theirs:
            found.append((what, f"{ours / theirs:.2f} of {result['titles'][other]}", aim))
    return found


def _of_limit(result: Result, cell: dict[str, Any]) -> list[tuple[str, str, str]]:
    wire, part = _OF_LIMIT.get(cell["model"], ("", 0.0))
    limit = _value(result, "onnxruntime", _RATE, model=cell["model"], variant="")
    if cell["wire"] != wire or not limit:
        return []
    what = f"{cell['model']} at {cell['level']}"
    turns = cell["medians"]["p99_ms"] / (cell["level"] / limit * 1e3)
    reached = cell["medians"][_RATE] / limit
    found = [(f"{what}: requests/s", f"{reached:.0%} of ONNX Runtime alone", f"at least {part:.0%}")]
    return (found if cell["level"] == _LEVEL else []) + [(f"{what}: p99", f"{turns:.2f} turns", f"at most {_TURNS:g}")]


def _value(result: Result, system: str, name: str, **wanted: Any) -> float | None:
    cells = (cell for cell in result["cells"] if cell["system"] == system)
    return next(
        (cell["medians"].get(name) for cell in cells if all(cell[key] == value for key, value in wanted.items())), None
    )
