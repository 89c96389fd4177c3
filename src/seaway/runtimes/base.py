"""What every runtime offers. A session is shared by all engine threads of a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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


class RunHandle:
    """Stops the run that uses it, from any thread. Belongs to one engine; `reset` makes it usable for the next run."""

    def __init__(self) -> None:
        self.terminated = False
        self._stop: Callable[[], None] | None = None

    def terminate(self) -> None:
        """Make the run that uses this handle, or the next one to use it, raise Cancelled soon."""
        # Here the flag is set before `_stop` is read, in `stops` the other way round: the second of them stops.
        self.terminated = True
        if stop := self._stop:
            stop()

    def reset(self) -> None:
        """Forget an earlier `terminate`; call it before a run, never during one."""
        self.terminated = False

    @contextmanager
    def stops(self, stop: Callable[[], None]) -> Iterator[None]:
        """While inside, `terminate` calls `stop`. Called by a session around its run."""
        self._stop = stop
        try:
            if self.terminated:
                stop()
            yield
        finally:
            self._stop = None


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


class Runtime(Protocol):
    """Opens the model of a package."""

    def load(self, package: Path, spec: PackageSpec, *, threads: int) -> Session:
        """Load `spec.model`. Raises InvalidPackage, whose message holds no path of this machine."""
        ...
