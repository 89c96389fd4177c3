"""Log lines: one event a line, JSON for machines or text for people, from structlog and logging alike.

What a caller sends can end up in a log line, so no field can begin a line of its own: everything that isn't printable
is escaped in both formats, and long values are cut.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import structlog

Event = MutableMapping[str, Any]

_LONGEST_VALUE = 8_192
_LONGEST_TRACEBACK = 32_768
_SPARED = ("warning", "error", "exception")
_MAX_KINDS = 1000
_FIRST = ("ts", "level", "event", "role")
# Libraries that would write a line for each request, or a dozen at each start, of what our own lines say.
_QUIET = ("uvicorn.access", "uvicorn.error", "alembic", "httpx", "httpcore")


def configure(
    role: str,
    level: str = "info",
    format: str = "auto",
    *,
    file: Path | None = None,
    stream: TextIO | None = None,
    about: Mapping[str, object] | None = None,
) -> None:
    """Send every log line of this process to `stream` (standard error), as `format` says: json, text or auto.

    Called once at the start of a process. `auto` is text on a terminal, else JSON. Give uvicorn ``log_config=None``,
    so that its lines come this way too. Every line also goes to `file` as JSON, which all processes append to and
    /api/logs reads; `about` are fields of every line of this process, the model of a worker for example.
    """
    stream = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    # Who wants little on the terminal still finds what happened in the file.
    lowest = min(number, logging.INFO) if file is not None else number
    as_text = format == "text" or (format == "auto" and stream.isatty())
    structlog.configure(
        processors=[
            Sparing(),
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setLevel(number)
    handler.setFormatter(formatter(role, as_text=as_text, about=about))
    root = logging.getLogger()
    root.handlers = [handler]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Looks at each line whether the file was moved away, so that rotation needs no signal.
        shared = _SharedFile(file, delay=True)
        shared.setFormatter(formatter(role, about=about))
        root.addHandler(shared)
    root.setLevel(lowest)
    for name in ("uvicorn", "uvicorn.error", *_QUIET):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(max(number, logging.WARNING) if name in _QUIET else logging.NOTSET)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_the_last_words
    threading.excepthook = _log_a_thread_s_last_words


class Sparing:
    """A processor that lets through so many warnings and errors a second of each kind, and says how many it didn't.

    What is logged for each refused request must not become the load: a kind is an event with its `code`. The first
    line of a later second has `unlogged`, the number of lines that were left out since the last one.
    """

    def __init__(self, per_second: int = 20, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._seen: dict[tuple[Any, Any], list[int]] = {}
        """By kind: the second that is counted, lines in it, and lines left out so far."""
        self._lock = threading.Lock()

    def __call__(self, logger: Any, method: str, event: Event) -> Event:
        if method not in _SPARED:
            return event
        second = int(self._clock())
        with self._lock:
            if len(self._seen) > _MAX_KINDS:
                self._seen.clear()
            seen = self._seen.setdefault((event.get("event"), event.get("code")), [second, 0, 0])
            if seen[0] != second:
                seen[0], seen[1] = second, 0
            seen[1] += 1
            if seen[1] > self._per_second:
                seen[2] += 1
                raise structlog.DropEvent
            if seen[2]:
                event["unlogged"], seen[2] = seen[2], 0
        return event


class _SharedFile(logging.handlers.WatchedFileHandler):
    """A line that can't be written is lost here, and nothing else is: without descriptors no file can be opened."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            super().emit(record)


def formatter(role: str, *, as_text: bool = False, about: Mapping[str, object] | None = None) -> logging.Formatter:
    """What turns a log record, of structlog or of the standard library, into one line."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
        processors=[_Complete(role, about or {}), structlog.processors.format_exc_info, _text if as_text else _json],
    )


def rotate(file: Path, *, limit_bytes: int = 32 << 20) -> None:
    """Move the shared log file aside when it is over the limit; the one before is dropped. Called in control only.

    Every process notices at its next line and starts the file anew.
    """
    try:
        if file.stat().st_size > limit_bytes:
            file.replace(file.with_suffix(".1.jsonl"))
    except FileNotFoundError:
        return


# --------------------------------------------------------------------------- from a record to a line


class _Complete:
    """Adds what every line has: when, how bad, who, and the fields bound to the context."""

    def __init__(self, role: str, about: Mapping[str, object]) -> None:
        self._role = role
        self._about = about

    def __call__(self, logger: Any, method: str, event: Event) -> Event:
        record: logging.LogRecord = event.pop("_record")
        from_structlog: bool = event.pop("_from_structlog")
        if not from_structlog:
            event["logger"] = record.name
            event["exc_info"] = record.exc_info
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        own = {"ts": when, "level": record.levelname.lower(), "event": event.pop("event", ""), "role": self._role}
        bound = {**self._about, **structlog.contextvars.get_contextvars(), **event}
        return own | {name: value for name, value in bound.items() if name not in own}


def _json(logger: Any, method: str, event: Event) -> str:
    plain = {str(name): _plain(value, name == "exception") for name, value in event.items()}
    # DEL is the one control character that JSON leaves alone.
    return json.dumps(plain, ensure_ascii=True, allow_nan=False).replace("\x7f", "\\u007f")


def _plain(value: Any, is_traceback: bool = False) -> Any:
    """`value` as JSON can say it: no NaN, nothing endless, other types by their text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return _cut(value if isinstance(value, str) else str(value), is_traceback)


def _cut(text: str, is_traceback: bool = False) -> str:
    """The beginning of a long text; the end of a long traceback, where the cause is."""
    if is_traceback and len(text) > _LONGEST_TRACEBACK:
        return "…" + text[-_LONGEST_TRACEBACK:]
    return text if is_traceback or len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…"


def _text(logger: Any, method: str, event: Event) -> str:
    """`2026-08-21T10:00:00.000Z info    gateway worker.ready model=iris`, and a traceback indented below."""
    when, level, name, role = (event.pop(field) for field in _FIRST)
    traceback = event.pop("exception", None)
    fields = "".join(f" {_printable(str(field))}={_printable_value(value)}" for field, value in event.items())
    line = f"{when} {level:<8} {role:<8} {_printable(_cut(str(name)))}{fields}"
    if traceback is None:
        return line
    return "\n".join([line, *(f"    | {_printable(part)}" for part in _cut(str(traceback), True).split("\n"))])


def _printable_value(value: Any) -> str:
    text = _cut(str(value))
    if text and not any(mark in text for mark in ' "=\\'):
        return _printable(text)
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_printable(quoted)}"'


def _printable(text: str) -> str:
    """`text` with everything that could move a cursor, end a line or turn its direction escaped."""
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)


# --------------------------------------------------------------------------- exceptions that nobody caught


def _log_the_last_words(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger().critical("process.crashed", exc_info=(kind, error, traceback))


def _log_a_thread_s_last_words(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        name = args.thread.name if args.thread else ""
        structlog.get_logger().critical("thread.crashed", thread=name, exc_info=args.exc_value)
