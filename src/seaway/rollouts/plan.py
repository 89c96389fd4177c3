"""What to do next for one model: a pure function of what is wanted, what runs, and the time.

The rule it never breaks: a model that some ready worker serves keeps being served, until a newer revision is ready or
an operator undeploys it. New before old: workers of the new revision start beside the old ones, and the old ones are
drained only after gateways have stopped routing to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

MAX_FAILED_STARTS = 3
_FIRST_BACKOFF_SECONDS = 0.2
_MAX_BACKOFF_SECONDS = 10.0


class Phase(StrEnum):
    """A worker's life as control sees it; a dead worker is in no phase, it is gone."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One live worker process."""

    worker_id: str
    revision: int
    phase: Phase
    started_at: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A revision with a version to serve."""

    revision: int
    processes: int
    was_ready: bool
    """It has served before: a failure is then an outage to recover from, not a deploy to give up."""
    failed: bool
    refused: str = ""
    """Why it can't be served in the way that was asked for, as calibration showed."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What one model should come to; `desired` None: undeployed."""

    desired: Target | None
    fallback: Target | None = None
    """The revision that served before and keeps serving until `desired` is ready."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a revision's workers have died lately."""

    bad_deaths: int = 0
    """Deaths in a row within a second of ready, or before ready, or without one answer."""
    last_death_at: float = 0.0
    reason: str = ""

    def next_start_at(self) -> float:
        """The first restart is immediate; then the wait doubles."""
        if self.bad_deaths < 2:  # one bad death may be chance
            return self.last_death_at
        # Beyond some ten doublings the limit holds anyway.
        doublings = min(self.bad_deaths - 2, 10)
        return self.last_death_at + min(_FIRST_BACKOFF_SECONDS * float(1 << doublings), _MAX_BACKOFF_SECONDS)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do for one model, in this order: fail, start, publish `serve`, drain, kill."""

    serve: int | None = None
    """The revision that gateways should route to; None: nothing can answer."""
    start: tuple[int, ...] = ()
    """Revisions that need one more worker each time they are named."""
    fail: str | None = None
    """Why the desired revision is given up, if it is."""
    drain: tuple[str, ...] = ()
    kill: tuple[str, ...] = ()
    wake_at: float | None = None
    """When to look again although nothing happened."""
    reason: str = ""
    """Why nothing serves, for people."""


_HEALTHY = Health()


def plan(
    goal: Goal,
    workers: Sequence[WorkerView],
    health: Mapping[int, Health],
    *,
    serving: int | None,
    now: float,
    load_seconds: float,
) -> Plan:
    """The next step for one model. `serving` is the revision that gateways route to at present."""
    fail = _failure(goal.desired, workers, health, now, load_seconds)
    desired = goal.desired if fail is None and not (goal.desired and goal.desired.failed) else None
    serve = _serve(goal, desired, workers, health, serving)
    keep = [
        target for target in (desired, goal.fallback) if target is not None and _needed(target, desired, serve, goal)
    ]
    start: list[int] = []
    wake_at: float | None = None
    for target in keep:
        alive = sum(1 for w in workers if w.revision == target.revision and w.phase in {Phase.STARTING, Phase.READY})
        at = health.get(target.revision, _HEALTHY).next_start_at()
        if alive < target.processes and at > now:
            wake_at = at if wake_at is None else min(wake_at, at)
        elif alive < target.processes:
            start += [target.revision] * (target.processes - alive)
    kept = {target.revision for target in keep}
    drain = tuple(w.worker_id for w in workers if w.revision not in kept and w.phase is Phase.READY)
    kill = tuple(w.worker_id for w in workers if _useless(w, kept, now, load_seconds))
    reason = fail or next((health[t.revision].reason for t in keep if t.revision in health), "")
    return Plan(serve, tuple(start), fail, drain, kill, wake_at, reason)


def _failure(
    desired: Target | None, workers: Sequence[WorkerView], health: Mapping[int, Health], now: float, load_seconds: float
) -> str | None:
    """Why a revision that never served is given up, or None."""
    if desired is None or desired.was_ready or desired.failed:
        return None
    if desired.refused:
        return desired.refused
    for worker in workers:
        if worker.revision == desired.revision and worker.phase is Phase.FAILED:
            return worker.reason
        late = now - worker.started_at > load_seconds
        if worker.revision == desired.revision and worker.phase is Phase.STARTING and late:
            return f"It was not ready within {load_seconds:g} s (load_seconds)."
    lately = health.get(desired.revision, _HEALTHY)
    return lately.reason if lately.bad_deaths >= MAX_FAILED_STARTS else None


def _serve(
    goal: Goal,
    desired: Target | None,
    workers: Sequence[WorkerView],
    health: Mapping[int, Health],
    serving: int | None,
) -> int | None:
    if goal.desired is None:
        return None
    ready: dict[int, int] = {}
    for worker in workers:
        if worker.phase is Phase.READY:
            ready[worker.revision] = ready.get(worker.revision, 0) + 1
    # All processes of a new revision come before the switch; after it, one that is left goes on serving.
    if desired is not None and ready.get(desired.revision, 0) >= (
        1 if serving == desired.revision else desired.processes
    ):
        return desired.revision
    for revision in (serving, goal.fallback.revision if goal.fallback else None, desired.revision if desired else None):
        if revision is not None and ready.get(revision):
            return revision
    # Nobody is ready: requests wait in the gateways for a replacement of what they are routed to, unless it dies
    # again and again; then they are told at once.
    known = {t.revision for t in (desired, goal.fallback) if t is not None}
    hopeless = serving is not None and health.get(serving, _HEALTHY).bad_deaths >= MAX_FAILED_STARTS
    return serving if serving in known and not hopeless else None


def _needed(target: Target, desired: Target | None, serve: int | None, goal: Goal) -> bool:
    """Whether workers of `target` should run: the desired revision always, the fallback until that serves."""
    if goal.desired is None:
        return False
    return target is desired or desired is None or serve != desired.revision


def _useless(worker: WorkerView, kept: set[int], now: float, load_seconds: float) -> bool:
    """A worker that will never serve: nothing is lost when it is killed."""
    if worker.phase is Phase.FAILED:
        return True
    if worker.phase is not Phase.STARTING:
        return False
    return worker.revision not in kept or now - worker.started_at > load_seconds
