"""Any order of deploy, ready, failed, rollback and undeploy, against a model of what should come of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from seaway.errors import Conflict, NotFound
from seaway.registry import Registry
from seaway.types import ServingSettings
from support.registering import add_model

VERSIONS = (1, 2, 3)
_names = count()


@dataclass
class Expected:
    """One revision as the model has it."""

    id: int
    serves: tuple[int, int | None] | None
    """Version and engines; None: undeployed."""
    place: int
    """Where it stands in history: a rollback stands where what it returned to stood."""
    state: str = "pending"
    was_ready: bool = False


class Deployments(RuleBasedStateMachine):
    """The registry on one side, a list on the other."""

    registry: Registry

    @initialize()
    def register(self) -> None:
        self.model = f"model-{next(_names)}"
        self.expected: list[Expected] = []
        for version in VERSIONS:
            add_model(self.registry, str(version).encode(), model=self.model)

    def append(self, revision_id: int, serves: tuple[int, int | None] | None, place: int | None = None) -> None:
        assert not self.expected or revision_id > self.expected[-1].id
        self.expected.append(Expected(revision_id, serves, len(self.expected) if place is None else place))

    def event(self, revision: Expected, state: str) -> None:
        self.registry.record_deployment_event(revision.id, state, state)
        revision.state, revision.was_ready = state, revision.was_ready or state == "ready"

    @rule(version=st.sampled_from(VERSIONS), engines=st.sampled_from([None, 1]))
    def deploy(self, version: int, engines: int | None) -> None:
        revision = self.registry.deploy(
            self.model, version, settings=ServingSettings(engines=engines), actor="ada", reason=""
        )
        newest = self.expected[-1] if self.expected else None
        if newest and newest.serves == (version, engines) and newest.state != "failed":
            assert revision.id == newest.id
            return
        self.append(revision.id, (version, engines))

    @rule()
    def deploy_what_is_not_there(self) -> None:
        with pytest.raises(NotFound):
            self.registry.deploy(self.model, 9, actor="ada")

    @precondition(lambda self: self.expected and self.expected[-1].serves)
    @rule(state=st.sampled_from(["ready", "ready", "failed"]))
    def the_newest_becomes(self, state: str) -> None:
        self.event(self.expected[-1], state)

    @precondition(lambda self: len(self.expected) > 1)
    @rule()
    def the_one_before_is_superseded(self) -> None:
        self.event(self.expected[-2], "superseded")

    @precondition(lambda self: self.expected and not self.expected[-1].serves)
    @rule()
    def the_newest_is_undeployed(self) -> None:
        self.event(self.expected[-1], "undeployed")

    @rule()
    def undeploy(self) -> None:
        if not self.expected:
            with pytest.raises(NotFound):
                self.registry.undeploy(self.model, actor="ada")
            return
        revision = self.registry.undeploy(self.model, actor="ada")
        if self.expected[-1].serves is None:
            assert revision.id == self.expected[-1].id
            return
        self.append(revision.id, None)

    @rule()
    def roll_back(self) -> None:
        current = self.expected[-1] if self.expected else None
        earlier = [
            one
            for number, one in enumerate(self.expected)
            if current and number < current.place and one.was_ready and one.serves not in {None, current.serves}
        ]
        if not earlier:
            with pytest.raises((Conflict, NotFound)):
                self.registry.rollback(self.model, actor="ada")
            return
        revision = self.registry.rollback(self.model, actor="ada", reason="worse")
        assert (revision.action, revision.reason) == ("rollback", "worse")
        self.append(revision.id, earlier[-1].serves, earlier[-1].place)

    @invariant()
    def the_registry_has_the_same_history(self) -> None:
        if not self.expected:
            return
        history = self.registry.deployment_history(self.model)
        found = [
            (one.id, one.state, one.ready_at is not None, *((arm.version, one.settings.engines) for arm in one.arms))
            for one in history
        ]
        assert found == [(one.id, one.state, one.was_ready, *filter(None, [one.serves])) for one in self.expected]
        assert [one.number for one in history] == list(range(1, len(history) + 1))
        assert self.registry.get_deployment(self.model) == history[-1]
        assert history[-1] in self.registry.desired()

    @invariant()
    def what_should_go_on_serving_is_the_last_that_was_ready_since_the_last_undeploy(self) -> None:
        if not self.expected:
            return
        found = self.registry.last_ready(self.model)
        wanted = next((one for one in reversed(self.expected) if one.serves is None or one.was_ready), None)
        assert (found.id if found else None) == (wanted.id if wanted and wanted.serves else None)

    def teardown(self) -> None:
        self.registry.verify_audit()


@pytest.mark.timeout(240)
def test_any_order_of_deployments_does_what_the_model_of_it_says(registry: Registry) -> None:
    machine = type("Machine", (Deployments,), {"registry": registry})
    settings = hypothesis.settings(max_examples=25, stateful_step_count=20, deadline=None)
    run_state_machine_as_test(machine, settings=settings)  # type: ignore[no-untyped-call]
