"""The metrics page: exact sums, one writer, nothing lost when the writer is killed."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seaway.errors import Conflict, Unavailable
from seaway.telemetry.page import MetricsPage, Timings, read_page
from seaway.telemetry.snapshot import BUCKETS_NS, OTHER_MODELS, OUTCOMES, UNKNOWN_MODEL, SeriesSnapshot, merge

NOTHING = Timings(0, 0, 0, 0, 0, 0, 0)
WORKED = ("ok", "failed", "deadline")


def answered(rows: int = 1, ns: int = 1_000_000) -> Timings:
    return Timings(ns, 0, ns, ns, ns, 4 * ns, rows)


def only(path: Path) -> SeriesSnapshot:
    [series] = read_page(path)
    return series


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics-0.page"


# --------------------------------------------------------------------------- what a record adds


def test_an_answered_request_is_in_every_histogram(path: Path) -> None:
    page = MetricsPage(path, clock_ns=lambda: 1_700_000_000_123_456_789)
    page.series("iris", 3).record("ok", Timings(1, 2, 3, 600_000, 5, 20_000_000, 4))

    series = only(path)
    assert (series.model, series.version) == ("iris", 3)
    assert series.outcomes == dict.fromkeys(OUTCOMES, 0) | {"ok": 1}
    assert [h.count for h in (series.queue, series.batch, series.inference, series.request)] == [1, 1, 1, 1]
    assert [h.sum_ns for h in (series.queue, series.batch, series.inference, series.request)] == [
        1, 2, 600_000, 20_000_000,
    ]  # fmt: skip
    assert (series.success_ns, series.fail_ns, series.rows) == (20_000_000, 0, 4)
    assert series.last_inference_ms == 1_700_000_000_123
    page.close()


@pytest.mark.parametrize("outcome", [outcome for outcome in OUTCOMES if outcome not in WORKED])
def test_a_refused_request_does_not_make_the_model_look_fast(path: Path, outcome: str) -> None:
    page = MetricsPage(path)
    page.series("iris", 3).record(outcome, Timings(0, 0, 0, 0, 0, 7, 0))

    series = only(path)
    assert series.outcomes[outcome] == 1
    assert series.request.count == 0
    assert (series.success_ns, series.fail_ns) == (0, 7)
    page.close()


@pytest.mark.parametrize("outcome", ["failed", "deadline"])
def test_a_request_that_ended_badly_after_work_counts_its_time(path: Path, outcome: str) -> None:
    page = MetricsPage(path)
    page.series("iris", 3).record(outcome, Timings(0, 0, 0, 0, 0, 7, 0))

    series = only(path)
    assert (series.request.count, series.request.sum_ns, series.queue.count) == (1, 7, 0)
    page.close()


def test_a_time_on_a_bound_is_in_that_bounds_bucket(path: Path) -> None:
    page = MetricsPage(path)
    series = page.series("iris", 1)
    for bound in BUCKETS_NS:
        series.record("failed", Timings(0, 0, 0, 0, 0, bound, 0))
    series.record("failed", Timings(0, 0, 0, 0, 0, BUCKETS_NS[-1] + 1, 0))

    assert only(path).request.buckets == (1,) * (len(BUCKETS_NS) + 1)
    page.close()


def test_a_clock_that_went_backwards_never_makes_a_sum_smaller(path: Path) -> None:
    page = MetricsPage(path)
    page.series("iris", 1).record("ok", Timings(-5, -5, -5, -5, -5, -5, -1))

    series = only(path)
    assert (series.request.sum_ns, series.queue.sum_ns, series.success_ns, series.rows) == (0, 0, 0, 0)
    assert series.request.buckets[0] == 1
    page.close()


def test_eight_batch_sizes_are_exact_and_the_rest_share_a_place(path: Path) -> None:
    page = MetricsPage(path)
    for rows in range(1, 12):
        page.series("iris", 1).record("ok", answered(rows))
    page.series("iris", 1).record("ok", answered(3))

    batches = only(path).batches
    assert {size: executions.count for size, executions in batches.items()} == {
        **dict.fromkeys(range(1, 9), 1), 3: 2, 0: 3,
    }  # fmt: skip
    assert only(path).executions.count == 12
    page.close()


def test_an_outcome_that_nobody_knows_is_refused_and_changes_nothing(path: Path) -> None:
    page = MetricsPage(path)
    page.series("iris", 1).record("ok", answered())
    before = only(path)
    with pytest.raises(KeyError):
        page.series("iris", 1).record("weird", answered())

    assert only(path) == before
    page.close()


# --------------------------------------------------------------------------- slots


def test_the_same_version_has_one_series(path: Path) -> None:
    page = MetricsPage(path)
    assert page.series("iris", 1) is page.series("iris", 1)
    assert page.series("iris", 1) is not page.series("iris", 2)
    page.close()


def test_a_full_page_counts_late_versions_together(path: Path) -> None:
    page = MetricsPage(path, capacity=3)
    for version in range(1, 6):
        page.series("iris", version).record("ok", answered())

    counts = {(series.model, series.version): series.outcomes["ok"] for series in read_page(path)}
    assert counts == {("iris", 1): 1, ("iris", 2): 1, OTHER_MODELS: 3}
    page.close()


def test_a_name_longer_than_a_slot_is_counted_with_the_others(path: Path) -> None:
    page = MetricsPage(path)
    page.series("x" * 128, 1).record("ok", answered())
    page.series("x" * 129, 1).record("ok", answered())
    assert [series.model for series in read_page(path)] == ["x" * 128, OTHER_MODELS[0]]
    page.close()


def test_unknown_models_share_one_series(path: Path) -> None:
    page = MetricsPage(path)
    for _ in range(1000):
        page.series(*UNKNOWN_MODEL).record("not_found", NOTHING)

    assert only(path).outcomes["not_found"] == 1000
    page.close()


def test_an_empty_page_takes_little_space(path: Path) -> None:
    page = MetricsPage(path)
    page.series("iris", 1).record("ok", answered())
    assert path.stat().st_blocks * 512 < 64 * 1024 < path.stat().st_size
    page.close()


# --------------------------------------------------------------------------- opening


def test_a_page_that_was_never_made_is_empty(path: Path) -> None:
    assert read_page(path) == []


@pytest.mark.parametrize("content", [b"", b"\0" * 4096])
def test_a_page_that_is_being_made_is_empty_and_can_be_taken_over(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert read_page(path) == []
    page = MetricsPage(path)
    page.series("iris", 1).record("ok", answered())
    assert only(path).outcomes["ok"] == 1
    page.close()


def test_a_file_that_is_no_page_is_refused(path: Path) -> None:
    path.write_bytes(b"something" * 1000)
    with pytest.raises(Unavailable, match=r"metrics-0\.page is not a metrics page"):
        read_page(path)
    with pytest.raises(Unavailable):
        MetricsPage(path)
    assert path.read_bytes().startswith(b"something")


def test_a_page_cut_short_is_refused(path: Path) -> None:
    MetricsPage(path).close()
    os.truncate(path, 4096)
    with pytest.raises(Unavailable):
        read_page(path)


def test_a_second_writer_is_refused_while_the_first_lives(path: Path) -> None:
    page = MetricsPage(path)
    with pytest.raises(Conflict, match="Another process"):
        MetricsPage(path)
    page.close()
    MetricsPage(path).close()


def test_a_successor_goes_on_counting_where_its_predecessor_ended(path: Path) -> None:
    for life in range(1, 4):
        page = MetricsPage(path)
        for rows in (1, 5, life):
            page.series("iris", 1).record("ok", answered(rows))
        page.close()

    series = only(path)
    assert series.outcomes["ok"] == series.request.count == series.executions.count == 9
    assert {size: executions.count for size, executions in series.batches.items()} == {1: 4, 5: 3, 2: 1, 3: 1}


def test_a_successor_keeps_the_capacity_of_the_page(path: Path) -> None:
    MetricsPage(path, capacity=3).close()
    page = MetricsPage(path, capacity=1000)
    for version in range(10):
        page.series("iris", version).record("ok", answered())
    assert len(read_page(path)) == 3
    page.close()


# --------------------------------------------------------------------------- sums

_TIMES = st.integers(0, 10_000_000_000)
_RECORDS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from([("iris", 1), ("iris", 2), ("größe", 1), UNKNOWN_MODEL]),
        st.sampled_from(OUTCOMES),
        st.builds(Timings, _TIMES, _TIMES, _TIMES, _TIMES, _TIMES, _TIMES, st.integers(0, 40)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(records=_RECORDS, restarts=st.sets(st.integers(0, 60)))
def test_any_records_over_three_gateways_add_up_exactly(records: list[Any], restarts: set[int]) -> None:
    with TemporaryDirectory() as directory:
        paths = [Path(directory, f"metrics-{index}.page") for index in range(3)]
        pages = [MetricsPage(path) for path in paths]
        for number, (gateway, key, outcome, timings) in enumerate(records):
            if number in restarts:
                pages[gateway].close()
                pages[gateway] = MetricsPage(paths[gateway])
            pages[gateway].series(*key).record(outcome, timings)
        merged = merge(series for path in paths for series in read_page(path))
        for page in pages:
            page.close()

    assert [(series.model, series.version) for series in merged] == sorted({key for _, key, _, _ in records})
    for series in merged:
        mine = [(o, t) for _, key, o, t in records if key == (series.model, series.version)]
        ok = [t for o, t in mine if o == "ok"]
        worked = [t for o, t in mine if o in WORKED]
        assert series.outcomes == {outcome: sum(o == outcome for o, _ in mine) for outcome in OUTCOMES}
        assert (series.request.count, series.request.sum_ns) == (len(worked), sum(t.total_ns for t in worked))
        assert (series.queue.count, series.queue.sum_ns) == (len(ok), sum(t.queue_ns for t in ok))
        assert (series.batch.count, series.batch.sum_ns) == (len(ok), sum(t.batch_ns for t in ok))
        assert (series.inference.count, series.inference.sum_ns) == (len(ok), sum(t.infer_ns for t in ok))
        assert series.success_ns + series.fail_ns == sum(t.total_ns for _, t in mine)
        assert series.rows == sum(t.rows for t in ok)
        executions = series.executions
        assert (executions.count, executions.input_ns, executions.infer_ns, executions.output_ns) == (
            len(ok), sum(t.input_ns for t in ok), sum(t.infer_ns for t in ok), sum(t.output_ns for t in ok),
        )  # fmt: skip
        for index, bound in enumerate(BUCKETS_NS):
            assert sum(series.inference.buckets[: index + 1]) == sum(t.infer_ns <= bound for t in ok)


# --------------------------------------------------------------------------- a writer that is killed

_WRITER = """
import itertools, sys
from pathlib import Path
from seaway.telemetry.page import MetricsPage, Timings
page = MetricsPage(Path(sys.argv[1]))
for n in itertools.count():
    page.series("iris", 1 + n % 2).record(("ok", "ok", "failed")[n % 3], Timings(n, n, n, n, n, n, 1 + n % 4))
"""


class Writer:
    """A process that records as fast as it can until it is killed."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)])

    def wait_until(self, reached: Callable[[], bool]) -> None:
        give_up = time.monotonic() + 30
        while not reached():
            assert self._process.poll() is None, "the writer ended by itself"
            assert time.monotonic() < give_up, "the writer records nothing"

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)


def reaches(path: Path, goal: int) -> bool:
    return total(path) >= goal


def total(path: Path) -> int:
    return sum(sum(series.outcomes.values()) for series in read_page(path))


def check_consistent(series: SeriesSnapshot, *, in_progress: int) -> None:
    """The outcome is stored last: everything else may be ahead by the one record that was being written."""
    ok, worked = series.outcomes["ok"], series.outcomes["ok"] + series.outcomes["failed"]
    for histogram, count in (
        (series.queue, ok), (series.batch, ok), (series.inference, ok), (series.request, worked),
    ):  # fmt: skip
        assert 0 <= histogram.count - count <= in_progress
        assert histogram.sum_ns >= 0
    assert 0 <= series.executions.count - ok <= in_progress


def test_every_kill_leaves_a_page_that_is_off_by_at_most_the_record_in_progress(path: Path) -> None:
    chance = random.Random(5)
    reached = 0
    for kills in range(1, 9):
        writer = Writer(path)
        goal = reached + chance.randint(1, 3000)
        writer.wait_until(functools.partial(reaches, path, goal))
        writer.kill()
        for series in read_page(path):
            check_consistent(series, in_progress=kills)
        assert total(path) >= goal
        reached = total(path)


def test_a_reader_beside_a_busy_writer_sees_whole_records_that_only_grow(path: Path) -> None:
    writer = Writer(path)
    writer.wait_until(lambda: len(read_page(path)) == 2)
    before = 0
    for _ in range(2000):
        found = read_page(path)
        now = sum(sum(series.outcomes.values()) for series in found)
        assert now >= before
        before = now
        for series in found:
            # One: the scheduler may suspend the writer in the middle of a record for longer than the reader tries.
            check_consistent(series, in_progress=1)
    writer.kill()


def test_a_successor_of_a_writer_killed_in_the_middle_of_a_record_is_read_without_doubt(path: Path) -> None:
    page = MetricsPage(path)
    page.series("iris", 1).record("ok", answered())
    page._words[8] += 1  # the sequence, as an interrupted record leaves it
    page.close()
    assert only(path).outcomes["ok"] == 1
    page = MetricsPage(path)
    page.series("iris", 1).record("ok", answered())
    assert page._words[8] % 2 == 0
    assert only(path).outcomes["ok"] == 2
    page.close()


def test_a_killed_writer_leaves_the_page_to_the_next_at_once(path: Path) -> None:
    writer = Writer(path)
    writer.wait_until(lambda: total(path) > 0)
    writer.kill()
    page = MetricsPage(path)
    before = total(path)
    page.series("iris", 1).record("ok", answered())
    assert total(path) == before + 1
    page.close()


def test_a_slot_that_a_killed_writer_had_not_finished_is_given_to_the_next(path: Path) -> None:
    page = MetricsPage(path)
    page.series("iris", 1).record("ok", answered())
    page.series("a-longer-name", 7)
    page._words[3] = 1  # slots in use: as if the kill came before the second slot was complete
    page.close()
    assert [series.model for series in read_page(path)] == ["iris"]
    page = MetricsPage(path)
    page.series("rose", 2).record("ok", answered())
    assert [(series.model, series.version) for series in read_page(path)] == [("iris", 1), ("rose", 2)]
    page.close()


def test_the_page_needs_nothing_that_a_worker_may_not_import() -> None:
    code = "import json, sys, seaway.telemetry.page; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"pydantic", "fastapi", "sqlalchemy", "prometheus_client", "structlog", "numpy"} & set(loaded)


@given(st.lists(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 1000)), max_size=3), min_size=1, max_size=20))
def test_runs_of_batches_are_counted_as_the_answers_tell_of_them(told: list[list[tuple[int, int]]]) -> None:
    with TemporaryDirectory() as directory:
        page = MetricsPage(Path(directory) / "metrics-0.page")
        for runs in told:
            page.series("iris", 1).record("ok", Timings(0, 5, 1, 9, 1, 20, 1, tuple(runs)))
        (found,) = read_page(Path(directory) / "metrics-0.page")
        page.close()
    every = [run for runs in told for run in runs]
    assert found.rows == len(told)
    assert found.executions.count == len(every)
    assert found.executions.infer_ns == sum(took for _, took in every)
    assert found.executions.input_ns == sum(1 for runs in told if runs)
    for size, counted in found.batches.items():
        if size:
            assert counted.count == sum(1 for rows, _ in every if rows == size)
