"""How far two answers are apart."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seaway.serving.parity import Parity, combine, compare

ONE = np.array([[1.0, 2.0], [0.0, 0.0]])


def test_equal_answers_are_at_no_distance() -> None:
    found = compare([ONE], [ONE.copy()])

    assert (found.max_difference, found.rows) == (0.0, 2)
    assert found.min_cosine == pytest.approx(1.0)


def test_the_worst_number_and_the_worst_row_count() -> None:
    found = compare([np.array([[1.0, 0.0], [1.0, 0.0]])], [np.array([[1.0, 0.1], [0.5, 0.5]])])

    assert found.max_difference == 0.5
    assert found.min_cosine == pytest.approx(math.sqrt(0.5))
    assert found.within(max_difference=0.5, min_cosine=0.7)
    assert not found.within(max_difference=0.4, min_cosine=0.7)
    assert not found.within(max_difference=0.5, min_cosine=0.8)


@pytest.mark.parametrize("other", [math.nan, math.inf])
def test_what_is_no_number_is_infinitely_far_from_one(other: float) -> None:
    found = compare([np.array([[1.0, 2.0]])], [np.array([[1.0, other]])])

    assert found.max_difference == math.inf
    assert found.min_cosine == -1


def test_the_same_nan_on_both_sides_is_no_difference() -> None:
    assert compare([np.array([[math.nan, math.inf]])], [np.array([[math.nan, math.inf]])]).max_difference == 0


def test_a_vector_that_vanishes_has_lost_its_direction() -> None:
    assert compare([np.array([[1.0, 2.0]])], [np.zeros((1, 2))]).min_cosine == -1


def test_other_shapes_are_no_parity_at_all() -> None:
    assert not compare([ONE], [ONE[:1]]).within(max_difference=1e9, min_cosine=-0.5)


def test_of_several_runs_the_worst_counts() -> None:
    assert combine([Parity(0.1, 0.9, 2), Parity(0.2, 0.99, 3)]) == Parity(0.2, 0.9, 5)


def test_outputs_without_rows_are_compared_too() -> None:
    assert compare([np.array(3.0), np.zeros((0, 4))], [np.array(3.5), np.zeros((0, 4))]) == Parity(0.5, 1.0, 1)
