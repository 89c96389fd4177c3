"""Which cores gateways and slow engines keep to, and when."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.serving import isolation
from seaway.serving.isolation import SLOW_RUN_NS, ActivityPage, GatewayIsolation, WorkerIsolation, reserved_cores

SECOND = 1_000_000_000
ALL = tuple(sorted(os.sched_getaffinity(0)))

needs_two_cores = pytest.mark.skipif(len(ALL) < 2, reason="A single core can't be shared out.")


@pytest.fixture
def page(tmp_path: Path) -> ActivityPage:
    return ActivityPage(tmp_path / "activity.page", gateways=2)


@pytest.fixture
def engine() -> Iterator[int]:
    """The id of a thread that does nothing."""
    ended, ids = threading.Event(), []
    thread = threading.Thread(target=lambda: (ids.append(threading.get_native_id()), ended.wait()))
    thread.start()
    while not ids:
        os.sched_yield()
    yield ids[0]
    ended.set()
    thread.join()


@given(st.floats(0, 100), st.integers(1, 256))
def test_gateways_never_have_more_than_half_of_the_cores_nor_none_of_several(demand: float, cores: int) -> None:
    reserved = reserved_cores(demand, cores)
    assert reserved <= cores / 2
    assert reserved >= 1 or cores == 1


def test_more_demand_never_reserves_fewer_cores() -> None:
    reserved = [reserved_cores(tenths / 10, 16) for tenths in range(100)]
    assert reserved == sorted(reserved)
    assert (reserved[0], reserved[-1]) == (1, 8)


def test_cores_are_reserved_while_a_gateway_runs_models_and_shortly_after(page: ActivityPage) -> None:
    now = 100 * SECOND
    assert page.reserved(now, 4) == 0
    page.note(1, now)
    assert [page.reserved(now + elapsed, 4) for elapsed in (0, SECOND // 10, SECOND)] == [1, 1, 0]


def test_the_demand_of_gateways_that_run_no_models_is_not_counted(page: ActivityPage) -> None:
    page.set_demand(0, 1.0)
    page.set_demand(1, 0.9)
    page.note(1, SECOND)
    assert page.reserved(SECOND, 16) == 2
    page.note(0, SECOND)
    assert page.reserved(SECOND, 16) == 3


def test_a_page_is_one_for_all_who_open_it(page: ActivityPage, tmp_path: Path) -> None:
    other = ActivityPage(tmp_path / "activity.page")
    page.note(0, SECOND)
    assert other.reserved(SECOND, 2) == 1
    with pytest.raises(FileNotFoundError):
        ActivityPage(tmp_path / "nobody-made-it.page")


@needs_two_cores
def test_engines_of_a_slow_model_leave_the_reserved_cores_and_come_back(page: ActivityPage, engine: int) -> None:
    worker = WorkerIsolation(page, ALL)
    worker.add(engine, home=ALL[0])
    page.note(0, SECOND)
    worker.update(SECOND, SLOW_RUN_NS)
    assert os.sched_getaffinity(engine) == set(ALL[1:])
    worker.update(2 * SECOND, SLOW_RUN_NS)
    assert os.sched_getaffinity(engine) == {ALL[0]}


@needs_two_cores
def test_engines_whose_core_is_not_reserved_stay_on_it(page: ActivityPage, engine: int) -> None:
    worker = WorkerIsolation(page, ALL)
    worker.add(engine, home=ALL[-1])
    page.note(0, SECOND)
    worker.update(SECOND, SLOW_RUN_NS)
    assert os.sched_getaffinity(engine) == {ALL[-1]}


@needs_two_cores
def test_engines_of_a_fast_model_stay_where_they_are(page: ActivityPage, engine: int) -> None:
    worker = WorkerIsolation(page, ALL)
    worker.add(engine, home=ALL[0])
    page.note(0, SECOND)
    worker.update(SECOND, SLOW_RUN_NS - 1)
    assert os.sched_getaffinity(engine) == {ALL[0]}


@needs_two_cores
def test_an_engine_that_starts_later_is_moved_too(page: ActivityPage, engine: int) -> None:
    worker = WorkerIsolation(page, ALL)
    page.note(0, SECOND)
    worker.update(SECOND, SLOW_RUN_NS)
    worker.add(engine, home=ALL[0])
    worker.update(SECOND, SLOW_RUN_NS)
    assert os.sched_getaffinity(engine) == set(ALL[1:])


def confinements(monkeypatch: pytest.MonkeyPatch, page: ActivityPage, *, slow: bool, requests: int) -> list[object]:
    """Where a gateway that answers so many requests at once, then none, has confined itself to by the end."""
    moves: list[object] = []
    monkeypatch.setattr(isolation, "confine", lambda thread, cpus: moves.append(tuple(cpus)))

    async def live() -> None:
        gateway = GatewayIsolation(page, 0, (0, 1, 2, 3), lambda: slow)
        for _ in range(requests):
            gateway.ran(time.monotonic_ns())
        while gateway.ticking:  # noqa: ASYNC110 - it ends by a timer, and tells nobody
            await asyncio.sleep(0)

    asyncio.run(live())
    return moves


def test_a_gateway_keeps_to_few_cores_beside_slow_work_for_as_long_as_it_runs_models(
    monkeypatch: pytest.MonkeyPatch, page: ActivityPage
) -> None:
    moves = confinements(monkeypatch, page, slow=True, requests=8)
    assert moves[0] in {(0,), (0, 1)}
    assert moves[-1] == (0, 1, 2, 3)


def test_a_gateway_has_all_cores_without_slow_work(monkeypatch: pytest.MonkeyPatch, page: ActivityPage) -> None:
    assert confinements(monkeypatch, page, slow=False, requests=8) == []


def test_a_few_requests_reserve_nothing(monkeypatch: pytest.MonkeyPatch, page: ActivityPage) -> None:
    assert confinements(monkeypatch, page, slow=True, requests=7) == []
    assert page.reserved(time.monotonic_ns(), 4) == 0
