"""Content encodings: gzip and deflate, with a cap on what unpacks."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from seaway.errors import InvalidRequest, PayloadTooLarge, UnsupportedEncoding

_GZIP_BITS, _ZLIB_BITS = 31, 15
_BITS = {"gzip": _GZIP_BITS, "x-gzip": _GZIP_BITS, "deflate": _ZLIB_BITS}
_LEVEL = 1  # answers are sent once: speed counts more than size


def unpack(body: bytes | memoryview, content_encoding: str, *, limit_bytes: int) -> bytes:
    """The body without its encoding; `deflate` is the zlib format, as HTTP says.

    Raises UnsupportedEncoding, also for one encoding in another; InvalidRequest for corrupt data and for anything after
    its end; and PayloadTooLarge before more than the limit unpacks.
    """
    name = content_encoding.strip().lower()
    if name in {"", "identity"}:
        if len(body) > limit_bytes:
            raise PayloadTooLarge(f"The body has more than {limit_bytes} bytes, the limit (max_body_bytes).")
        return bytes(body)
    if name not in _BITS:
        raise UnsupportedEncoding(f"Content-Encoding {content_encoding[:40]!r} is not read here; gzip and deflate are.")
    unpacker = zlib.decompressobj(wbits=_BITS[name])
    try:
        unpacked = unpacker.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(f"The body is not valid {name}: {error}.") from error
    if len(unpacked) > limit_bytes:
        raise PayloadTooLarge(f"The body unpacks to more than {limit_bytes} bytes, the limit (max_body_bytes).")
    if not unpacker.eof:
        raise InvalidRequest(f"The body is not valid {name}: it ends too early.")
    if unpacker.unused_data:
        raise InvalidRequest(f"The body is not valid {name}: {len(unpacker.unused_data)} bytes follow its end.")
    return unpacked


def choose_encoding(accept_encoding: str) -> str:
    """`gzip`, `deflate` or `identity`: the first of them that the client accepts.

    >>> choose_encoding("br;q=1.0, gzip;q=0.8, *;q=0.1")
    'gzip'
    """
    accepted = {}
    for part in accept_encoding.lower().split(","):
        name, _, quality = part.partition(";")
        accepted[name.strip()] = quality.replace(" ", "")
    for name in ("gzip", "deflate"):
        if name in accepted and accepted[name] not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}:
            return name
    return "identity"


def pack(chunks: Sequence[bytes | memoryview], encoding: str) -> bytes:
    """The chunks in one, encoded by what `choose_encoding` gave."""
    if encoding in {"", "identity"}:
        return b"".join(chunks)
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _BITS[encoding])
    return b"".join([*(packer.compress(chunk) for chunk in chunks), packer.flush()])
