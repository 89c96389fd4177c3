"""The rollout policy: what one pass decides, and what no sequence of passes may ever do."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from seaway.rollouts.plan import MAX_FAILED_STARTS, Goal, Health, Phase, Target, WorkerView, plan

OLD = Target(1, 1, was_ready=True, failed=False)
NEW = Target(2, 1, was_ready=False, failed=False)


def worker(name: str, revision: int, phase: Phase, *, started_at: float = 0.0, reason: str = "") -> WorkerView:
    return WorkerView(name, revision, phase, started_at, reason)


def decide(goal: Goal, workers: list[WorkerView], *, serving: int | None = None, now: float = 10.0, **more: object):
    health = more.get("health", {})
    return plan(goal, workers, health, serving=serving, now=now, load_seconds=60.0)  # type: ignore[arg-type]


def test_a_first_deploy_starts_its_workers_and_serves_nothing_yet() -> None:
    step = decide(Goal(Target(1, 2, was_ready=False, failed=False)), [])
    assert (step.start, step.serve, step.drain) == ((1, 1), None, ())


def test_the_old_revision_serves_until_all_processes_of_the_new_one_are_ready() -> None:
    new = Target(2, 2, was_ready=False, failed=False)
    workers = [worker("old", 1, Phase.READY), worker("a", 2, Phase.READY), worker("b", 2, Phase.STARTING)]
    step = decide(Goal(new, OLD), workers, serving=1)
    assert (step.serve, step.drain, step.start) == (1, (), ())


def test_the_new_revision_takes_over_when_it_is_ready_and_the_old_one_is_drained() -> None:
    workers = [worker("old", 1, Phase.READY), worker("new", 2, Phase.READY)]
    step = decide(Goal(NEW, OLD), workers, serving=1)
    assert (step.serve, step.drain) == (2, ("old",))


def test_a_new_revision_that_cannot_load_is_given_up_with_its_reason_and_the_old_one_stays() -> None:
    workers = [worker("old", 1, Phase.READY), worker("new", 2, Phase.FAILED, reason="no such operator")]
    step = decide(Goal(NEW, OLD), workers, serving=1)
    assert (step.fail, step.serve, step.kill, step.drain) == ("no such operator", 1, ("new",), ())


def test_a_new_revision_that_is_not_ready_in_time_is_given_up() -> None:
    step = decide(Goal(NEW, OLD), [worker("new", 2, Phase.STARTING)], serving=1, now=61.0)
    assert step.fail is not None
    assert "60 s" in step.fail
    assert step.kill == ("new",)


def test_a_new_revision_whose_workers_keep_dying_is_given_up() -> None:
    health = {2: Health(MAX_FAILED_STARTS, 9.0, "killed by signal 11")}
    assert decide(Goal(NEW, OLD), [], serving=1, health=health).fail == "killed by signal 11"


def test_a_new_revision_that_cannot_be_placed_as_asked_is_given_up_and_its_worker_ended() -> None:
    refused = Target(2, 1, was_ready=False, failed=False, refused="Not inline.")
    for phase in (Phase.STARTING, Phase.READY):
        step = decide(Goal(refused, OLD), [worker("old", 1, Phase.READY), worker("new", 2, phase)], serving=1)
        assert (step.fail, step.serve, step.start) == ("Not inline.", 1, ())
        assert "new" in {*step.kill, *step.drain}


def test_a_revision_that_served_goes_on_where_it_cannot_be_placed_as_asked_any_more() -> None:
    refused = Target(2, 1, was_ready=True, failed=False, refused="Not inline.")
    step = decide(Goal(refused), [worker("w", 2, Phase.READY)], serving=2)
    assert (step.fail, step.serve, step.kill) == (None, 2, ())


def test_the_others_start_when_the_first_has_measured_how_many_there_should_be() -> None:
    first = [worker("first", 2, Phase.READY)]
    assert decide(Goal(NEW, OLD), [worker("old", 1, Phase.READY), *first], serving=1).serve == 2
    three = Target(2, 3, was_ready=False, failed=False)
    step = decide(Goal(three, OLD), [worker("old", 1, Phase.READY), *first], serving=1)
    assert (step.start, step.serve) == ((2, 2), 1)


def test_a_dead_worker_is_replaced_at_once_the_first_time() -> None:
    step = decide(Goal(OLD), [], serving=1, health={1: Health(1, 10.0)})
    assert (step.start, step.serve) == ((1,), 1)


def test_a_worker_that_dies_young_again_and_again_is_replaced_after_a_growing_wait() -> None:
    waits = [Health(deaths, 10.0).next_start_at() - 10.0 for deaths in range(2, 10)]
    assert waits == sorted(waits)
    step = decide(Goal(OLD), [], serving=1, health={1: Health(5, 10.0)}, now=10.1)
    assert step.start == ()
    assert step.wake_at is not None
    assert step.wake_at > 10.1


def test_requests_are_refused_at_once_when_the_served_revision_keeps_dying() -> None:
    assert decide(Goal(OLD), [], serving=1, health={1: Health(MAX_FAILED_STARTS, 10.0, "boom")}).serve is None


def test_a_serving_revision_that_failed_once_is_not_given_up() -> None:
    step = decide(Goal(OLD), [worker("w", 1, Phase.FAILED, reason="disk")], serving=1)
    assert step.fail is None
    assert step.kill == ("w",)


def test_an_undeployed_model_is_drained_and_not_served() -> None:
    step = decide(Goal(None), [worker("w", 1, Phase.READY), worker("x", 1, Phase.STARTING)], serving=1)
    assert (step.serve, step.drain, step.kill) == (None, ("w",), ("x",))


def test_workers_of_a_skipped_revision_are_removed() -> None:
    newest = Target(3, 1, was_ready=False, failed=False)
    step = decide(Goal(newest, OLD), [worker("old", 1, Phase.READY), worker("mid", 2, Phase.STARTING)], serving=1)
    assert step.kill == ("mid",)
    assert step.start == (3,)


def test_a_failed_revision_leaves_the_old_one_replaced_when_it_dies() -> None:
    failed = Target(2, 1, was_ready=False, failed=True)
    step = decide(Goal(failed, OLD), [], serving=1)
    assert (step.start, step.serve) == ((1,), 1)


@dataclass
class World:
    """A model in a simulated server: revisions, workers, and what gateways route to."""

    revisions: list[Target] = field(default_factory=list)
    undeployed: bool = True
    workers: dict[str, WorkerView] = field(default_factory=dict)
    health: dict[int, Health] = field(default_factory=dict)
    serving: int | None = None
    now: float = 0.0
    names: int = 0


class RolloutMachine(RuleBasedStateMachine):
    """Any interleaving of deploys, loads, failures and deaths, with `plan` carried out after each."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def _goal(self) -> Goal:
        if self.world.undeployed or not self.world.revisions:
            return Goal(None)
        desired = self.world.revisions[-1]
        ready = [target for target in self.world.revisions[:-1] if target.was_ready]
        return Goal(desired, ready[-1] if ready and not desired.was_ready else None)

    def _pass(self) -> None:
        world = self.world
        views = list(world.workers.values())
        before_ready = any(v.phase is Phase.READY and v.revision == world.serving for v in views)
        step = plan(self._goal(), views, world.health, serving=world.serving, now=world.now, load_seconds=60.0)
        if before_ready and not world.undeployed:
            ready = {v.revision for v in views if v.phase is Phase.READY}
            assert step.serve in ready, "a served model was left without a ready worker"
            serving_ready = {v.worker_id for v in views if v.phase is Phase.READY and v.revision == step.serve}
            assert not serving_ready & {*step.drain, *step.kill}, "a worker was taken from under its requests"
        if step.fail:
            world.revisions[-1] = Target(
                world.revisions[-1].revision, world.revisions[-1].processes, was_ready=False, failed=True
            )
        for revision in step.start:
            world.names += 1
            name = f"w{world.names}"
            world.workers[name] = worker(name, revision, Phase.STARTING, started_at=world.now)
        world.serving = step.serve
        if world.revisions and step.serve == world.revisions[-1].revision:
            last = world.revisions[-1]
            world.revisions[-1] = Target(last.revision, last.processes, was_ready=True, failed=False)
        for name in {*step.drain, *step.kill}:
            world.workers.pop(name, None)

    @rule(processes=st.integers(1, 3))
    def deploy(self, processes: int) -> None:
        number = len(self.world.revisions) + 1
        self.world.revisions.append(Target(number, processes, was_ready=False, failed=False))
        self.world.undeployed = False
        self._pass()

    @rule()
    def undeploy(self) -> None:
        self.world.undeployed = True
        self.world.revisions.clear()
        self.world.health.clear()
        self._pass()

    @precondition(lambda self: self.world.workers)
    @rule(data=st.data(), phase=st.sampled_from([Phase.READY, Phase.FAILED]))
    def a_worker_ends_its_start(self, data: st.DataObject, phase: Phase) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.workers)))
        view = self.world.workers[name]
        if view.phase is Phase.STARTING:
            self.world.workers[name] = worker(name, view.revision, phase, started_at=view.started_at, reason="bad")
        self._pass()

    @precondition(lambda self: self.world.workers)
    @rule(data=st.data())
    def a_worker_dies(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.workers)))
        view = self.world.workers.pop(name)
        before = self.world.health.get(view.revision, Health())
        self.world.health[view.revision] = Health(before.bad_deaths + 1, self.world.now, "died")
        self._pass()

    @rule(seconds=st.floats(0.1, 100.0))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self._pass()

    @invariant()
    def no_more_workers_run_than_the_wanted_revisions_need(self) -> None:
        for target in self.world.revisions:
            alive = [
                v for v in self.world.workers.values() if v.revision == target.revision and v.phase is not Phase.FAILED
            ]
            assert len(alive) <= target.processes


RolloutMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestRollout = RolloutMachine.TestCase
