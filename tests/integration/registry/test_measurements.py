"""What was measured is kept as evidence, and found again by bytes and machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import func, select

from seaway.errors import NotFound
from seaway.registry import Registry
from seaway.registry.tables import calibrations, deployment_events
from seaway.types import Calibration
from support.registering import add_model, ready

pytestmark = pytest.mark.timeout(120)

DIGEST, OTHER = "a" * 64, "b" * 64
MEASURED = Calibration(10, 20, 30, 0.1 + 0.2, 2**40, ("If", "Loop"), False, "x86_64 Zäh ™, 8 cores")
CURVES = {"rows": [{"rows": 1, "run_us": 0.1}], "threads": []}


def rows(registry: Registry) -> int:
    count = select(func.count()).select_from(calibrations)
    return int(registry._read(lambda connection: connection.execute(count).scalar_one()))


def test_a_calibration_reads_back_as_it_was_measured(registry: Registry, open_registry: Callable[[], Registry]) -> None:
    registry.add_calibration(DIGEST, MEASURED, actor="control")
    assert open_registry().find_calibration(DIGEST, MEASURED.machine) == MEASURED


def test_a_calibration_is_of_these_bytes_on_this_machine(registry: Registry) -> None:
    registry.add_calibration(DIGEST, MEASURED, actor="control")
    assert registry.find_calibration(OTHER, MEASURED.machine) is None
    assert registry.find_calibration(DIGEST, "x86_64 Zäh ™, 4 cores") is None


def test_the_newest_calibration_counts_and_the_older_ones_stay(registry: Registry) -> None:
    newer = replace(MEASURED, run_ns=21)
    for measured in (MEASURED, MEASURED, newer, newer, MEASURED):
        registry.add_calibration(DIGEST, measured, actor="control")
    assert registry.find_calibration(DIGEST, MEASURED.machine) == MEASURED
    assert rows(registry) == 3


def test_what_batches_cost_is_found_whatever_was_calibrated_since(registry: Registry) -> None:
    assert registry.find_batches(DIGEST) is None
    registry.add_calibration(DIGEST, MEASURED, actor="control")
    assert registry.find_batches(DIGEST) is None
    batched = replace(MEASURED, curve=((1, 8, 0.002, 10), (32, 8, -1.0, 20)), machine="there")
    for measured in (batched, MEASURED):
        registry.add_calibration(DIGEST, measured, actor="control")
    assert registry.find_batches(DIGEST) == batched
    assert registry.find_batches(OTHER) is None


def test_a_profile_reads_back_and_the_newest_counts(registry: Registry) -> None:
    assert registry.find_profile(DIGEST) is None
    first = registry.add_profile(DIGEST, "here", CURVES, actor="ada")
    assert registry.find_profile(DIGEST) == first
    assert (first.curves, first.machine, first.created_by) == (CURVES, "here", "ada")
    second = registry.add_profile(DIGEST, "there", CURVES, actor="ben")
    assert registry.find_profile(DIGEST) == second
    assert registry.find_profile(OTHER) is None


def test_a_demotion_is_remembered_and_leaves_the_state_as_it_is(registry: Registry) -> None:
    add_model(registry, b"one")
    revision = ready(registry, 1)
    registry.record_demotion(revision, "Three runs took over 200 µs.")
    registry.record_demotion(revision, "Another gateway says so too.")
    found = registry.get_revision(revision)
    assert (found.state, found.state_reason, found.demoted) == ("ready", "", "Three runs took over 200 µs.")
    assert registry.last_ready("scale") == found
    events = registry._read(lambda c: c.execute(select(deployment_events.c.state)).scalars().all())
    assert events == ["ready", "demoted"]


def test_a_demotion_before_ready_is_no_state_either(registry: Registry) -> None:
    add_model(registry, b"one")
    revision = registry.deploy("scale", 1, actor="ada")
    registry.record_demotion(revision.id, "Slow.")
    assert registry.get_revision(revision.id).state == "pending"
    registry.record_deployment_event(revision.id, "ready", "")
    found = registry.get_revision(revision.id)
    assert (found.state, found.ready_at is not None, found.demoted) == ("ready", True, "Slow.")


def test_a_model_that_is_not_there_is_refused_with_what_lists_them(registry: Registry) -> None:
    with pytest.raises(NotFound, match=r"There is no model named 'nope'; `seaway models` lists what there is\."):
        registry.rollback("nope", actor="ada")


def test_a_new_revision_is_not_demoted(registry: Registry) -> None:
    add_model(registry, b"one")
    add_model(registry, b"two")
    first = ready(registry, 1)
    registry.record_demotion(first, "Slow.")
    ready(registry, 2)
    back = registry.rollback("scale", actor="ada")
    assert (back.arms[0].version, back.demoted) == (1, "")
    with pytest.raises(NotFound):
        registry.record_demotion(99, "Slow.")
