"""The verdict of the guard: a function of two ratios."""

from __future__ import annotations

import pytest

from benchmarks import guard


@pytest.mark.parametrize("ratio", [0.5, 3.0, 3.99])
def test_up_to_a_third_more_than_the_reference_passes(ratio: float) -> None:
    assert guard.verdict(ratio, reference=3.0) == ""


def test_more_than_a_third_fails_and_says_what_to_do() -> None:
    assert "--update" in guard.verdict(4.01, reference=3.0)


def test_windows_in_which_others_were_busy_do_not_move_the_ratio() -> None:
    quiet = [guard.Pair(20.0, 60.0, 0.0)] * guard.QUIET_PAIRS
    measured = guard.Measured((*[guard.Pair(20.0, 200.0, 1.5)] * 20, *quiet))
    assert measured.ratio == pytest.approx(3.0)


def test_one_odd_quiet_window_does_not_move_the_ratio() -> None:
    measured = guard.Measured((*[guard.Pair(20.0, 60.0, 0.0)] * 4, guard.Pair(20.0, 600.0, 0.0)))
    assert measured.ratio == pytest.approx(3.0)


def test_the_committed_reference_can_be_read() -> None:
    assert guard.reference() > 0
