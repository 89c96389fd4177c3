"""What a worker's two lanes share: the requests they take, and the owner they give answers to.

The lane on the CPU is `cpu_lane`, that of batches `batch_lane`; a worker has one of them.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
import structlog

from seaway.errors import InferenceFailed, InvalidRequest, Overloaded, SeawayError
from seaway.serving.predictor import Payload, Reply

log = structlog.get_logger()


class Entry(Protocol):
    """A request as the lane's owner has it."""

    deadline_ns: int
    arrived_ns: int
    cancelled: bool

    @property
    def payload(self) -> Payload: ...

    @property
    def prediction_id(self) -> str: ...


class Timing(msgspec.Struct, frozen=True, gc=False):
    """Where an answered request spent its time, in nanoseconds, and the size of its (largest) batch."""

    queue_ns: int
    """Until it ran or was prepared, that not counted."""
    input_ns: int
    infer_ns: int
    output_ns: int
    batch_ns: int = 0
    """Prepared, until its last batch left."""
    batch_rows: int = 0
    executions: tuple[tuple[int, int], ...] = ()
    """Of its batches, those that no other answer tells of: size, and time on the device."""


class Owner(Protocol):
    """Whoever has the lane. Called in its threads."""

    def answered(self, entry: Any, reply: Reply, timing: Timing) -> None:
        """A request has its answer."""
        ...

    def refused(self, entry: Any, error: BaseException) -> None:
        """A request has none, for this reason; Cancelled where its caller has left."""
        ...


def moving_average(average_ns: int, took_ns: int) -> int:
    """An average that follows the last eight or so; it begins with the first."""
    return average_ns + (took_ns - average_ns) // 8 if average_ns else took_ns


def overloaded(waiting: int, *, max_waiting: int, wait_ns: int, left_ns: int) -> Overloaded | None:
    """Why one more request can't wait behind `waiting` others for `wait_ns`, with `left_ns` to its deadline, if so."""
    retry_after = max(wait_ns / 1e9, 0.1)
    if waiting >= max_waiting:
        return Overloaded(
            f"{waiting} requests wait already (max_queue_size); retry later.", retry_after_seconds=retry_after
        )
    if waiting and wait_ns > left_ns:
        return Overloaded(
            f"{waiting} requests wait already: this one would wait about {wait_ns / 1e9:.2f} s, "
            "longer than its deadline allows; retry later.",
            retry_after_seconds=retry_after,
        )
    return None


def refused_as(error: BaseException, prediction_id: str) -> SeawayError:
    """What a caller is told of whatever its request met with."""
    if isinstance(error, SeawayError):
        return error
    if isinstance(error, MemoryError):
        return InferenceFailed("The model asked for more memory than its worker may use.")
    if isinstance(error, RecursionError):
        return InvalidRequest("The request is nested too deep.")
    log.error("worker.failed", prediction_id=prediction_id, exc_info=error)
    return InferenceFailed(f"The model failed: {type(error).__name__}.")
