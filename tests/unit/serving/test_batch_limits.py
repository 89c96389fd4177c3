"""How large a batch may be."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.errors import WarmUpFailed
from seaway.serving.batch_limits import AdaptiveLimits, BatchCost, BatchLimits, CurvePoint, choose_limits, fit_cost

SECOND = 1_000_000_000
GIGABYTE = 1 << 30
COST = BatchCost(fixed_ns=2e6, per_token_ns=1e4)


def curve(cost: BatchCost = COST, widths: tuple[int, ...] = (8, 32, 128)) -> list[CurvePoint]:
    """What a device of that cost would have measured; 100 kB a token."""
    return [CurvePoint(r, w, cost.run_ns(r, w) / 1e9, r * w * 100_000) for r in (1, 4, 16, 32) for w in widths]


# --------------------------------------------------------------------------- the cost of a batch


def test_the_cost_of_a_batch_is_found_from_its_curve() -> None:
    fitted = fit_cost(curve())
    assert (fitted.fixed_ns, fitted.per_token_ns) == (pytest.approx(2e6), pytest.approx(1e4))


@given(st.floats(1e3, 1e9), st.floats(1, 1e6), st.lists(st.floats(0.9, 1.1), min_size=12, max_size=12))
def test_the_cost_found_is_near_what_was_measured_and_never_negative(
    fixed: float, per_token: float, noise: list[float]
) -> None:
    exact = curve(BatchCost(fixed, per_token))
    measured = [replace(p, seconds=p.seconds * factor) for p, factor in zip(exact, noise, strict=True)]
    fitted = fit_cost(measured)
    assert fitted.fixed_ns >= 0
    assert fitted.per_token_ns > 0
    assert all(fitted.run_ns(p.rows, p.width) / 1e9 == pytest.approx(p.seconds, rel=0.35) for p in measured)


def test_a_time_that_falls_with_size_counts_as_a_cost_of_beginning() -> None:
    fitted = fit_cost([CurvePoint(1, 8, 0.002, 0), CurvePoint(8, 8, 0.001, 0)])
    assert 0.001e9 <= fitted.fixed_ns <= 0.002e9


def test_a_time_that_grows_faster_than_size_has_no_cost_of_beginning() -> None:
    assert fit_cost([CurvePoint(1, 8, 0.001, 0), CurvePoint(2, 8, 0.003, 0)]).fixed_ns == 0


def test_a_curve_on_which_nothing_ran_has_no_cost() -> None:
    with pytest.raises(ValueError, match="could be run"):
        fit_cost([CurvePoint(1, 8, math.inf, 0)])


# --------------------------------------------------------------------------- the choice at deploy


def test_without_a_target_the_largest_batch_that_fits_is_chosen() -> None:
    chosen = choose_limits(curve(), memory_bytes=GIGABYTE)
    assert (chosen.max_rows, chosen.max_tokens, chosen.max_width) == (32, 4096, 128)
    assert chosen.cost.fixed_ns == pytest.approx(2e6)


def test_a_margin_of_the_memory_stays_free() -> None:
    exactly = 4096 * 100_000
    assert choose_limits(curve(), memory_bytes=exactly, margin=0).max_tokens == 4096
    assert choose_limits(curve(), memory_bytes=exactly).max_tokens == 2048


def test_a_batch_takes_at_most_half_of_the_latency_target() -> None:
    chosen = choose_limits(curve(), memory_bytes=GIGABYTE, latency_target_seconds=0.025)
    assert (chosen.max_rows, chosen.max_tokens) == (32, 1024)


def test_the_longest_row_is_accepted_even_where_it_alone_misses_the_target() -> None:
    chosen = choose_limits(curve(), memory_bytes=GIGABYTE, latency_target_seconds=0.005)
    assert (chosen.max_tokens, chosen.longest) == (32, 128)


def test_a_target_that_not_even_a_single_row_meets_leaves_single_rows() -> None:
    chosen = choose_limits(curve(), memory_bytes=GIGABYTE, latency_target_seconds=0.001)
    assert (chosen.max_rows, chosen.capacity(8), chosen.longest) == (1, 1, 128)


def test_rows_that_all_have_one_size_are_only_counted() -> None:
    chosen = choose_limits(curve(widths=(1,)), memory_bytes=GIGABYTE, lengths_differ=False)
    assert (chosen.max_rows, chosen.max_tokens) == (32, None)


def test_texts_are_limited_by_their_tokens_even_where_only_one_length_could_be_measured() -> None:
    chosen = choose_limits(curve(widths=(8,)), memory_bytes=GIGABYTE)
    assert chosen.max_tokens == 256


def test_a_batch_that_ran_out_of_memory_bounds_the_choice() -> None:
    measured = [replace(p, seconds=math.inf) if p.tokens > 1000 else p for p in curve()]
    assert choose_limits(measured, memory_bytes=GIGABYTE).max_tokens == 512


def test_a_device_that_holds_not_one_row_is_said_to_be_too_small() -> None:
    with pytest.raises(WarmUpFailed, match="Not one measured batch fits"):
        choose_limits(curve(), memory_bytes=1000)


@given(
    st.lists(
        st.builds(CurvePoint, st.integers(1, 64), st.integers(1, 64), st.floats(0.001, 1), st.integers(0, 100)),
        min_size=1, max_size=20,
    ),
    st.none() | st.floats(0.001, 2),
)  # fmt: skip
def test_every_measured_batch_within_the_limits_fits_and_is_fast_enough(
    measured: list[CurvePoint], target: float | None
) -> None:
    try:
        chosen = choose_limits(measured, memory_bytes=80, latency_target_seconds=target, margin=0)
    except WarmUpFailed:
        assert all(p.n_bytes > 80 for p in measured)
        return
    within = [p for p in measured if p.rows <= chosen.max_rows and p.tokens <= (chosen.max_tokens or math.inf)]
    if chosen.max_rows > 1:
        assert all(p.n_bytes <= 80 and (target is None or p.seconds <= target / 2) for p in within)


# --------------------------------------------------------------------------- production

CALIBRATED = BatchLimits(32, 4096, 512)


class Device:
    """Runs full batches one after the other under limits that adapt, with a time that a test may change."""

    def __init__(self, per_token_ns: float, calibrated: BatchLimits = CALIBRATED) -> None:
        self.adaptive = AdaptiveLimits(calibrated, latency_target_seconds=0.1)
        self.per_token_ns = per_token_ns
        self.now = 0

    @property
    def run_ns(self) -> int:
        now = self.adaptive.limits
        return int((now.max_tokens or now.max_rows) * self.per_token_ns)

    def serve(self, seconds: float) -> list[int]:
        """How long each batch took."""
        times, until = [], self.now + seconds * SECOND
        while self.now < until:
            times.append(self.run_ns)
            self.now += times[-1]
            self.adaptive.observe(times[-1], self.now)
        return times


def test_limits_stay_as_calibrated_while_the_target_is_met() -> None:
    device = Device(per_token_ns=10_000)
    device.serve(60)
    assert device.adaptive.limits == CALIBRATED


def test_limits_are_lowered_until_batches_take_half_of_the_target_again() -> None:
    device = Device(per_token_ns=40_000)
    assert device.run_ns > 0.1 * SECOND
    device.serve(10)
    times = device.serve(120)
    assert sum(took > 0.05 * SECOND for took in times) < 0.2 * len(times)
    assert 0.03 * SECOND < min(times) < max(times) < 0.055 * SECOND


def test_limits_come_back_step_by_step_when_the_device_does() -> None:
    device = Device(per_token_ns=40_000)
    device.serve(10)
    device.per_token_ns = 10_000
    times = device.serve(70)
    assert all(0 <= later - earlier < 0.02 * max(times) for earlier, later in pairwise(times))
    assert device.adaptive.limits == CALIBRATED


def test_limits_are_lowered_at_once_however_long_all_was_well() -> None:
    device = Device(per_token_ns=10_000)
    device.serve(100)
    device.per_token_ns = 40_000
    device.serve(3)
    assert (device.adaptive.limits.max_tokens or 0) < 0.6 * 4096


def test_single_misses_change_nothing() -> None:
    adaptive = AdaptiveLimits(CALIBRATED, latency_target_seconds=0.1)
    for number in range(1_000):
        took = SECOND if number % 50 == 0 else SECOND // 100
        assert not adaptive.observe(took, number * SECOND // 20)


def test_without_a_target_no_time_is_too_long() -> None:
    adaptive = AdaptiveLimits(CALIBRATED)
    assert not any(adaptive.observe(100 * SECOND, number * SECOND) for number in range(100))


def test_what_ran_out_of_memory_is_a_ceiling_for_an_hour() -> None:
    device = Device(per_token_ns=12_000)
    device.serve(1)
    assert device.adaptive.out_of_memory(32, 2048, device.now)
    assert device.adaptive.limits.max_tokens == 1024
    device.serve(3_590)
    assert device.adaptive.limits.max_tokens == 1024
    device.serve(20)
    assert device.adaptive.limits == CALIBRATED


def test_what_ran_out_of_memory_counts_rows_where_tokens_are_not_limited() -> None:
    adaptive = AdaptiveLimits(BatchLimits(32))
    adaptive.out_of_memory(20, 20, 0)
    assert adaptive.limits == BatchLimits(10)


@given(
    st.lists(st.tuples(st.sampled_from(["fast", "slow", "memory"]), st.integers(1, 3 * SECOND)), max_size=100),
    st.sampled_from([CALIBRATED, BatchLimits(1), BatchLimits(7), BatchLimits(3, 5, 9)]),
)
def test_limits_are_never_beyond_the_calibrated_ones_nor_below_a_single_row(
    events: list[tuple[str, int]], calibrated: BatchLimits
) -> None:
    adaptive, now = AdaptiveLimits(calibrated, latency_target_seconds=0.1), 0
    for event, passed in events:
        now += passed
        before = adaptive.limits
        if event == "memory":
            rows = before.max_rows
            changed = adaptive.out_of_memory(rows, min(rows * 100, before.max_tokens or rows), now)
        else:
            changed = adaptive.observe(SECOND if event == "slow" else 1, now)
        after = adaptive.limits
        assert changed == (after != before)
        assert 1 <= after.max_rows <= calibrated.max_rows
        assert (after.max_tokens is None) == (calibrated.max_tokens is None)
        assert 1 <= (after.max_tokens or 1) <= (calibrated.max_tokens or 1)
        assert after.longest == calibrated.longest


def test_limits_that_allow_nothing_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        BatchLimits(0)
