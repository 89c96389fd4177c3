"""HTTP as nobody should speak it, on the hot paths of a real server, beside uvicorn with its own parser.

The gateway may take a request before the parser does (ADR 6). Whatever the bytes: it is never more permissive than the
parser, sees the same requests, refuses in our shape, and is as it was afterwards.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from support.hostile_http import (
    BODY_LIMIT,
    BROKEN,
    HOST,
    INFER,
    LAST,
    LIVE,
    PATHS,
    PREDICT,
    Case,
    HotPath,
    chunk,
    head,
    smuggled,
    table,
)
from support.rawhttp import Answer, RawConnection, exchange
from support.reference_http import ReferenceServer, read_stream
from support.torture import BODY_SECONDS, WIDE, Bench, TortureServer, as_expected, check

PLACEMENTS = ["worker", "inline"]
"""Where the model `scale` runs; the same must hold for each."""

pytestmark = pytest.mark.timeout(120)

DEADLINE_SECONDS = 15.0
"""By then a connection that makes no progress has been closed."""
MEMORY_BYTES = 100 << 20
"""So much may a gateway's memory grow at its highest (TRUST, section 3)."""


@pytest.fixture(scope="module")
def reference() -> Iterator[ReferenceServer]:
    with ReferenceServer() as one:
        yield one


@pytest.fixture(scope="module", params=PLACEMENTS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TortureServer]:
    with TortureServer(tmp_path_factory.mktemp("torture"), request.param) as one:
        yield one


@pytest.fixture(scope="module")
def bench(server: TortureServer, reference: ReferenceServer) -> Iterator[Bench]:
    with contextlib.closing(Bench(server, reference)) as both:
        yield both


@pytest.fixture(autouse=True)
def as_before(server: TortureServer) -> Iterator[None]:
    """After every test: valid requests are answered, and by the same processes."""
    yield
    assert server.serves()
    died = server.died()
    assert not died, f"The processes of {died} ended."


both_paths = pytest.mark.parametrize("hot", PATHS, ids=lambda hot: hot.name)


# ------------------------------------------------------------------------------------------------- beside the reference


@pytest.mark.parametrize(
    ("hot", "case"), [pytest.param(hot, case, id=f"{hot.name}: {case.name}") for hot in PATHS for case in table(hot)]
)
def test_an_odd_request_gets_no_more_than_from_the_reference(hot: HotPath, case: Case, bench: Bench) -> None:
    verdict = bench.try_(case.segments)

    check(verdict)
    as_expected(verdict.seaway, case.expected)


@both_paths
def test_what_is_refused_is_refused_wherever_it_is_cut(hot: HotPath, bench: Bench) -> None:
    for case in table(hot):
        (whole, *more) = case.segments
        if case.expected == BROKEN and not more and len(whole) < 1000:
            for at in sorted({1, 5, len(hot.line) + 1, whole.find(b"\r\n\r\n") + 2, len(whole) // 2, len(whole) - 1}):
                if 0 < at < len(whole):
                    segments = (whole[:at], whole[at:])
                    outcome = bench.at_seaway(segments, read_stream(segments))
                    assert outcome.refused, (case, at, outcome)
                    assert not outcome.kept, (case, at, outcome)


@both_paths
@pytest.mark.parametrize("cut", [False, True], ids=["in one segment", "at a segment's beginning"])
def test_a_request_that_is_hidden_in_another_is_never_answered(hot: HotPath, cut: bool, bench: Bench) -> None:
    inner = hot.request(b"X-Inner: yes", first=77)
    for name, outer in smuggled(hot, inner):
        before, _, after = outer.partition(inner)
        segments = [part for part in (before, inner + after) if part] if cut else [outer]
        verdict = bench.try_(segments)
        check(verdict)
        if len(verdict.reference.answers) < 2:
            assert len(verdict.seaway.answers) < 2, (name, verdict)
            assert not [answer for answer in verdict.seaway.answers if b"154." in answer.body], (name, verdict)


@both_paths
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_the_body_of_a_request_that_asks_for_another_protocol_is_no_request(
    hot: HotPath, protocol: bytes, server: TortureServer
) -> None:
    """Stricter than the reference, which forgets the Content-Length of a request with `Upgrade`."""
    inner = hot.request(first=77)
    outer = head(hot.line, HOST, b"Connection: Upgrade", b"Upgrade: " + protocol, b"Content-Length: %d" % len(inner))
    with server.connect() as connection:
        connection.send(outer)
        server.pause()
        connection.send(inner)
        server.pause()
        connection.send(LIVE)
        answers: list[Answer] = []
        while (answer := connection.read()) is not None and answer.json != {"live": True}:
            answers.append(answer)
    assert not [answer for answer in answers if b"154." in answer.body], answers
    assert len(answers) < 2, answers


# ------------------------------------------------------------------------------------------------- cut into pieces


def said(answers: Sequence[Answer]) -> list[tuple[int, Any]]:
    """Statuses and outputs, without what differs from one request to the next."""
    return [(a.status, a.json.get("outputs", a.json.get("live", a.json.get("error")))) for a in answers]


def streams() -> Iterator[tuple[str, bytes]]:
    for hot in PATHS:
        yield f"{hot.name}", hot.request()
        yield f"{hot.name}, chunked", hot.chunked(chunk(hot.body()) + LAST)
        yield f"{hot.name}, then ordinary", hot.request() + LIVE
        yield f"ordinary, then {hot.name}", LIVE + hot.request()
    yield "two hot ones", PREDICT.request() + INFER.request(first=5)
    yield "closing", PREDICT.request(b"Connection: close")
    yield "two lengths", head(PREDICT.line, PREDICT.length(), PREDICT.length()) + PREDICT.body()


@pytest.mark.parametrize("stream", [pytest.param(stream, id=name) for name, stream in streams()])
def test_wherever_a_stream_is_cut_the_answers_are_the_same(stream: bytes, bench: Bench) -> None:
    reading = read_stream([stream])
    whole = bench.at_seaway([stream], reading)
    for at in range(1, len(stream)):
        parts = bench.at_seaway([stream[:at], stream[at:]], reading)
        assert (said(parts.answers), parts.kept) == (said(whole.answers), whole.kept), f"cut at {at}: {stream[:at]!r}"


@pytest.mark.parametrize("stream", [pytest.param(stream, id=name) for name, stream in streams()])
def test_a_stream_that_comes_byte_by_byte_gets_the_same_answers(stream: bytes, bench: Bench) -> None:
    reading = read_stream([stream])
    whole = bench.at_seaway([stream], reading)
    parts = bench.at_seaway([stream[at : at + 1] for at in range(len(stream))], reading)
    assert (said(parts.answers), parts.kept) == (said(whole.answers), whole.kept)


# ------------------------------------------------------------------------------------------------- one after the other


def mixed(count: int) -> tuple[bytes, list[Any]]:
    """So many requests, hot and ordinary in turn, and what they must get."""
    requests: list[bytes] = []
    answers: list[Any] = []
    for i in range(count):
        kind = i % 4
        if kind == 1:
            requests.append(LIVE)
            answers.append((200, True))
        elif kind == 3:
            body = PREDICT.body(i)
            requests.append(PREDICT.chunked(chunk(body[:5]) + chunk(body[5:]) + LAST))
            answers.append((200, [2 * i, 4, 6]))
        else:
            requests.append(PREDICT.request(b"X-Number: %d" % i, first=i))
            answers.append((200, [2 * i, 4, 6]))
    return b"".join(requests), answers


@pytest.mark.parametrize("count", [2, 10, 100])
@pytest.mark.parametrize("size", [1 << 20, 1000, 97], ids=["in one segment", "in segments", "in small segments"])
def test_pipelined_requests_are_answered_in_their_order(count: int, size: int, server: TortureServer) -> None:
    stream, expected = mixed(count)
    segments = [stream[at : at + size] for at in range(0, len(stream), size)]

    outcome = exchange(server.address, segments, answers=count, then="probe", pause=server.pause)

    assert said(outcome.answers) == expected
    assert outcome.kept


@pytest.mark.parametrize("count", [2, 10, 100])
def test_pipelined_hot_requests_are_answered_in_their_order(count: int, server: TortureServer) -> None:
    stream = b"".join(PREDICT.request(first=i) for i in range(count))

    outcome = exchange(server.address, [stream], answers=count, then="probe", pause=server.pause)

    assert said(outcome.answers) == [(200, [2 * i, 4, 6]) for i in range(count)]
    assert outcome.kept


def patient(turns: int = 60_000, *fields: bytes) -> bytes:
    """A request that keeps a worker busy for a while."""
    body = json.dumps({"inputs": {"turns": [turns], "x": [4.0]}}).encode()
    return head(b"POST /predict/patient HTTP/1.1", HOST, *fields, b"Content-Length: %d" % len(body)) + body


def patient_ordinary() -> bytes:
    body = json.dumps({"inputs": {"turns": [60_000], "x": [4.0]}}).encode()
    return head(b"POST /predict/patient HTTP/1.1", HOST, b"Transfer-Encoding: chunked") + chunk(body) + LAST


@pytest.mark.parametrize("slow", [patient(), patient_ordinary()], ids=["hot", "ordinary"])
@pytest.mark.parametrize("cut", [False, True], ids=["in one segment", "in segments"])
def test_what_comes_behind_a_slow_request_waits_for_its_answer(slow: bytes, cut: bool, server: TortureServer) -> None:
    stream = [slow, PREDICT.request(first=5), LIVE, PREDICT.chunked(chunk(PREDICT.body(6)) + LAST), INFER.request()]
    segments = stream if cut else [b"".join(stream)]

    outcome = exchange(server.address, segments, answers=len(stream), then="probe", pause=server.pause)

    assert said(outcome.answers[:4]) == [(200, [4]), (200, [10, 4, 6]), (200, True), (200, [12, 4, 6])]
    assert outcome.answers[4].json["outputs"][0]["data"] == [2, 4, 6]
    assert outcome.kept


@pytest.mark.parametrize("slow", [patient(), patient_ordinary()], ids=["hot", "ordinary"])
def test_garbage_behind_a_slow_request_closes_the_connection(slow: bytes, server: TortureServer) -> None:
    outcome = exchange(server.address, [slow, b"\x00garbage\r\n\r\n"], answers=2, then="wait", pause=server.pause)

    assert outcome.statuses in ([200, 400], [400])
    assert not outcome.kept


def test_nothing_is_answered_behind_a_slow_request_that_says_close(server: TortureServer) -> None:
    segments = [patient(60_000, b"Connection: close"), PREDICT.request(first=77)]

    outcome = exchange(server.address, segments, answers=1, then="wait", pause=server.pause)

    assert said(outcome.answers) == [(200, [4])]


# ------------------------------------------------------------------------------------------------- leaving


@pytest.mark.parametrize(
    ("stream", "count"),
    [
        pytest.param(PREDICT.request(), 1, id="predict"),
        pytest.param(INFER.request(), 1, id="infer"),
        pytest.param(PREDICT.chunked(chunk(PREDICT.body()) + LAST), 1, id="chunked"),
        pytest.param(LIVE, 1, id="ordinary"),
        pytest.param(patient(), 1, id="slow"),
        pytest.param(patient_ordinary(), 1, id="slow, chunked"),
        pytest.param(mixed(10)[0], 10, id="pipelined"),
        pytest.param(patient() + PREDICT.request(), 2, id="behind a slow one"),
    ],
)
def test_a_client_that_has_said_everything_gets_its_answers(stream: bytes, count: int, server: TortureServer) -> None:
    """RFC 9112 9.6: a closed sending side is no reason not to answer."""
    with server.connect() as connection:
        connection.send(stream)
        connection.half_close()
        answers = connection.read_to_the_end()
    assert [answer.status for answer in answers] == [200] * count


@both_paths
def test_a_client_that_leaves_within_its_body_costs_nothing(hot: HotPath, server: TortureServer) -> None:
    for stream in (hot.request(), hot.chunked(chunk(hot.body()) + LAST)):
        for at in range(10, len(stream), 7):
            for leave in (RawConnection.close, RawConnection.reset):
                connection = server.connect()
                connection.send(stream[:at])
                leave(connection)
    server.pause()


def endless(*fields: bytes, go: bool = True) -> bytes:
    body = json.dumps({"inputs": {"go": [go], "x": [7.0]}}).encode()
    return head(b"POST /predict/endless HTTP/1.1", HOST, *fields, b"Content-Length: %d" % len(body)) + body


def is_free(server: TortureServer, seconds: float) -> bool:
    """Whether the one engine of `endless` answers the next request in time."""
    with server.connect() as connection:
        connection.send(endless(go=False))
        if not connection.arrived(seconds):
            return False
        answer = connection.read()
    assert answer is not None
    return said([answer]) == [(200, [7])]


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(b"", id="alone"),
        pytest.param(PREDICT.request(), id="with another request behind"),
        pytest.param(b"POST /predict/sc", id="with half a request behind"),
    ],
)
@pytest.mark.parametrize("leave", [RawConnection.close, RawConnection.reset], ids=["close", "reset"])
def test_a_client_that_leaves_while_its_request_runs_frees_the_engine(
    leave: Any, behind: bytes, server: TortureServer
) -> None:
    """Within seconds: a client that only closed its sending side, which looks the same at first, gets its answer."""
    assert is_free(server, 15)
    connection = server.connect()
    connection.send(endless(b"X-Request-Timeout-Seconds: 8") + behind)
    server.pause()
    leave(connection)
    assert is_free(server, 5)


# ------------------------------------------------------------------------------------------------- asking first


@both_paths
def test_who_asks_before_sending_is_told_to_go_on(hot: HotPath, server: TortureServer) -> None:
    request = hot.request(b"Expect: 100-continue")
    at = request.index(b"\r\n\r\n") + 4
    with server.connect() as connection:
        connection.send(request[:at])
        assert connection.read_interim() == 100
        connection.send(request[at:])
        answer = connection.read()
    assert answer is not None
    assert answer.ok


@both_paths
def test_who_asks_before_sending_too_much_is_refused_at_once(hot: HotPath, server: TortureServer) -> None:
    with server.connect() as connection:
        connection.send(head(hot.line, HOST, b"Expect: 100-continue", b"Content-Length: %d" % (BODY_LIMIT + 1)))
        answer = connection.read()
        assert answer is not None
        assert (answer.status, answer.interim, answer.says_close) == (413, (), True)
        assert connection.read() is None


@both_paths
def test_a_body_over_the_limit_is_refused_before_it_is_sent(hot: HotPath, server: TortureServer) -> None:
    lengths = (BODY_LIMIT + 1, 10**12, 2**63 - 1)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in lengths]
        for connection, length in zip(connections, lengths, strict=True):
            connection.send(head(hot.line, HOST, b"Content-Length: %d" % length))
        for connection in connections:
            answer = connection.read()
            assert answer is not None
            assert (answer.status, answer.says_close) == (413, True)
            assert str(BODY_LIMIT) in answer.json["error"]
            assert connection.read() is None


# ------------------------------------------------------------------------------------------------- without end


@pytest.mark.parametrize(
    ("begin", "block"),
    [
        pytest.param(b"POST /predict/", b"s" * 1000, id="path"),
        pytest.param(b"POST /predict/scale?", b"s" * 1000, id="query"),
        pytest.param(PREDICT.line + b"\r\nX-A: ", b"s" * 1000, id="value"),
        pytest.param(PREDICT.line + b"\r\n", b"s" * 1000, id="name"),
        pytest.param(PREDICT.line + b"\r\n", b"X-A: b\r\n" * 125, id="fields"),
        pytest.param(PREDICT.chunked(b""), chunk(b" ") * 200, id="chunks"),
        pytest.param(PREDICT.chunked(chunk(PREDICT.body()) + b"0\r\n"), b"X-A: b\r\n" * 125, id="trailers"),
        pytest.param(PREDICT.chunked(chunk(PREDICT.body()) + b"0\r\nX-A: "), b"s" * 1000, id="trailer's value"),
    ],
)
def test_a_request_without_end_is_refused_before_it_fills_the_memory(
    begin: bytes, block: bytes, server: TortureServer
) -> None:
    with server.memory_growth() as grown, server.connect() as connection:
        taken = connection.send(begin + block * 16_000)
        server.pause()
        closed = not taken or connection.closed_within(2.0)
        more = grown()
    assert closed, f"16 MB were taken, the server waits for more, and has {more >> 20} MB more in memory"
    assert more < MEMORY_BYTES, f"{more >> 20} MB more"


@pytest.mark.parametrize(
    ("begin", "block"),
    [
        pytest.param(b"", b"\r\n" * 500, id="line ends"),
        pytest.param(PREDICT.chunked(b""), b"0" * 1000, id="chunk size"),
        pytest.param(PREDICT.chunked(b"5;a="), b"s" * 1000, id="chunk extension"),
    ],
)
def test_what_nobody_needs_to_keep_is_not_kept(begin: bytes, block: bytes, server: TortureServer) -> None:
    with server.memory_growth() as grown, server.connect() as connection:
        connection.send(begin + block * 16_000)
        server.pause()
        assert grown() < 8 << 20


# ------------------------------------------------------------------------------------------------ slowly, or not at all


def test_connections_that_make_no_progress_are_closed(server: TortureServer) -> None:
    """Silent ones and ones that send a byte each half second; meanwhile everybody else is served."""
    hot = PREDICT.request(b"X-Long: " + b"x" * 200)
    chunked = PREDICT.chunked(chunk(PREDICT.body()) + LAST)
    silent = {
        "hot head": hot[:40],
        "ordinary head": LIVE[:20],
        "request line": b"POST /pre",
        "hot body": hot[:-5],
        "hot body not begun": hot[: -len(PREDICT.body())],
        "chunked body": chunked[:-8],
        "answered, then half a head": LIVE + b"POST /predict",
        "hot, then half a body": PREDICT.request() + hot[:-5],
    }
    dripping = {
        "hot head, dripping": PREDICT.line + b"\r\nX-Long: ",
        "ordinary head, dripping": LIVE[:-2] + b"X-Long: ",
        "hot, then a head, dripping": PREDICT.request() + PREDICT.line + b"\r\nX-Long: ",
    }
    opened = {name: server.connect() for name in (*silent, *dripping)}
    with contextlib.ExitStack() as stack:
        for name, connection in opened.items():
            stack.enter_context(connection)
            connection.send({**silent, **dripping}[name])
        left = _close_in_time(opened, set(dripping), server)
    assert not left


def _close_in_time(opened: dict[str, RawConnection], dripping: set[str], server: TortureServer) -> set[str]:
    """Which of them are still open at the deadline."""
    left = set(opened)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while left and time.monotonic() < deadline:
        for name in sorted(left):
            if opened[name].closed_within(0.5 / len(left)):
                left.discard(name)
            elif name in dripping:
                opened[name].send(b"x")
        assert server.serves()
    return left


def test_a_body_that_stalls_is_refused_soon(server: TortureServer) -> None:
    began = time.monotonic()
    with server.connect() as hot, server.connect() as chunked:
        hot.send(PREDICT.request()[:-5])
        chunked.send(PREDICT.chunked(chunk(PREDICT.body())))
        for connection in (hot, chunked):
            answer = connection.read()
            assert answer is None or answer.status in {408, 504}, answer
            assert answer is None or list(answer.json) == ["error"], answer
    assert time.monotonic() - began >= BODY_SECONDS


def test_a_slow_reader_of_large_answers_stops_nobody_and_fills_no_memory(server: TortureServer) -> None:
    count = 40
    body = b'{"inputs": [[1]]}'
    wide = head(b"POST /predict/wide HTTP/1.1", HOST, b"Content-Length: %d" % len(body)) + body
    with server.memory_growth() as grown, server.connect(receive_buffer=4096) as slow:
        slow.send(wide * count)
        assert slow.arrived(5.0)
        for _ in range(50):
            assert server.serves()
        answers = [slow.read() for _ in range(count)]
        more = grown()
    assert [answer.status for answer in answers if answer] == [200] * count
    assert all(len(answer.json["outputs"][0]) == WIDE for answer in answers[:1] if answer)
    assert more < MEMORY_BYTES, f"{more >> 20} MB more"


def test_idle_connections_and_half_heads_stop_nobody(server: TortureServer) -> None:
    with contextlib.ExitStack() as stack:
        for i in range(300):
            connection = stack.enter_context(server.connect())
            if i % 3:
                connection.send(PREDICT.request()[: i % 90])
        began = time.monotonic()
        for _ in range(20):
            assert server.serves()
        assert time.monotonic() - began < 5
        live = server.server.http.get("/v2/health/live")
        assert live.json() == {"live": True}


# ------------------------------------------------------------------------------------------------- by chance


BASES = [
    (PREDICT.request(),),
    (INFER.request(),),
    (PREDICT.request(b"Connection: keep-alive", b"Accept: */*"),),
    (PREDICT.at(b"/predict/scale?version=1"),),
    (INFER.at(b"/v2/models/scale/versions/1/infer"),),
    (PREDICT.chunked(chunk(PREDICT.body()) + LAST),),
    (PREDICT.request() + INFER.request(first=5),),
    (PREDICT.request(), LIVE, PREDICT.request(first=5)),
]
SPECIAL = [b"\r", b"\n", b"\r\n", b"\x00", b" ", b":", b"\t", b",", b"\x80", b"0", b"+", b"\r\n\r\n", b"%", b"#", b"?"]


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """Valid hot requests with one to four bytes or pieces changed, doubled, lost or put in, perhaps cut anew."""
    segments = list(draw(st.sampled_from(BASES)))
    stream = bytearray(b"".join(segments))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(stream) - 1)))
        size = draw(st.integers(1, 6))
        kind = draw(st.sampled_from(["flip", "delete", "double", "insert", "insert"]))
        if kind == "flip" and stream:
            stream[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "delete":
            del stream[at : at + size]
        elif kind == "double":
            stream[at:at] = stream[at : at + draw(st.sampled_from([size, 40]))]
        else:
            stream[at:at] = draw(st.sampled_from(SPECIAL))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(stream))), max_size=3)))
    parts = [bytes(stream[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    return [part for part in parts if part]


@hypothesis.settings(max_examples=150)
@hypothesis.given(segments=mutated())
def test_a_mutated_request_gets_no_more_than_from_the_reference(segments: list[bytes], bench: Bench) -> None:
    check(bench.try_(segments))
