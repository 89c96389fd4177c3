"""Opens an uploaded package in a throw-away process with limits on memory and time.

Called by control with `inspect_package`; `python -m seaway.serving.inspect DIRECTORY MEMORY_BYTES SECONDS` is the
process. Whatever the model does to it, control only sees a sentence.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from seaway.errors import InvalidPackage, SeawayError
from seaway.serving import process
from seaway.types import Json, Signature

MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
LIBRARIES_BYTES = 32 << 30
"""Address space that a runtime's libraries may map on top: 0.6 GB with torch for the CPU."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a package turned out to be."""

    runtime: str
    platform: str
    signature: Signature
    spec: Json


def inspect_package(directory: Path, *, memory_bytes: int, seconds: float) -> Inspection:
    """Load `directory` and run it once, elsewhere. Raises InvalidPackage in words for whoever uploaded it."""
    from seaway.config import child_environment  # noqa: PLC0415 - pydantic is for control, not for the process below

    # -P: a package's own files must never be importable, whatever directory this runs in.
    command = [sys.executable, "-P", "-m", "seaway.serving.inspect"]
    command += [str(directory.resolve()), str(memory_bytes), str(seconds)]
    with tempfile.TemporaryFile() as answer:
        child = subprocess.Popen(  # noqa: S603 - our own module, no shell
            command, stdin=subprocess.DEVNULL, stdout=answer, stderr=subprocess.DEVNULL,
            env=child_environment(worker=True), start_new_session=True,
        )  # fmt: skip
        try:
            status = child.wait(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise InvalidPackage(_too_slow(seconds)) from error
        finally:
            child.kill()
            child.wait()
        answer.seek(0)
        return _read(answer.read(MAX_ANSWER_BYTES), status, memory_bytes=memory_bytes, seconds=seconds)


def _read(answer: bytes, status: int, *, memory_bytes: int, seconds: float) -> Inspection:
    if status == -signal.SIGXCPU:
        raise InvalidPackage(_too_slow(seconds))
    if status != 0:
        reason = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise InvalidPackage(
            f"Opening the model crashed ({reason}): it is damaged or needs more than {memory_bytes >> 20} MiB."
        )
    try:
        content = msgspec.json.decode(answer)
        if "error" in content:
            raise InvalidPackage(str(content["error"]))
        return msgspec.convert(content["ok"], Inspection)
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError) as error:
        raise InvalidPackage("Opening the model ended without a result; it may be damaged.") from error


def _too_slow(seconds: float) -> str:
    return f"Opening the model and running it once took more than {seconds:g} s; it may never end."


# --------------------------------------------------------------------------- in the throw-away process


def limit_process(memory_bytes: int, seconds: float) -> None:
    """Caps on memory, CPU time and files. Called first in a throw-away process.

    A runtime's own libraries are not counted to `memory_bytes`, which `limit_model` makes exact once they are there.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_at_most(memory_bytes + LIBRARIES_BYTES, hard), hard))
    cpu_seconds = int(seconds) + 1
    limits = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: MAX_ANSWER_BYTES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        limit = _at_most(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def limit_model(directory: Path, memory_bytes: int) -> None:
    """Load the libraries that the package needs, and cap what comes after them. Raises InvalidPackage."""
    from seaway.packages import read_spec  # noqa: PLC0415 - after the limits
    from seaway.runtimes import identify, runtime  # noqa: PLC0415 - as above

    runtime(identify(directory, read_spec(directory)).runtime or "")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _at_most(process.address_space_bytes() + memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _at_most(limit: int, hard: int) -> int:
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def _inspect(directory: Path, memory_bytes: int) -> dict[str, Any]:
    from seaway.serving.predictor import Predictor  # noqa: PLC0415 - after the limits

    try:
        limit_model(directory, memory_bytes)
        predictor = Predictor.open(directory, model="inspected", version=0, max_body_bytes=MAX_BODY_BYTES)
        predictor.warm_up()
    except SeawayError as error:
        return {"error": str(error), "code": error.code}
    except MemoryError:
        return {"error": "Opening the model needs more memory than is allowed.", "code": "InvalidPackage"}
    except Exception as error:  # noqa: BLE001 - outermost frame of the process; its message could hold a path
        return {"error": f"The package can't be opened: {type(error).__name__}.", "code": "InvalidPackage"}
    found = Inspection(predictor.spec.runtime or "", predictor.platform, predictor.signature, predictor.spec_json)
    return {"ok": found}


def main(arguments: list[str]) -> None:
    directory, memory_bytes, seconds = Path(arguments[0]), int(arguments[1]), float(arguments[2])
    limit_process(memory_bytes, seconds)
    answer = msgspec.json.encode(_inspect(directory, memory_bytes))
    sys.stdout.buffer.write(answer + b"\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
