"""A gateway's side of one served version: connections to its workers, and the requests that wait for an answer.

The body of an unanswered request is kept here. When a worker dies, the requests that its engines ran are answered
WorkerLost (one of them may have killed it); the others go once to another worker, or wait for the replacement within
their deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
import structlog

from seaway.errors import MORE_TIME, DeadlineExceeded, Overloaded, SeawayError, WorkerLost, from_code
from seaway.serving import messages
from seaway.serving.arena import MAX_LENT_BYTES, MIN_LENT_BYTES, Arena, Slot
from seaway.serving.page import WorkerPage
from seaway.types import ServedVersion, WorkerAddress

log = structlog.get_logger()

_JOINED_BYTES = 1 << 14
"""Below this size a copy is cheaper than a second buffer."""
_TICK_NS = 20_000_000
"""How late a deadline may be noticed."""
_LONG_TICK_NS = 250_000_000
"""How long to wait for one that is far away; each look finds its caches cold, and costs the model some of its own."""
_ABANDONED_SECONDS = 10.0


class Rerouted(SeawayError):
    """The version was retired before this request reached a worker; the caller chooses again."""


@dataclass(slots=True)
class Result:
    """A worker's answer: what it says, and the bytes to send on."""

    answer: messages.Answer
    body: bytes | memoryview
    """A view into what the stream has read, or into `slot`."""
    slot: Slot | None = None
    """Where `body` lies; whoever gets the result gives it back once the body is sent."""


@dataclass(slots=True, eq=False)
class Call:
    """A request on its way. `done` is called exactly once: with a Result, or with the SeawayError that happened."""

    request_id: int
    deadline_ns: int
    meta: messages.Predict
    body: bytes | memoryview
    done: Callable[[Result | SeawayError], None]
    slot: Slot | None = None
    """Where `body` lies, if it was received into an arena; None as soon as somebody else has to give it back."""
    channel: Channel | None = None
    retried: bool = False
    settled: bool = False
    lent: bool = False
    """True once a worker was told to read the body from `slot`."""

    def settle(self, outcome: Result | SeawayError) -> None:
        if self.settled:
            return
        self.settled = True
        self.done(outcome)


class Channel(asyncio.Protocol):
    """The stream to one worker process."""

    def __init__(self, address: WorkerAddress, gateway: int, lost: Callable[[Channel], None]) -> None:
        self.address = address
        self.calls: dict[int, Call] = {}
        self.page = WorkerPage.attach(Path(address.page), engines=address.engines)
        self._gateway = gateway
        self._lost = lost
        self._reader = messages.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._arena: Arena | None = None
        self._arena_open = False
        self._lent: dict[int, Slot] = {}
        """Slots of requests that nobody waits for any more, but which the worker may still use."""
        self.retiring = False

    @property
    def open(self) -> bool:
        return self._transport is not None

    @property
    def load(self) -> int:
        """Unanswered requests of all gateways in this worker."""
        return self.page.load

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=1 << 24)
        self._transport.write(messages.pack(messages.HELLO, messages.Hello(self._gateway)))

    def send(self, call: Call) -> None:
        assert self._transport is not None, "the pool sends to open channels only"  # noqa: S101 - would lose the request
        self.calls[call.request_id] = call
        call.channel = self
        self.page.set_sent(self._gateway, len(self.calls))
        slot = call.slot
        call.lent = False
        if slot is not None and self._arena_open and slot.arena is self._arena:
            place = messages.PLACE.pack(slot.offset, len(call.body))
            head = messages.pack(
                messages.LENT, call.meta, request_id=call.request_id, deadline_ns=call.deadline_ns, size=len(place)
            )
            call.lent = True
            self._transport.write(head + place)
            return
        head = messages.pack(
            messages.PREDICT, call.meta,
            request_id=call.request_id, deadline_ns=call.deadline_ns, size=len(call.body),
        )  # fmt: skip
        if len(call.body) < _JOINED_BYTES:
            self._transport.write(head + call.body)
        else:
            # The transport may keep a view of the body for as long as it likes; a slot may be reused before.
            self._transport.writelines([head, call.body if slot is None else bytes(call.body)])

    def offer(self, arena: Arena) -> None:
        """Tell the worker where large bodies will lie."""
        if self._arena is None and self._transport is not None:
            self._arena = arena
            hello = messages.Hello(self._gateway, arena.path, arena.n_bytes)
            self._transport.write(messages.pack(messages.HELLO, hello))

    def cancel(self, call: Call) -> None:
        """Forget a call and tell the worker that nobody waits for it."""
        if self.calls.pop(call.request_id, None) is not None and self._transport is not None:
            self.page.set_sent(self._gateway, len(self.calls))
            self._transport.write(messages.pack(messages.CANCEL, request_id=call.request_id))
            if call.lent and call.slot is not None:
                # The worker may be reading it, and will say when it no longer does.
                self._lent[call.request_id], call.slot = call.slot, None
        self._close_if_done()

    def doubt(self, call: Call) -> None:
        """Have the worker run a call after all others: its caller has probably left."""
        if call.request_id in self.calls and self._transport is not None:
            self._transport.write(messages.pack(messages.DOUBT, request_id=call.request_id))

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                if frame.kind == messages.ANSWER:
                    self._settle(frame)
                elif frame.kind == messages.HELLO:
                    self._arena_open = True
        except (messages.FrameTooLarge, msgspec.DecodeError) as error:
            log.error("gateway.worker_stream_broken", worker=self.address.worker_id, reason=str(error))  # noqa: TRY400
            self.close()
        self._close_if_done()

    def _settle(self, frame: messages.Frame) -> None:
        call = self.calls.pop(frame.request_id, None)
        if call is None:
            if slot := self._lent.pop(frame.request_id, None):
                slot.release()
            return
        self.page.set_sent(self._gateway, len(self.calls))
        answer = messages.decode_answer(frame.meta)
        if answer.error is None:
            if answer.lent_bytes and call.slot is not None:
                call.settle(Result(answer, call.slot.room[: answer.lent_bytes], call.slot))
            else:
                call.settle(Result(answer, frame.body))
            return
        error = from_code(*answer.error)
        if isinstance(error, Overloaded):
            error.retry_after_seconds = answer.retry_after_seconds
        call.settle(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        running = self.running()
        for call in self.calls.values():
            if call.lent and call.slot is not None and call.request_id in running:
                self._lent[call.request_id], call.slot = call.slot, None
        for slot in self._lent.values():
            # A worker that lost us and not its life ends what it runs for us; by then it has.
            asyncio.get_running_loop().call_later(_ABANDONED_SECONDS, slot.release)
        self._lent.clear()
        self._lost(self)
        self.page.close()

    def running(self) -> set[int]:
        """This gateway's requests that an engine had begun."""
        return self.page.running(self._gateway)

    def retire(self) -> None:
        """Close as soon as nothing is under way."""
        self.retiring = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self.retiring and not self.calls and not self._lent:
            self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Pool:
    """The workers of one served version, as one gateway sees them."""

    def __init__(self, served: ServedVersion, gateway: int) -> None:
        self.served = served
        self._gateway = gateway
        self._channels: dict[str, Channel] = {}
        self._pending: deque[Call] = deque()
        self._retired = False
        self._retiring: set[Channel] = set()
        self._tick: asyncio.TimerHandle | None = None
        self._tick_ns = 0
        """When `_tick` comes."""
        self._arena: Arena | None = None

    def lend(self, n_bytes: int, head_bytes: int) -> Slot | None:
        """Room for a large body where this version's workers can read it; None when there is none."""
        if self._retired or not MIN_LENT_BYTES <= n_bytes <= MAX_LENT_BYTES:
            return None
        if self._arena is None:
            try:
                self._arena = Arena()
            except OSError:
                return None
        for channel in self._channels.values():
            channel.offer(self._arena)
        return self._arena.lend(n_bytes, head_bytes)

    @property
    def in_flight(self) -> int:
        return len(self._pending) + sum(len(channel.calls) for channel in self._channels.values())

    def has_work(self, run_ns: int) -> bool:
        """Whether workers whose runs take `run_ns` or longer have unanswered requests, from whichever gateway."""
        pages = [channel.page for channel in self._channels.values()]
        return any(page.load > 0 and page.run_ns >= run_ns for page in pages)

    async def update(self, served: ServedVersion) -> None:
        """Connect to new workers and let go of those that `served` no longer names."""
        self.served = served
        wanted = {address.worker_id: address for address in served.workers}
        for worker_id, channel in list(self._channels.items()):
            if worker_id not in wanted:
                del self._channels[worker_id]
                self._retiring.add(channel)
                channel.retire()
        loop = asyncio.get_running_loop()
        for worker_id, address in wanted.items():
            if worker_id in self._channels:
                continue
            try:
                _, channel = await loop.create_unix_connection(
                    functools.partial(Channel, address, self._gateway, self._on_lost), address.socket
                )
            except OSError as error:
                # It died after control published it; control sees that too and publishes again.
                log.warning("gateway.worker_unreachable", worker=worker_id, reason=str(error))
                continue
            # It may have died between connecting and here; a dead channel would swallow requests.
            if channel.open:
                self._channels[worker_id] = channel
        self._flush()

    def retire(self) -> None:
        """No new requests: what runs finishes, what no worker has seen goes elsewhere."""
        self._retired = True
        for channel in self._channels.values():
            self._retiring.add(channel)
            channel.retire()
        self._channels.clear()
        while self._pending:
            self._pending.popleft().settle(Rerouted("The version was replaced."))

    def submit(self, call: Call) -> None:
        """Send to the least loaded worker; without one, wait for the replacement. Raises Rerouted or Overloaded."""
        if self._retired:
            raise Rerouted("The version was replaced.")
        served = self.served
        if not self._channels:
            if len(self._pending) >= served.max_queue_size:
                raise Overloaded(f"{len(self._pending)} requests wait for {served.model} already; retry later.")
            self._pending.append(call)
        else:
            channel = self._least_loaded()
            # How many requests a batch has room for only its worker knows, which refuses by itself.
            if served.batching is None and len(channel.calls) >= served.max_queue_size + channel.address.engines:
                raise Overloaded(
                    f"{len(channel.calls)} requests wait for {served.model} already (max_queue_size); retry later."
                )
            channel.send(call)
        if call.deadline_ns < self._tick_ns or self._tick is None:
            self._look_at(call.deadline_ns)

    def cancel(self, call: Call) -> None:
        """The caller left or ran out of time: forget the call wherever it is."""
        if call.channel is not None:
            call.channel.cancel(call)
        else:
            with contextlib.suppress(ValueError):
                self._pending.remove(call)

    def _expire(self) -> None:
        """Answer the calls whose time is over; a timer for each call would cost more than the call."""
        now = time.monotonic_ns()
        calls = [*self._pending]
        for channel in self._everyone():
            calls += channel.calls.values()
        for call in calls:
            if call.deadline_ns < now:
                self.cancel(call)
                call.settle(DeadlineExceeded(f"The request's time was over before its answer came. {MORE_TIME}"))
        self._tick = None
        if left := [call.deadline_ns for call in calls if not call.settled]:
            self._look_at(min(left))

    def _look_at(self, deadline_ns: int) -> None:
        """Look for requests whose time is over soon after `deadline_ns`, or earlier."""
        now = time.monotonic_ns()
        tick_ns = now + min(max(deadline_ns - now, _TICK_NS), _LONG_TICK_NS)
        if self._tick is not None:
            if tick_ns >= self._tick_ns:
                return
            self._tick.cancel()
        self._tick_ns = tick_ns
        self._tick = asyncio.get_running_loop().call_later((tick_ns - now) / 1e9, self._expire)

    def _everyone(self) -> list[Channel]:
        """All workers that may still answer, those that get nothing new among them."""
        self._retiring = {channel for channel in self._retiring if channel.open}
        return [*self._channels.values(), *self._retiring]

    def _least_loaded(self) -> Channel:
        channels = list(self._channels.values())
        return channels[0] if len(channels) == 1 else min(channels, key=lambda channel: channel.load)

    def _flush(self) -> None:
        while self._pending and self._channels:
            call = self._pending.popleft()
            if not call.settled:
                self._least_loaded().send(call)

    def _on_lost(self, channel: Channel) -> None:
        """A worker's stream ended: answer what it ran, give the rest to others. Called by the event loop."""
        if self._channels.get(channel.address.worker_id) is channel:
            del self._channels[channel.address.worker_id]
        if not channel.calls:
            return
        running = channel.running()
        again: list[Call] = []
        for call in list(channel.calls.values()):
            call.channel = None
            if call.request_id in running or call.retried:
                call.settle(
                    WorkerLost(
                        f"The worker process of {self.served.model} died while it ran this request; "
                        "it is not tried again in case the request is the cause."
                    )
                )
            elif self._retired:
                call.settle(Rerouted("The version was replaced."))
            else:
                call.retried = True
                again.append(call)
        log.warning(
            "gateway.worker_lost",
            worker=channel.address.worker_id,
            lost=len(channel.calls) - len(again),
            retried=len(again),
        )
        channel.calls.clear()
        self._pending.extendleft(reversed(again))
        self._flush()
