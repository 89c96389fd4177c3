"""Numbers in answers: the same values whichever way they are written."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from seaway.wire.numbers import FEW, write_numbers

DTYPES = ["f2", "f4", "f8", ">f4", "i1", "i2", ">i4", "i8", "u1", "u2", "u4", "u8", "?"]


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes(min_dims=1, max_dims=3, max_side=9))
    )
)
def test_many_numbers_are_written_as_few_are(array: Any) -> None:
    many = np.concatenate([array] * (FEW // array.size + 1))
    assert many.size > FEW
    # Not the same bytes: one writes 1e16, the other 1e+16.
    assert repr(json.loads(write_numbers(many))) == repr(msgspec.json.decode(msgspec.json.encode(many.tolist())))


@pytest.mark.parametrize("n", [1, FEW, FEW + 1, 1000])
def test_fp32_is_read_again_as_it_was_even_by_those_who_read_fp64(n: int) -> None:
    array = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    assert json.loads(write_numbers(array)) == array.tolist()


@pytest.mark.parametrize("n", [2, FEW + 2])
def test_what_is_not_finite_is_null(n: int) -> None:
    array = np.array([math.nan, -math.inf, *range(n)])
    assert json.loads(write_numbers(array)) == [None, None, *range(n)]


def test_an_array_that_is_not_in_row_order_is_written_in_row_order() -> None:
    array = np.arange(60.0).reshape(6, 10).T
    assert json.loads(write_numbers(array)) == array.tolist()
