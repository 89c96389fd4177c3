import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.errors import InvalidRequest
from seaway.serving.ids import PredictionId, PredictionIds, decode, encode

parts = st.builds(
    PredictionId,
    time_ms=st.integers(0, 2**48 - 1),
    revision=st.integers(0, 2**32 - 1),
    arm=st.integers(0, 255),
    gateway=st.integers(0, 255),
    counter=st.integers(0, 2**32 - 1),
)


@given(parts)
def test_an_id_says_again_what_went_into_it(value: PredictionId) -> None:
    assert decode(encode(value)) == value


@given(parts, parts)
def test_ids_sort_by_time(one: PredictionId, two: PredictionId) -> None:
    if one.time_ms < two.time_ms:
        assert encode(one) < encode(two)


@given(parts, st.lists(st.tuples(st.integers(0, 2**48 - 1), st.integers(0, 2**32 - 1)), min_size=1, max_size=5))
def test_ids_written_one_after_another_are_those_written_alone(
    value: PredictionId, following: list[tuple[int, int]]
) -> None:
    written = PredictionIds(value.revision, value.arm, value.gateway)
    for time_ms, counter in [(value.time_ms, value.counter), *following]:
        alone = PredictionId(time_ms, value.revision, value.arm, value.gateway, counter)
        assert written.encode(time_ms, counter) == encode(alone)


@given(parts, st.integers(0, 2**48), st.integers(0, 2**32))
def test_time_and_counter_may_overflow_as_they_do_alone(value: PredictionId, more_ms: int, more: int) -> None:
    time_ms, counter = value.time_ms + more_ms, value.counter + more
    alone = PredictionId(time_ms, value.revision, value.arm, value.gateway, counter)
    assert PredictionIds(value.revision, value.arm, value.gateway).encode(time_ms, counter) == encode(alone)


@given(st.text(max_size=40))
def test_any_text_is_an_id_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        assert encode(decode(text)) == text.upper()


@pytest.mark.parametrize("text", ["", "x", "8" + "0" * 25, "0" * 27, "U" * 26])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        decode(text)
