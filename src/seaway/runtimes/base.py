"""What every runtime offers. A session is shared by all engine threads of a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np

from seaway.packages import PackageSpec
from seaway.types import Signature

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Operators:
    """What a model consists of, the graphs inside its operators and its local functions included."""

    all: frozenset[str]
    """`Conv`; with its domain where that isn't ONNX's own: `ai.onnx.ml.Scaler`."""
    with_subgraphs: frozenset[str]
    """Those that run a graph of their own: how long that takes depends on the input."""
    value_sized: frozenset[str] = frozenset()
    """Those whose output may be of any size, as the values of an input say."""
    entangling: frozenset[str] | None = None
    """Those by which samples of one run can depend on each other though no trial shows it: they work across samples, or
    round, so that a last bit decides. None: nobody knows."""
    obstacle: str = ""
    """Why no gateway may run it, as the beginning of a sentence; empty: what it consists of decides."""


class RunHandle:
    """Stops the run that uses it, from any thread. Belongs to one engine; `reset` makes it usable for the next run."""

    __slots__ = ("_lock", "_stop", "terminated")

    def __init__(self) -> None:
        self.terminated = False
        self._stop: Callable[[], None] | None = None
        self._lock = Lock()

    def terminate(self) -> None:
        """Make the run that uses this handle, or the next one to use it, raise Cancelled soon."""
        # Here the flag is set before `_stop` is read, in `begin` the other way round: the second of them stops.
        with self._lock:
            self.terminated = True
            if self._stop is not None:
                self._stop()

    def reset(self) -> None:
        """Forget an earlier `terminate`; call it before a run, never during one."""
        self.terminated = False

    def begin(self, stop: Callable[[], None]) -> None:
        """`terminate` calls `stop` from now on. Called by a session before its run, and `end` after it, always."""
        self._stop = stop
        if self.terminated:
            stop()

    def end(self) -> bool:
        """`terminate` calls nothing any more. True when it may have called `stop`."""
        # The lock waits for a `stop` that has begun, so that none ever comes late, to a run that follows this one.
        with self._lock:
            self._stop = None
            return self.terminated


class Session(Protocol):
    """A loaded model. `run` is called by several threads at once."""

    signature: Signature
    platform: str

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], handle: RunHandle | None) -> list[Array]:
        """The named outputs for these inputs; BYTES tensors are object arrays of `str`.

        Raises InvalidRequest for inputs that the model refuses, InferenceFailed when it fails on them, and Cancelled
        when `handle` stopped it.
        """
        ...


class DeviceSession(Session, Protocol):
    """A loaded model on a device. What `run` does is here in its steps, so that the next batch can be on its way.

    `check` and `stage` are called by any thread; `launch` by one thread at a time, in the order that the device is to
    work in; `collect` by any thread.
    """

    device: str
    """cpu, or cuda:0."""
    dtype: str
    """What it computes in: fp32, bf16 or fp16."""

    def check(self, feeds: Mapping[str, Array]) -> None:
        """Refuse what would make the device fail. Raises InvalidRequest, or PayloadTooLarge for too long a sequence."""
        ...

    def stage(self, feeds: Mapping[str, Array]) -> Any:
        """Begin to copy the tensors to the device. Raises OutOfMemory."""
        ...

    def launch(self, staged: Any, outputs: Sequence[str], handle: RunHandle | None = None) -> Any:
        """Run the model on what was staged; where the device works by itself, return as soon as it has its orders.

        Raises what `run` raises.
        """
        ...

    def peak_bytes(self) -> int:
        """The most memory that the device has needed of this process so far; on a CPU, that the process has had."""
        ...

    def memory_bytes(self) -> int:
        """What the device has altogether; 0 where that is the machine's."""
        ...

    def usage(self) -> tuple[int, int, float | None] | None:
        """Of a GPU: bytes in use, bytes altogether, and the part of the last moments in which it worked, if known."""
        ...

    def collect(self, launched: Any) -> list[Array]:
        """Wait for the outputs, in the order they were asked for. Raises what `run` raises."""
        ...


class Runtime(Protocol):
    """Opens the model of a package."""

    def load(
        self, package: Path, spec: PackageSpec, *, threads: int, device: str = "auto", dtype: str = "auto"
    ) -> DeviceSession:
        """Load `spec.model`. Raises InvalidPackage, whose message holds no path of this machine.

        `device` is auto (a CUDA device where there is one), cpu, cuda or cuda:N; `dtype` is auto, fp32, bf16 or fp16.
        Raises ConfigurationError for a device or a dtype that can't be had.
        """
        ...


class PreparedModels(Protocol):
    """Keeps models as they are made ready for this machine, in files whose weights processes map and so share."""

    def prepare(self, package: Path, spec: PackageSpec, directory: Path, *, rewritten: bool = False) -> None:
        """Write the model of `package` into `directory`, which is empty; `rewritten`: as `RewrittenModels` has it.

        Raises InvalidPackage, or Unavailable where there is nothing to share or it can't be written.
        """
        ...

    def load(self, directory: Path, *, threads: int) -> DeviceSession:
        """Load what `prepare` has written. Raises InvalidPackage."""
        ...


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What could be done to a graph."""

    what: str
    """What was found to rewrite, as a noun."""
    doubt: str
    """Why answers may differ by more than the last digits, as a part of a sentence; empty: they can't."""


class RewrittenModels(Protocol):
    """Opens models on the CPU with graphs that compute the same in another way, which may be a faster one."""

    def look(self, package: Path, spec: PackageSpec) -> Rewrite | None:
        """What would be rewritten; None: nothing. Raises Unavailable where the graph can't be read."""
        ...

    def load(self, package: Path, spec: PackageSpec, *, threads: int) -> DeviceSession:
        """Raises InvalidPackage or Unavailable."""
        ...
