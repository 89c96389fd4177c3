"""Odd and hostile requests on the hot paths, as one table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

BODY_LIMIT = 200_000


@dataclass(frozen=True, slots=True)
class Expected:
    """The statuses that Seaway may give to the last request; what else has to hold, support.torture judges."""

    statuses: frozenset[int]
    closes: bool = False
    """Nobody knows any more where the next request begins: Seaway must close."""


OK = Expected(frozenset({200}))
BROKEN = Expected(frozenset({400}), closes=True)
WRONG = Expected(frozenset({400}))
ANY = Expected(frozenset(range(200, 500)))
HOST = b"Host: seaway"


def one_of(*statuses: int) -> Expected:
    return Expected(frozenset(statuses))


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([*lines, b"", b""])


@dataclass(frozen=True, slots=True)
class HotPath:
    """One of the paths that the gateway's own protocol class may take."""

    name: str
    path: bytes

    def body(self, first: float = 1) -> bytes:
        row = [first, 2, 3]
        if self.name == "predict":
            return json.dumps({"inputs": row}).encode()
        one = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": row}
        return json.dumps({"inputs": [one]}).encode()

    @property
    def line(self) -> bytes:
        return b"POST " + self.path + b" HTTP/1.1"

    def length(self, text: bytes = b"%d") -> bytes:
        """The Content-Length field, with the number written like this."""
        return b"Content-Length: " + text.replace(b"%d", b"%d" % len(self.body()))

    def request(self, *extra: bytes, first: float = 1) -> bytes:
        """A plain request, with these fields more."""
        body = self.body(first)
        return head(self.line, HOST, *extra, b"Content-Length: %d" % len(body)) + body

    def at(self, target: bytes) -> bytes:
        """A plain request for another target."""
        return head(b"POST " + target + b" HTTP/1.1", HOST, self.length()) + self.body()

    def chunked(self, data: bytes, *extra: bytes, coding: bytes = b"Transfer-Encoding: chunked") -> bytes:
        return head(self.line, HOST, coding, *extra) + data


PREDICT = HotPath("predict", b"/predict/scale")
INFER = HotPath("infer", b"/v2/models/scale/infer")
PATHS = (PREDICT, INFER)
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: seaway\r\n\r\n"


def chunk(data: bytes, size: bytes | None = None, end: bytes = b"\r\n", after: bytes = b"\r\n") -> bytes:
    return (b"%x" % len(data) if size is None else size) + end + data + after


LAST = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent, one segment after the other."""

    name: str
    expected: Expected
    segments: tuple[bytes, ...]


Rows = Iterator[tuple[str, Expected, *tuple[bytes, ...]]]


def _lengths(hot: HotPath) -> Rows:
    body = hot.body()

    def with_fields(*fields: bytes) -> bytes:
        return head(hot.line, HOST, *fields) + body

    yield "plain", OK, hot.request()
    yield "two lengths, the same", BROKEN, with_fields(hot.length(), hot.length())
    yield "two lengths, different", BROKEN, with_fields(hot.length(), b"Content-Length: 5")
    yield "two lengths, different case", BROKEN, with_fields(hot.length(), hot.length().lower())
    for number in (
        b"+%d", b"-1", b"-%d", b"0x15", b"%d,%d", b"%d, %d", b"%d;", b"%d.0", b"2 1", b"1e1", b"", b" ", b"_%d",
        b"%d_0", b"9" * 20, b"1" + b"0" * 40, b"18446744073709551637", b"\xb2\xb9", b"%d\x00", b"%d\x0b", b"\"%d\"",
        b"five",
    ):  # fmt: skip
        yield f"length {number.decode('latin-1')!r}", BROKEN, with_fields(hot.length(number))
    for number in (b"%d ", b" %d", b"%d\t", b"\t%d", b"0%d", b"000000000000000000000%d"):
        yield f"length {number.decode()!r}", ANY, with_fields(hot.length(number))
    yield "length without a space", OK, with_fields(hot.length().replace(b" ", b""))
    yield "length field shouted", OK, with_fields(hot.length().upper())
    yield "length with an underscore", ANY, with_fields(hot.length().replace(b"-", b"_"))
    yield "no length, no coding", ANY, head(hot.line, HOST)
    yield "length 0", WRONG, head(hot.line, HOST, b"Content-Length: 0")
    yield "body one byte short", ANY, hot.request()[:-1]
    yield "body one byte long", BROKEN, hot.request() + b"X"
    yield "body one byte long, as if a request began", OK, hot.request() + b"P"
    yield "body one line end long", OK, hot.request() + b"\r\n"
    yield "body missing", ANY, head(hot.line, HOST, hot.length())
    yield "head not ended", ANY, head(hot.line, HOST, hot.length())[:-2]


def _codings(hot: HotPath) -> Rows:
    chunked = chunk(hot.body()) + LAST
    te = b"Transfer-Encoding: "
    yield "CL and TE", BROKEN, head(hot.line, HOST, hot.length(), te + b"chunked") + hot.body()
    yield "TE and CL", BROKEN, head(hot.line, HOST, te + b"chunked", hot.length()) + chunked
    yield "CL 0 and TE", BROKEN, head(hot.line, HOST, b"Content-Length: 0", te + b"chunked") + chunked
    yield "CL and TE identity", BROKEN, head(hot.line, HOST, hot.length(), te + b"identity") + hot.body()
    yield "CL and TE empty", BROKEN, head(hot.line, HOST, hot.length(), te) + hot.body()
    yield (
        "CL and TE with a space before the colon",
        BROKEN,
        (head(hot.line, HOST, hot.length(), b"Transfer-Encoding : chunked") + hot.body()),
    )
    yield (
        "CL and a folded TE",
        BROKEN,
        (head(hot.line, HOST, hot.length(), b"Transfer-Encoding:\r\n chunked") + hot.body()),
    )
    yield (
        "CL and TE behind a bare CR",
        BROKEN,
        (head(hot.line, HOST, hot.length(), b"X-A: b\rTransfer-Encoding: chunked") + hot.body()),
    )
    yield (
        "CL and TE behind a bare LF",
        BROKEN,
        (head(hot.line, HOST, hot.length(), b"X-A: b\nTransfer-Encoding: chunked") + hot.body()),
    )
    yield (
        "CL and a TE that has a NUL",
        BROKEN,
        (head(hot.line, HOST, hot.length(), b"Transfer-Encoding\x00: chunked") + hot.body()),
    )
    yield (
        "CL and TE with an underscore",
        ANY,
        head(hot.line, HOST, hot.length(), b"Transfer_Encoding: chunked") + hot.body(),
    )
    yield "TE chunked", OK, hot.chunked(chunked)
    yield "TE Chunked", ANY, hot.chunked(chunked, coding=te + b"Chunked")
    yield "TE chunked with spaces", ANY, hot.chunked(chunked, coding=te + b"  chunked  ")
    for value in (
        b"chunked, identity", b"xchunked", b"chunkedx", b"identity", b"gzip", b"chunked, gzip", b"chunked\x0b", b"",
        b"\"chunked\"", b"chunked;q=1", b"chu nked",
    ):  # fmt: skip
        yield f"TE {value.decode()!r}", BROKEN, hot.chunked(chunked, coding=te + value)
    for value in (b"gzip, chunked", b"identity, chunked", b"chunked, chunked", b"chunked,", b",chunked"):
        yield f"TE {value.decode()!r}", ANY, hot.chunked(chunked, coding=te + value)
    yield "TE chunked, then identity", BROKEN, hot.chunked(chunked, te + b"identity")
    yield "TE identity, then chunked", ANY, hot.chunked(chunked, te + b"chunked", coding=te + b"identity")
    yield "TE chunked twice", ANY, hot.chunked(chunked, te + b"chunked")
    yield "TE in HTTP/1.0", ANY, head(hot.line.replace(b"1.1", b"1.0"), HOST, te + b"chunked") + chunked


def _chunks(hot: HotPath) -> Rows:
    body = hot.body()
    size = b"%x" % len(body)

    def sized(text: bytes) -> bytes:
        return hot.chunked(chunk(body, text) + LAST)

    yield "chunks of one byte", OK, hot.chunked(b"".join(chunk(body[i : i + 1]) for i in range(len(body))) + LAST)
    yield "no chunk but the last", ANY, hot.chunked(LAST)
    yield "chunk extension", ANY, sized(size + b";name=value")
    yield "chunk extension, quoted", ANY, sized(size + b';name="v;\\"alue"')
    yield "chunk extension, empty", ANY, sized(size + b";")
    yield "chunk extension with a bare LF", BROKEN, sized(size + b";name=va\nlue")
    yield "chunk extension with a bare CR", BROKEN, sized(size + b";name=va\rlue")
    yield "chunk extension with a NUL", BROKEN, sized(size + b";name=va\x00lue")
    yield "chunk extension of 100 kB", ANY, sized(size + b";name=" + b"x" * 100_000)
    yield "chunk size with zeros", ANY, sized(b"0000" + size)
    for text in (
        b"+" + size, b"-" + size, b" " + size, b"0x" + size, b"", size + b"_0", b"F" * 17, b"1" + b"0" * 16 + size,
        size + b"g", b"-1", b"\t" + size, b"\"" + size + b"\"",
    ):  # fmt: skip
        yield f"chunk size {text.decode()!r}", BROKEN, sized(text)
    yield "chunk size with a space after it", ANY, sized(size + b" ")
    yield "chunk size with a tab after it", ANY, sized(size + b"\t")
    yield "bare LF after the chunk size", BROKEN, hot.chunked(chunk(body, end=b"\n") + LAST)
    yield "bare CR after the chunk size", BROKEN, hot.chunked(chunk(body, end=b"\r") + LAST)
    yield "bare LF after the chunk", BROKEN, hot.chunked(chunk(body, after=b"\n") + LAST)
    yield "nothing after the chunk", BROKEN, hot.chunked(chunk(body, after=b"") + LAST)
    yield "bare LF after the last size", BROKEN, hot.chunked(chunk(body) + b"0\n\r\n")
    yield "bare LF at the end", BROKEN, hot.chunked(chunk(body) + b"0\r\n\n")
    yield "bare LFs at the end", BROKEN, hot.chunked(chunk(body) + b"0\n\n")
    yield "last line end missing", ANY, hot.chunked(chunk(body) + b"0\r\n")
    yield "last chunk missing", ANY, hot.chunked(chunk(body))
    yield "chunk shorter than its size", BROKEN, hot.chunked(chunk(body, b"%x" % (len(body) + 1)) + LAST)
    yield "chunk longer than its size", BROKEN, hot.chunked(chunk(body, b"%x" % (len(body) - 1)) + LAST)
    yield "trailer", ANY, hot.chunked(chunk(body) + b"0\r\nX-A: b\r\n\r\n")
    yield "trailer with a length", ANY, hot.chunked(chunk(body) + b"0\r\nContent-Length: 5\r\n\r\n")
    yield "trailer with a coding", ANY, hot.chunked(chunk(body) + b"0\r\nTransfer-Encoding: chunked\r\n\r\n")
    yield "trailer with a NUL", BROKEN, hot.chunked(chunk(body) + b"0\r\nX-A: b\x00\r\n\r\n")
    yield "trailer without a colon", BROKEN, hot.chunked(chunk(body) + b"0\r\nX-A\r\n\r\n")
    yield "65,537 chunks of one byte", one_of(400, 413), hot.chunked(chunk(b" ") * 65_537 + chunk(body) + LAST)


def _lines(hot: HotPath) -> Rows:
    body, end = hot.body(), hot.length()
    plain = hot.request(b"X-A: b")

    def fields(*lines: bytes) -> bytes:
        return head(hot.line, HOST, *lines, end) + body

    yield "folded field", BROKEN, fields(b"X-A: a\r\n b")
    yield "folded field, tab", BROKEN, fields(b"X-A: a\r\n\tb")
    yield "folded field, first", BROKEN, head(hot.line, b" X-A: b", HOST, end) + body
    yield "folded length", BROKEN, head(hot.line, HOST, b"Content-Length:\r\n " + end[16:]) + body
    yield "folded end of the head", BROKEN, head(hot.line, HOST, end)[:-2] + b" \r\n\r\n" + body
    yield "bare LF everywhere", BROKEN, plain.replace(b"\r\n", b"\n")
    yield "bare LF after the request line", BROKEN, plain.replace(b"\r\n", b"\n", 1)
    yield "bare LF after a field", BROKEN, fields(b"X-A: b\nX-C: d")
    yield "bare LF after the length", BROKEN, head(hot.line, HOST, end)[:-4] + b"\n\r\n" + body
    yield "bare LF as the end of the head", BROKEN, head(hot.line, HOST, end)[:-2] + b"\n" + body
    yield "bare LFs as the end of the head", BROKEN, head(hot.line, HOST, end)[:-4] + b"\n\n" + body
    yield "bare CR everywhere", BROKEN, plain.replace(b"\r\n", b"\r")
    yield "bare CR after a field", BROKEN, fields(b"X-A: b\rX-C: d")
    yield "bare CR in a value", BROKEN, fields(b"X-A: b\rc")
    yield "CR CR LF", BROKEN, fields(b"X-A: b\r")
    yield "bare CR as the end of the head", BROKEN, head(hot.line, HOST, end)[:-2] + b"\r" + body
    yield "space before the colon", BROKEN, fields(b"X-A : b")
    yield "tab before the colon", BROKEN, fields(b"X-A\t: b")
    yield "space before the colon of the length", BROKEN, head(hot.line, HOST, end.replace(b":", b" :")) + body
    yield "empty name", BROKEN, fields(b": b")
    yield "no colon", BROKEN, fields(b"X-A")
    yield "space in a name", BROKEN, fields(b"X A: b")
    yield "parenthesis in a name", BROKEN, fields(b"X(A: b")
    yield "empty value", OK, fields(b"X-A:")
    yield "spaces around a value", OK, fields(b"X-A:   b   ")
    yield "tab in a value", OK, fields(b"X-A:\ta\tb")
    yield "colons in a value", OK, fields(b"X-A:: a: b")
    yield "head without fields", ANY, head(hot.line)


def _characters(hot: HotPath) -> Rows:
    for code in (0x00, 0x01, 0x08, 0x0B, 0x0C, 0x1B, 0x1F, 0x7F):
        one = bytes([code])
        yield f"{code:#04x} in a name", BROKEN, hot.request(b"X-" + one + b"A: b")
        yield f"{code:#04x} in a value", BROKEN, hot.request(b"X-A: b" + one + b"c")
        yield f"{code:#04x} at the end of a value", BROKEN, hot.request(b"X-A: b" + one)
        yield f"{code:#04x} in the path", BROKEN, hot.at(hot.path + one)
        yield f"{code:#04x} in the query", BROKEN, hot.at(hot.path + b"?a=" + one)
    for code in (0x80, 0xA0, 0xFF):
        one = bytes([code])
        yield f"{code:#04x} in a name", BROKEN, hot.request(b"X-" + one + b"A: b")
        yield f"{code:#04x} in a value", ANY, hot.request(b"X-A: b" + one + b"c")
        yield f"{code:#04x} in the path", BROKEN, hot.at(hot.path + one)
        yield f"{code:#04x} in the query", ANY, hot.at(hot.path + b"?a=" + one)


def _request_lines(hot: HotPath) -> Rows:
    plain, path = hot.request(), hot.path

    def line(text: bytes) -> bytes:
        return head(text, HOST, hot.length()) + hot.body()

    for before in (b" ", b"\t", b"\x00", b"\x80"):
        yield f"{before.decode('latin-1')!r} before the request line", BROKEN, before + plain
    for before in (b"\r\n", b"\r\n\r\n", b"\r", b"\n", b"\n\n\r\n"):
        yield f"{before.decode()!r} before the request line", ANY, before + plain
    yield "HTTP/1.0", ANY, line(b"POST " + path + b" HTTP/1.0")
    yield (
        "HTTP/1.0, keep-alive",
        ANY,
        head(b"POST " + path + b" HTTP/1.0", HOST, hot.length(), b"Connection: keep-alive") + hot.body(),
    )
    yield "HTTP/0.9", ANY, b"POST " + path + b"\r\n"
    yield "HTTP/0.9, fields", ANY, line(b"POST " + path)
    yield "HTTP/2.0", ANY, line(b"POST " + path + b" HTTP/2.0")
    yield "HTTP/2 preface", BROKEN, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    for version in (
        b"HTTP/1.2", b"HTTP/3.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/1.1\t", b"HTTP/01.1", b"HTTP/1.10", b"HTTP/1",
        b"HTTP 1.1", b"HTTP/1.1 x", b"HTTPS/1.1", b"HTTP/+1.1", b"HTTP/1,1", b"ICE/1.0",
    ):  # fmt: skip
        yield f"version {version.decode()!r}", BROKEN, line(b"POST " + path + b" " + version)
    yield "version 'RTSP/1.0'", ANY, line(b"POST " + path + b" RTSP/1.0")
    for method in (b"post", b"Post", b"POSTX", b"POS", b"", b"P\x00ST", b"POST:"):
        yield f"method {method.decode()!r}", BROKEN, line(method + b" " + path + b" HTTP/1.1")
    for method in (b"GET", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"QUERY", b"M-SEARCH"):
        yield f"method {method.decode()!r}", one_of(400, 405), line(method + b" " + path + b" HTTP/1.1")
    yield "two spaces before the path", ANY, line(b"POST  " + path + b" HTTP/1.1")
    yield "two spaces after the path", ANY, line(b"POST " + path + b"  HTTP/1.1")
    yield "tab before the path", BROKEN, line(b"POST\t" + path + b" HTTP/1.1")
    yield "tab after the path", BROKEN, line(b"POST " + path + b"\tHTTP/1.1")
    yield "no path", BROKEN, line(b"POST HTTP/1.1")
    yield "space in the path", BROKEN, line(b"POST " + path + b" x HTTP/1.1")


def _targets(hot: HotPath) -> Rows:
    path = hot.path
    first, rest = path[1:2], path[2:]
    for target in (b"http://seaway" + path, b"http://elsewhere" + path, b"http://user:word@seaway:80" + path):
        yield f"target {target.decode()!r}", ANY, hot.at(target)
    for target in (
        b"ftp://x" + path,
        b"http:" + path,
        b"http://" + path,
        b"http://a@b@c" + path,
        b"http://x:99999" + path,
    ):
        yield f"target {target.decode()!r}", ANY, hot.at(target)
    for target in (b"*", path[1:], b"\\predict\\scale", b"?version=1", b"#", b"seaway:80"):
        yield f"target {target.decode()!r}", one_of(400, 404, 405), hot.at(target)
    for target in (b"/" + path, path + b"/", b"/." + path, path + b"/.", path + b"x", b"//seaway" + path, path.upper()):
        yield f"target {target.decode()!r}", one_of(400, 404, 405), hot.at(target)
    yield "NUL in the path, encoded", one_of(400, 404), hot.at(path.replace(b"scale", b"scale%00"))
    yield "slash in the name, encoded", one_of(400, 404), hot.at(path.replace(b"scale", b"x%2Fscale"))
    yield "dots in the name, encoded", one_of(400, 404), hot.at(path.replace(b"scale", b"%2e%2e"))
    yield "no hexadecimal in the path", one_of(400, 404), hot.at(path.replace(b"scale", b"scal%zz"))
    yield "half an encoding", one_of(400, 404), hot.at(path.replace(b"scale", b"scale%6"))
    yield "line end in the name, encoded", one_of(400, 404), hot.at(path.replace(b"scale", b"scale%0d%0aX-A:b"))
    yield "invalid UTF-8 in the name, encoded", one_of(400, 404), hot.at(path.replace(b"scale", b"%ff%fe"))
    yield "unknown model", one_of(404), hot.at(path.replace(b"scale", b"nobody"))
    yield "name of 4 kB", one_of(400, 404), hot.at(path.replace(b"scale", b"s" * 4096))
    yield "letter encoded", ANY, hot.at(b"/%" + b"%x" % first[0] + rest)
    yield "letter of the name encoded", ANY, hot.at(path.replace(b"scale", b"%73cale"))
    yield "fragment", ANY, hot.at(path + b"#part")
    yield "fragment after the query", ANY, hot.at(path + b"?version=1#part")
    for query in (b"?version=1", b"?x", b"?", b"?a=b&c", b"?a=%20+%zz"):
        yield f"query {query.decode()!r}", OK, hot.at(path + query)
    for query in (b"?version=1&version=2", b"?version=2&version=1", b"?version=", b"?version=%31", b"??version=1"):
        yield f"query {query.decode()!r}", ANY, hot.at(path + query)
    refused = one_of(400, 404) if hot is PREDICT else OK
    for query in (
        b"?version=99",
        b"?version=-1",
        b"?version=1.0",
        b"?version=0x1",
        b"?version=%00",
        b"?version=" + b"1" * 400,
    ):
        yield f"query {query[:20].decode()!r}", refused, hot.at(path + query)


def _connections(hot: HotPath) -> Rows:
    for value in (b"close", b"Close", b"close, keep-alive", b"keep-alive, close", b" close "):
        yield f"Connection: {value.decode()}", OK, hot.request(b"Connection: " + value)
    for value in (b"keep-alive", b"Keep-Alive", b"banana", b"", b"closed", b"upgrade", b"content-length", b"x" * 300):
        yield f"Connection: {value[:20].decode()}", OK, hot.request(b"Connection: " + value)
    yield "Connection twice", OK, hot.request(b"Connection: keep-alive", b"Connection: close")
    yield "Connection twice, close first", OK, hot.request(b"Connection: close", b"Connection: keep-alive")
    yield (
        "Upgrade: h2c",
        ANY,
        hot.request(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: A"),
    )
    yield (
        "Upgrade: websocket",
        ANY,
        hot.request(
            b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAA"
        ),
    )
    yield "Upgrade without Connection", OK, hot.request(b"Upgrade: h2c")
    yield "Connection: close, then another request", ANY, hot.request(b"Connection: close") + hot.request(first=5)
    yield "HTTP/1.0, then another request", ANY, hot.request().replace(b"1.1", b"1.0", 1) + hot.request(first=5)
    yield "Proxy-Connection: close", OK, hot.request(b"Proxy-Connection: close")
    yield "Expect: 100-continue, body at once", OK, hot.request(b"Expect: 100-continue")
    yield "Expect: 100-Continue", OK, hot.request(b"Expect: 100-Continue")
    yield "Expect: banana", one_of(200, 417), hot.request(b"Expect: banana")
    yield "Expect twice", ANY, hot.request(b"Expect: 100-continue", b"Expect: 100-continue")
    yield "Expect in HTTP/1.0", ANY, hot.request(b"Expect: 100-continue").replace(b"1.1", b"1.0", 1)
    yield "two hosts", ANY, hot.request(b"Host: elsewhere")
    yield "no host", ANY, head(hot.line, hot.length()) + hot.body()
    yield "empty host", ANY, head(hot.line, b"Host:", hot.length()) + hot.body()
    yield "host with a path", ANY, head(hot.line, b"Host: a/../b@c", hot.length()) + hot.body()


def _sizes(hot: HotPath) -> Rows:
    too_large = one_of(413)
    long_head = one_of(431, 414)
    over = b'{"inputs": [1, 2, 3]}'.ljust(BODY_LIMIT + 1)
    within = hot.body().ljust(BODY_LIMIT)
    yield "body at the limit", OK, head(hot.line, HOST, b"Content-Length: %d" % len(within)) + within
    yield "body at the limit, chunked", OK, hot.chunked(chunk(within) + LAST)
    yield "body over the limit", too_large, head(hot.line, HOST, b"Content-Length: %d" % len(over)) + over
    yield "body over the limit, chunked", too_large, hot.chunked(chunk(over) + LAST)
    yield (
        "body over the limit in many chunks",
        too_large,
        hot.chunked(chunk(b" " * 1000) * (BODY_LIMIT // 1000 + 1) + LAST),
    )
    yield (
        "1,000,000 chunks of one byte",
        one_of(400, 413),
        hot.chunked(chunk(b" ") * 1_000_000 + chunk(hot.body()) + LAST),
    )
    yield "head of 1 MB", long_head, hot.request(b"X-Long: " + b"x" * (1 << 20))
    yield "name of 1 MB", one_of(431, 414, 400), hot.request(b"X" * (1 << 20) + b": x")
    yield "20,000 fields", long_head, hot.request(*[b"X-%d: x" % i for i in range(20_000)])
    yield "20,000 fields of the same name", long_head, hot.request(*[b"X: x"] * 20_000)
    yield "URL of 9 kB", long_head, hot.at(hot.path + b"?" + b"x" * 9000)
    yield "path of 9 kB", long_head, hot.at(hot.path.replace(b"scale", b"s" * 9000))
    yield "URL of 1 MB", one_of(400, 414, 431), hot.at(hot.path + b"?" + b"x" * (1 << 20))
    yield "20,000 trailers", ANY, hot.chunked(chunk(hot.body()) + b"0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n")
    yield "unknown encoding", one_of(415), hot.request(b"Content-Encoding: br")
    yield "two encodings", one_of(400, 415), hot.request(b"Content-Encoding: gzip, gzip")
    yield "gzip that is none", WRONG, hot.request(b"Content-Encoding: gzip")
    yield (
        "header length twice",
        ANY,
        hot.request(b"Inference-Header-Content-Length: 1", b"Inference-Header-Content-Length: 2"),
    )
    yield "header length that is none", WRONG, hot.request(b"Inference-Header-Content-Length: +5")
    yield "timeout that is none", WRONG, hot.request(b"X-Request-Timeout-Seconds: -1")
    yield "timeout without end", WRONG, hot.request(b"X-Request-Timeout-Seconds: inf")


def _seams(hot: HotPath) -> Rows:
    """A whole request where the server should be reading something else: at the beginning of a segment."""
    inner = hot.request(first=5)
    bodiless = head(hot.line, HOST, b"Content-Length: 0")
    after = hot.request()
    yield (
        "a request as the body of a request",
        OK,
        (head(hot.line, HOST, b"Content-Length: %d" % len(inner))),
        inner,
        after,
    )
    yield (
        "a request as the body of an ordinary one",
        OK,
        (head(b"GET /v2/health/live HTTP/1.1", HOST, b"Content-Length: %d" % len(inner))),
        inner,
        after,
    )
    yield (
        "a request as the rest of a body",
        OK,
        (head(hot.line, HOST, b"Content-Length: %d" % (len(inner) + 1)) + b" "),
        inner,
        after,
    )
    yield "a request as a chunk", OK, hot.chunked(b"%x\r\n" % len(inner)), inner, b"\r\n" + LAST, after
    yield (
        "a request as an ordinary request's chunk",
        OK,
        (head(b"GET /v2/health/live HTTP/1.1", HOST, b"Transfer-Encoding: chunked") + b"%x\r\n" % len(inner)),
        inner,
        b"\r\n" + LAST,
        after,
    )
    yield "a request as a field's value", OK, b"GET /v2/health/live HTTP/1.1\r\nX-A: ", bodiless, after
    yield (
        "a request as a hot field's value",
        OK,
        hot.line + b"\r\nX-A: ",
        (head(hot.line, HOST, hot.length()) + hot.body()),
        after,
    )
    yield "a request as a trailer", BROKEN, hot.chunked(chunk(hot.body()) + b"0\r\n"), inner
    yield (
        "a request as a chunk extension",
        ANY,
        (hot.chunked(b"%x;a=" % len(hot.body()))),
        bodiless,
        hot.body() + b"\r\n" + LAST,
    )
    yield "a request after a wrong one", BROKEN, head(hot.line, b"X A: b"), inner
    yield "a request after half a wrong one", BROKEN, hot.line + b"\r\nX A", inner
    yield "a request within a request line", BROKEN, b"GET /v2/health/live", inner
    yield "a request after its own first letter", BROKEN, b"P", inner
    yield "a request after a line end", ANY, b"\r\n", inner
    yield "a request after a bare CR", ANY, b"\r", inner
    yield "a request after garbage", BROKEN, hot.request(), b"garbage\r\n\r\n", inner
    yield "garbage after a request", BROKEN, hot.request() + b"garbage\r\n\r\n"
    yield "NULs after a request", BROKEN, hot.request() + b"\x00" * 10
    yield "half a request after a request", OK, hot.request() + inner[:20]
    yield "hot, then ordinary", OK, hot.request() + LIVE
    yield "ordinary, then hot", OK, LIVE + hot.request()
    yield "hot, ordinary, hot, in pieces", OK, hot.request(), LIVE, hot.request()
    yield "hot, chunked, hot", OK, hot.request() + hot.chunked(chunk(hot.body(5)) + LAST) + hot.request()
    yield (
        "hot, then one with two lengths",
        BROKEN,
        hot.request() + head(hot.line, HOST, hot.length(), hot.length()) + hot.body(),
    )
    yield (
        "ordinary, then one with two lengths",
        BROKEN,
        LIVE + head(hot.line, HOST, hot.length(), hot.length()) + hot.body(),
    )


_PARTS: tuple[Callable[[HotPath], Rows], ...] = (
    _lengths, _codings, _chunks, _lines, _characters, _request_lines, _targets, _connections, _sizes, _seams,
)  # fmt: skip


def table(hot: HotPath) -> list[Case]:
    """Every case on one hot path."""
    rows = [row for part in _PARTS for row in part(hot)]
    return [Case(name, expected, tuple(segments)) for name, expected, *segments in rows]


def smuggled(hot: HotPath, inner: bytes) -> Iterator[tuple[str, bytes]]:
    """Requests whose end can be read in two ways, so that one reading finds `inner` as a request of its own."""
    behind_last = LAST + inner
    all_of_it = b"Content-Length: %d" % len(behind_last)
    te = b"Transfer-Encoding: chunked"
    yield "CL.TE", head(hot.line, HOST, all_of_it, te) + behind_last
    yield "TE.CL", head(hot.line, HOST, te, b"Content-Length: 4") + chunk(inner) + LAST
    yield "TE.CL, reversed", head(hot.line, HOST, b"Content-Length: 4", te) + chunk(inner) + LAST
    yield "CL.0", head(hot.line, HOST, te, b"Content-Length: 0") + inner
    for coding in (
        b"Transfer-Encoding: xchunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding\t:chunked",
        b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding: chunked\x0b", b" Transfer-Encoding: chunked",
        b"X: x\nTransfer-Encoding: chunked", b"X: x\rTransfer-Encoding: chunked", b"Transfer-Encoding\n: chunked",
        b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding: \"chunked\"", b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: identity", b"Transfer-Encoding: identity, chunked", b"Transfer_Encoding: chunked",
        b"Transfer-Encoding\x00: chunked", b"\x00Transfer-Encoding: chunked", b"Transfer-Encoding: CHUNKED",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"TE: chunked", b"Trailer: Content-Length",
    ):  # fmt: skip
        yield f"CL and {coding!r}", head(hot.line, HOST, all_of_it, coding) + behind_last
        yield f"{coding!r} and CL", head(hot.line, HOST, coding, all_of_it) + behind_last
    whole = b"Content-Length: %d" % len(inner)
    for length in (
        b"Content-Length: 0", b"Content-Length : 0", b"Content-Length\t: 0", b"Content-Length: +0",
        b"Content-Length: -0", b"Content-Length: 0x0", b"Content-Length: 0, 0", b"Content-Length:\r\n 0",
        b" Content-Length: 0",
        b"X: x\nContent-Length: 0", b"X: x\rContent-Length: 0", b"Content_Length: 0", b"Content-Length\x00: 0",
        b"content-length: 0", b"CONTENT-LENGTH: 0", b"Content-Length: \x0b0", b"Content-Length: 18446744073709551616",
        b"Connection: content-length", b"Inference-Header-Content-Length: 0",
    ):  # fmt: skip
        yield f"CL and {length!r}", head(hot.line, HOST, whole, length) + inner
        yield f"{length!r} and CL", head(hot.line, HOST, length, whole) + inner
    for size in (b"0x0", b"-0", b"+0", b" 0", b"\t0", b"0;\n", b"0 ;a", b"0_0", b"0\x00", b"", b"O"):
        yield f"last chunk's size {size!r}", hot.chunked(chunk(hot.body()) + size + b"\r\n\r\n" + inner + LAST)
    for end in (b"\n", b"\r", b"\n\r", b"\r\r\n", b"\r\n\n", b"\x0b\r\n"):
        yield f"last chunk's end {end!r}", hot.chunked(chunk(hot.body()) + b"0" + end + end + inner + LAST)
        yield f"chunk's end {end!r}", hot.chunked(chunk(hot.body(), after=end) + b"0\r\n\r\n"[:-1] + inner + LAST)
        yield f"chunk extension with {end!r}", hot.chunked(b"2;" + end + b"xx\r\n" + chunk(inner) + LAST)
    for end in (b"\n\n", b"\r\r", b"\n\r\n", b"\r\n\n", b"\r\n\r", b"\r\n \r\n", b"\r\n\x00\r\n"):
        yield f"head's end {end!r}", head(hot.line, HOST, b"Content-Length: 0")[:-4] + end + inner + b"\r\n\r\n"
    yield "GET with a body", head(b"GET /v2/health/live HTTP/1.1", HOST, whole) + inner
    yield "HTTP/1.0 with TE", head(hot.line.replace(b"1.1", b"1.0"), HOST, all_of_it, te) + behind_last
    yield "HTTP/1.0, closing", head(hot.line.replace(b"1.1", b"1.0"), HOST, hot.length()) + hot.body() + inner
    yield "closing", head(hot.line, HOST, b"Connection: close", hot.length()) + hot.body() + inner
    yield "too large", head(hot.line, HOST, b"Content-Length: %d" % (BODY_LIMIT + 1)) + inner.ljust(BODY_LIMIT + 1)
    yield "wrong encoding", head(hot.line, HOST, b"Content-Encoding: br", whole) + inner
    yield "wrong method", head(hot.line.replace(b"POST", b"PUT"), HOST, whole) + inner
    yield "no route", head(b"POST /nowhere HTTP/1.1", HOST, whole) + inner
    yield "for control", head(b"POST /api/models HTTP/1.1", HOST, whole) + inner
