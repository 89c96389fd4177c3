"""What waits for a batch, and what leaves in one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import IntEnum, StrEnum
from typing import Any

import msgspec


class Priority(IntEnum):
    HIGH = 0
    LOW = 1


class Outcome(StrEnum):
    """How a ticket ended; each ends once."""

    WHOLE = "whole"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Reason(StrEnum):
    """Why a batch left."""

    FULL = "full"
    """Nothing more fits, it has a preferred size, or more waited than fits."""
    IDLE = "idle"
    """The device was free."""
    DELAY = "delay"
    """The oldest row had waited for company as long as it may."""
    DEADLINE = "deadline"
    """A row would have missed its deadline otherwise."""
    RETRY = "retry"
    """It is a part of a batch that failed."""


class Ticket(msgspec.Struct, eq=False):
    """A request that the queue answers for. Down to `payload` its fields are the caller's, from there the queue's."""

    key: Hashable
    """Only rows of equal keys ride together."""
    rows: int
    arrived_ns: int
    deadline_ns: int
    lengths: Sequence[int] | None = None
    """Tokens of each row; None where rows don't differ in length."""
    priority: Priority = Priority.HIGH
    n_bytes: int = 0
    """What its prepared rows take of memory."""
    payload: Any = None
    """The caller's own; the queue never looks at it."""

    outcome: Outcome | None = None
    number: int = 0
    """Order of arrival."""
    waiting: int = 0
    running: int = 0
    undone: int = 0
    order: list[int] | None = None
    """Rows from the shortest to the longest, where they differ; `Slice` counts in this order."""
    ordered_lengths: list[int] | None = None
    length: int = 1
    """Of every row, where they don't differ."""
    segments: list[Segment] = []
    """What waits of it, from the shortest to the longest."""

    def width(self, stop: int) -> int:
        """The longest of its first `stop` rows, in `order`."""
        return self.length if self.ordered_lengths is None else self.ordered_lengths[stop - 1]


class Segment(msgspec.Struct, eq=False):
    """The rows of one length that wait of one ticket."""

    ticket: Ticket
    length: int
    start: int
    stop: int


class Slice(msgspec.Struct, eq=False):
    """The rows of one ticket that are in a batch, one after the other."""

    ticket: Ticket
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> slice | list[int]:
        """Which rows of the request they are: an index into the first axis of its tensors, and of its outputs."""
        order = self.ticket.order
        return slice(self.start, self.stop) if order is None else order[self.start : self.stop]


class Batch(msgspec.Struct, eq=False):
    """What runs together. Rows are in the order of `slices`."""

    key: Hashable
    slices: tuple[Slice, ...]
    rows: int
    width: int
    """The longest length; the others are padded to it."""
    useful_tokens: int
    reason: Reason

    @property
    def tokens(self) -> int:
        """With padding."""
        return self.rows * self.width

    @property
    def padding(self) -> int:
        return self.rows * self.width - self.useful_tokens
