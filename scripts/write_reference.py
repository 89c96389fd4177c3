"""Writes docs/reference/{settings,metrics,errors}.md from the code; tests/docs fails when they are behind."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seaway.api.errors import status_of
from seaway.config import Settings
from seaway.errors import SeawayError
from seaway.telemetry.metrics import LiveGauges, render

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
NOTE = "<!-- Written by scripts/write_reference.py; change the code and run it. -->"


def settings() -> str:
    """Every field of Settings: its three names, its default and what it does."""
    rows = [
        f"| `{name}` | `{_default(field.default)}` | {_cell(field.description or '')} |"
        for name, field in Settings.model_fields.items()
    ]
    return _page(
        "Settings",
        """
Of `seaway serve`. Each can be given in three places; the first found wins:

1. the variable `SEAWAY_` and the name in capitals: `SEAWAY_MAX_QUEUE_SIZE=100` (each is a flag of `seaway serve`,
   too, which wins over everything: `--max-queue-size 100`);
2. the file `seaway.toml` in the working directory, or the file that `SEAWAY_CONFIG` names, which has to be there:
   `max_queue_size = 100`;
3. the default.

`seaway serve --print-config` prints a settings file to start from: every default, and what has none as a comment.
Durations are in seconds, sizes in bytes. The command line, as a client, reads `SEAWAY_URL` (default
`http://127.0.0.1:8080`) and `SEAWAY_API_KEY`.
""",
        "| setting | default | what it does |\n| --- | --- | --- |",
        rows,
    )


def metrics() -> str:
    """Every metric, from the exposition of an idle server."""
    text = render([], LiveGauges(build={"version": "0"})).decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    rows = [f"| `{name}` | {kind} | {_cell(helps[name])} |" for name, kind in kinds.items()]
    return _page(
        "Metrics",
        """
`GET /metrics` in Prometheus' text format, exact over all gateways and also after one of them was killed. How to scrape
it and what to alert on: [how-to/prometheus.md](../how-to/prometheus.md).
""",
        "| metric | type | meaning |\n| --- | --- | --- |",
        rows,
    )


def errors() -> str:
    """Every error and the status it is answered with."""
    rows = [
        f"| `{kind.__name__}` | {status_of(kind('x'))} | {_cell((kind.__doc__ or '').splitlines()[0])} |"
        for kind in _tree(SeawayError)
    ]
    return _page(
        "Errors",
        """
Every error of every endpoint is `{"error": "<what is wrong and what to do>"}` with one of these statuses. 429 and
503 say in `Retry-After` when to come back.
""",
        "| error | status | meaning |\n| --- | --- | --- |",
        rows,
    )


PAGES: dict[str, Callable[[], str]] = {"settings.md": settings, "metrics.md": metrics, "errors.md": errors}


def _tree(root: type[SeawayError]) -> Iterator[type[SeawayError]]:
    for child in root.__subclasses__():
        if child.__module__ == "seaway.errors":
            yield child
            yield from _tree(child)


def _page(title: str, text: str, head: str, rows: list[str]) -> str:
    return f"# {title}\n\n{NOTE}\n{text}\n{head}\n" + "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "not set" if value is None else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    REFERENCE.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
