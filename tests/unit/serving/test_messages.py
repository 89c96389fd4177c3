import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.serving import messages

FRAMES = st.lists(
    st.tuples(st.integers(1, 7), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=300))
)


@given(FRAMES, st.lists(st.integers(1, 64), min_size=1))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(frames, cuts) -> None:
    stream = b"".join(
        messages.pack(kind, messages.Hello(3), request_id=number, deadline_ns=deadline, size=len(body)) + body
        for kind, number, deadline, body in frames
    )
    reader = messages.FrameReader()
    seen = []
    at = turn = 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        turn += 1
        for frame in reader.feed(stream[at : at + step]):
            assert messages.decode_hello(frame.meta).index == 3
            seen.append((frame.kind, frame.request_id, frame.deadline_ns, bytes(frame.body)))
        at += step
    assert seen == frames


def test_a_frame_over_the_limit_breaks_the_stream() -> None:
    reader = messages.FrameReader(limit_bytes=100)
    with pytest.raises(messages.FrameTooLarge):
        list(reader.feed(messages.pack(messages.PREDICT, size=1000)))


def test_a_large_frame_in_many_pieces_is_copied_once() -> None:
    body = bytes(4 << 20)
    reader = messages.FrameReader()
    stream = messages.pack(messages.ANSWER, request_id=7, size=len(body)) + body
    out = [frame for at in range(0, len(stream), 1 << 16) for frame in reader.feed(stream[at : at + (1 << 16)])]
    assert [(frame.request_id, len(frame.body)) for frame in out] == [(7, len(body))]


answers = st.builds(
    messages.Answer,
    error=st.none() | st.tuples(st.text(), st.text()),
    retry_after_seconds=st.floats(0, 10),
    header_length=st.none() | st.integers(0, 1000),
    content_type=st.text(),
    content_encoding=st.text(),
    queue_ns=st.integers(0, 2**62), input_ns=st.integers(0, 2**62),
    infer_ns=st.integers(0, 2**62), output_ns=st.integers(0, 2**62), rows=st.integers(0, 10**9),
)  # fmt: skip


@given(answers)
def test_an_answer_survives_its_frame(answer: messages.Answer) -> None:
    (frame,) = messages.FrameReader().feed(messages.pack(messages.ANSWER, answer))
    assert messages.decode_answer(frame.meta) == answer
