"""What a table's file says about itself, read in a throw-away process: parsers of hostile bytes can crash.

Called by control with `describe_table`; `python -m seaway.registry.tabular FILE` is the process. The libraries that
read tables are never loaded into control.
"""

from __future__ import annotations

import importlib.util
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from seaway.config import child_environment
from seaway.types import Json

SUFFIXES = (".parquet", ".csv")
_SECONDS = 60
_MEMORY_BYTES = 4 << 30
_MAX_ANSWER_BYTES = 1 << 20
_NOTHING = (None, None)


def describe_table(path: Path) -> tuple[int | None, Json | None]:
    """(rows, type of each column) of a Parquet or CSV file.

    (None, None) without pyarrow, for other files, and for one whose bytes aren't the table that its name promises: it
    is a dataset of bytes all the same.
    """
    if not path.name.endswith(SUFFIXES) or importlib.util.find_spec("pyarrow") is None:
        return _NOTHING
    command = [sys.executable, "-P", "-m", "seaway.registry.tabular", str(path.resolve())]
    try:
        done = subprocess.run(  # noqa: S603 - our own module, no shell
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=child_environment(worker=True), timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return _NOTHING
    if done.returncode != 0 or len(done.stdout) > _MAX_ANSWER_BYTES:
        return _NOTHING
    try:
        return msgspec.json.decode(done.stdout, type=tuple[int, Json])
    except msgspec.DecodeError:
        return _NOTHING


# --------------------------------------------------------------------------- in the throw-away process


def _limit() -> None:
    limits = {resource.RLIMIT_AS: _MEMORY_BYTES, resource.RLIMIT_CPU: _SECONDS, resource.RLIMIT_CORE: 0}
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def _describe(path: Path) -> tuple[int, dict[str, str]]:
    """The file is read in blocks, so its size doesn't matter; a CSV's types are those of its first block."""
    import pyarrow as pa  # noqa: PLC0415 - after the limits
    from pyarrow import csv, parquet  # noqa: PLC0415

    pa.set_cpu_count(1)
    if path.suffix == ".parquet":
        file = parquet.ParquetFile(path)
        return file.metadata.num_rows, _columns(file.schema_arrow)
    with csv.open_csv(path, read_options=csv.ReadOptions(use_threads=False)) as reader:
        return sum(batch.num_rows for batch in reader), _columns(reader.schema)


def _columns(schema: Any) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def main(path: str) -> None:
    _limit()
    sys.stdout.buffer.write(msgspec.json.encode(_describe(Path(path))))


if __name__ == "__main__":
    main(sys.argv[1])
