"""Rows of many requests in one batch, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.errors import InferenceFailed, InvalidRequest, PayloadTooLarge
from seaway.inputs.base import Padding, Samples
from seaway.serving import collate
from seaway.serving.batch_limits import BatchLimits
from seaway.serving.batching import BatchQueue, QueueBounds
from seaway.serving.collate import Collator
from seaway.serving.predictor import Prepared
from seaway.serving.tickets import Batch, Ticket
from seaway.types import Signature, TensorSpec

IDS, MASK = "input_ids", "attention_mask"
TEXTS = Signature(
    (TensorSpec(IDS, "INT64", (-1, -1)), TensorSpec(MASK, "INT64", (-1, -1))),
    (TensorSpec("sum", "FP32", (-1, 1)), TensorSpec("states", "FP32", (-1, -1, 2))),
)
SEQUENCES = {"states": (1,)}
PADDING = Padding({IDS: 9, MASK: 0}, MASK, 512)
NUMBERS = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 3)),))


def prepared(feeds: dict[str, Any], names: tuple[str, ...]) -> Prepared:
    rows = len(next(iter(feeds.values())))
    return Prepared(Samples((feeds,), rows, False), names, None, "")


def text(lengths: list[int], first: int, width: int | None = None) -> Prepared:
    """Rows that count upwards from `first`, each of its length."""
    width = width or max(lengths)
    ids, mask = np.zeros((len(lengths), width), np.int64), np.zeros((len(lengths), width), np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = first + row
        mask[row, :length] = 1
    return prepared({IDS: ids, MASK: mask}, ("sum", "states"))


def model(feeds: dict[str, Any]) -> list[Any]:
    """What each row says of itself, padding masked: the sum of its ids, and each id twice."""
    ids = feeds[IDS] * feeds[MASK]
    return [ids.sum(1, keepdims=True).astype(np.float32), np.repeat(ids[:, :, None], 2, 2).astype(np.float32)]


class Payload:
    def __init__(self, rows: Any) -> None:
        self.rows = rows


def ticket(collator: Collator, request: Prepared) -> Ticket:
    rows = collator.describe(request)
    return Ticket(rows.key, request.rows, 0, 10**18, rows.lengths, n_bytes=rows.n_bytes, payload=Payload(rows))


def batches(tickets: list[Ticket], max_rows: int, max_tokens: int | None = None) -> list[Batch]:
    queue = BatchQueue(BatchLimits(max_rows, max_tokens, 512), QueueBounds(1000, 10_000, 1 << 30))
    for one in tickets:
        queue.put(one)
    found = []
    while (batch := queue.take(1, device_free=True)) is not None:
        found.append(batch)
    return found


@given(
    st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=6), min_size=1, max_size=8),
    st.integers(1, 9), st.integers(0, 5),
)  # fmt: skip
def test_every_request_gets_the_outputs_of_its_own_rows_however_they_were_batched(
    requests: list[list[int]], max_rows: int, spare: int
) -> None:
    collator = Collator(PADDING, SEQUENCES)
    sent = [text(lengths, 100 * number, max(lengths) + spare) for number, lengths in enumerate(requests)]
    tickets = [ticket(collator, request) for request in sent]
    for batch in batches(tickets, max_rows, 40):
        collator.scatter(batch, model(collator.stack(batch)))
    for request, one in zip(sent, tickets, strict=True):
        for found, expected in zip(one.payload.rows.outputs, model(request.samples.feeds[0]), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_texts_are_padded_to_the_longest_of_the_batch_and_no_further() -> None:
    collator = Collator(PADDING, SEQUENCES)
    (batch,) = batches([ticket(collator, text([2], 1, width=7)), ticket(collator, text([3], 5))], 8)
    feeds = collator.stack(batch)
    assert feeds[IDS].shape == (2, 3)
    assert sorted(feeds[IDS].tolist()) == [[1, 1, 0], [5, 5, 5]]
    assert sorted(feeds[MASK].sum(1).tolist()) == [2, 3]


def test_what_is_too_short_for_the_batch_is_filled_with_what_the_tokenizer_pads_with() -> None:
    collator = Collator(PADDING, SEQUENCES)
    (batch,) = batches([ticket(collator, text([1], 1)), ticket(collator, text([3], 5))], 8)
    assert sorted(collator.stack(batch)[IDS].tolist()) == [[1, 9, 9], [5, 5, 5]]


def test_only_rows_of_equal_shape_and_type_ride_together() -> None:
    collator = Collator(None, SEQUENCES)
    shapes = [np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float64)]
    keys = {collator.describe(prepared({"x": array}, ("y",))).key for array in shapes}
    assert len(keys) == 3


def test_requests_for_different_outputs_do_not_ride_together() -> None:
    collator = Collator(PADDING, SEQUENCES)
    both, one = text([2], 1), text([2], 1)
    assert collator.describe(both).key != collator.describe(prepared(one.samples.feeds[0], ("sum",))).key


def test_texts_of_any_length_ride_together() -> None:
    collator = Collator(PADDING, SEQUENCES)
    assert collator.describe(text([2, 5], 1)).key == collator.describe(text([9], 1)).key


def test_a_mask_without_any_token_counts_as_full() -> None:
    collator = Collator(PADDING, SEQUENCES)
    request = text([1], 1, width=4)
    request.samples.feeds[0][MASK][:] = 0
    assert collator.describe(request).lengths == [4]


def test_a_batch_is_a_copy_since_the_callers_may_leave_with_their_bodies() -> None:
    collator = Collator(None, SEQUENCES)
    array = np.ones((1, 3), np.float32)
    (batch,) = batches([ticket(collator, prepared({"x": array}, ("y",)))], 8)
    stacked = collator.stack(batch)["x"]
    array[:] = 7
    assert stacked.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("feeds", "problem"),
    [
        ({"x": np.zeros((0, 3), np.float32)}, "no samples"),
        ({"x": np.zeros((2, 3), np.float32), "z": np.zeros((1, 3), np.float32)}, "first axis of every input"),
    ],
)
def test_what_does_not_count_samples_is_refused(feeds: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        Collator(None, SEQUENCES).describe(prepared(feeds, ("y",)))


def test_texts_whose_inputs_differ_in_length_are_refused() -> None:
    feeds = {IDS: np.ones((1, 3), np.int64), MASK: np.ones((1, 4), np.int64)}
    with pytest.raises(InvalidRequest, match="of one shape"):
        Collator(PADDING, SEQUENCES).describe(prepared(feeds, ("sum",)))


def test_a_model_that_gives_fewer_rows_than_it_got_fails_the_batch() -> None:
    collator = Collator(None, SEQUENCES)
    (batch,) = batches([ticket(collator, prepared({"x": np.ones((2, 3), np.float32)}, ("y",)))], 8)
    with pytest.raises(InferenceFailed, match="for 2 samples"):
        collator.scatter(batch, [np.zeros((1, 3), np.float32)])


def test_every_axis_that_is_as_long_as_the_texts_is_cut_to_the_request_s_own() -> None:
    collator = Collator(PADDING, {"states": (1, 3)})
    short, long = ticket(collator, text([2], 1)), ticket(collator, text([5], 2))
    (batch,) = batches([short, long], 8)
    collator.scatter(batch, [np.zeros((2, 1)), np.ones((2, 5, 4, 5))])
    assert [one.payload.rows.outputs[1].shape for one in (short, long)] == [(1, 2, 4, 2), (1, 5, 4, 5)]


def test_a_mask_of_other_numbers_is_refused_since_padding_would_change_what_they_mean() -> None:
    request = text([2], 1)
    request.samples.feeds[0][MASK][0, 0] = 9
    with pytest.raises(InvalidRequest, match="0 and 1 only"):
        Collator(PADDING, SEQUENCES).describe(request)


def test_outputs_too_large_to_keep_are_refused_to_their_own_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collate, "MAX_OUTPUT_BYTES", 100)
    collator = Collator(None, {})
    large = ticket(collator, prepared({"x": np.ones((9, 3), np.float32)}, ("y",)))
    small = ticket(collator, prepared({"x": np.ones((2, 3), np.float32)}, ("y",)))
    refused = []
    for batch in batches([small, large], 4):
        refused += collator.scatter(batch, [np.ones((batch.rows, 3), np.float32)])
    assert {id(one) for one, _ in refused} == {id(large)}
    assert all(isinstance(error, PayloadTooLarge) for _, error in refused)
    assert small.payload.rows.outputs[0].shape == (2, 3)


def test_what_padding_would_make_too_large_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collate, "MAX_OUTPUT_BYTES", 8_000)
    collator = Collator(PADDING, SEQUENCES)
    wide, short = ticket(collator, text([1], 1, width=512)), ticket(collator, text([1], 1))
    (batch,) = batches([wide, short], 8)
    ((refused, error),) = collator.scatter(batch, [np.ones((2, 1), np.float64), np.ones((2, 1, 2), np.float64)])
    assert refused is wide
    assert isinstance(error, PayloadTooLarge)
    assert not wide.payload.rows.outputs
    assert short.payload.rows.outputs[1].shape == (1, 1, 2)


def test_outputs_that_are_there_already_are_never_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collate, "MAX_OUTPUT_BYTES", 10)
    collator = Collator(None, {})
    (batch,) = batches([ticket(collator, prepared({"x": np.ones((2, 3), np.float32)}, ("y",)))], 8)
    assert collator.scatter(batch, [np.ones((2, 3), np.float32)]) == []


def test_padding_beyond_what_a_text_may_have_is_refused_whatever_the_mask_says() -> None:
    with pytest.raises(PayloadTooLarge, match="513 tokens long; 512 are allowed"):
        Collator(PADDING, SEQUENCES).describe(text([1], 1, width=513))


def test_rows_of_any_size_take_as_much_of_a_batch_as_they_have_numbers() -> None:
    collator = Collator(None, {}, sized=True)
    small, large = np.ones((3, 2), np.float32), np.ones((2, 40), np.float32)
    tickets = [ticket(collator, prepared({"x": array}, ("y",))) for array in (small, large, large)]
    assert [one.lengths for one in tickets] == [[2, 2, 2], [40, 40], [40, 40]]
    found = batches(tickets, 32, max_tokens=80)
    assert sorted((batch.rows, batch.tokens) for batch in found) == [(2, 80), (2, 80), (3, 6)]


def test_texts_that_must_not_be_padded_are_refused_where_a_request_has_padded_them() -> None:
    def request(*lengths: int) -> Prepared:
        mask = np.array([[1] * length + [0] * (max(lengths) - length) for length in lengths])
        samples = Samples(({IDS: mask * 7},), len(lengths), False, masks=(mask,))
        return Prepared(samples, ("sum",), None, "")

    collator = Collator(None, {}, sized=True, even=True)
    assert collator.describe(request(3, 3)).lengths == [3, 3]
    with pytest.raises(InvalidRequest, match="one by one"):
        collator.describe(request(3, 2))
    assert Collator(None, {}).describe(request(3, 2)).lengths is None, "all have the length of the graph"


def test_texts_whose_outputs_can_t_be_cut_are_as_long_as_they_were_padded() -> None:
    collator = Collator(PADDING, None, sized=True)
    tickets = [ticket(collator, text(lengths, 1)) for lengths in ([5, 3], [5], [4])]
    assert [one.lengths for one in tickets] == [[5, 5], [5], [4]]
    assert [(batch.rows, batch.width) for batch in batches(tickets, 8)] == [(3, 5), (1, 4)]


def test_rows_of_other_lengths_never_ride_along_where_padding_changes_answers() -> None:
    collator = Collator(PADDING, SEQUENCES)
    queue = BatchQueue(BatchLimits(32, 4096, exact=True, bucketing=False), QueueBounds(100, 1000, 1 << 30))
    for lengths in ([3, 5], [5], [3], [4]):
        queue.put(ticket(collator, text(lengths, 10)))
    found = []
    while (batch := queue.take(0, device_free=True)) is not None:
        found.append((batch.width, batch.rows, batch.padding))
        queue.done(batch)
    assert sorted(found) == [(3, 2, 0), (4, 1, 0), (5, 2, 0)]
