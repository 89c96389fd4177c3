"""JSON requests that a client sends again with other numbers: read by what stays the same in them, their skeleton.

A skeleton is a request's text without its `data` lists. Once such a text was read the long way and found right, only
the numbers between are left to read in the next one that has it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec
import numpy as np

from seaway.wire.datatypes import Array
from seaway.wire.tensors import layout

T = TypeVar("T")

MAX_TEXT_BYTES = 1 << 14
"""Of a longer one, the numbers are what takes time."""
MAX_SKELETON_BYTES = 512
MAX_REMEMBERED = 256

_KEY = b'"data"'
_HERE = b"\0"
"""Where a list was. No text that was found right has this byte."""
_FLAT = re.compile(rb'"data"\s*:\s*\[\s*[^\s\[]')
_DECODERS: dict[str, Callable[[bytes], list[float]]] = {
    kind: msgspec.json.Decoder(list[number]).decode  # type: ignore[valid-type]
    for kind, number in {"f": float, "i": int, "u": int}.items()
}


class _Place(msgspec.Struct, frozen=True, gc=False):
    """Where one tensor's numbers go."""

    name: str
    decode: Callable[[bytes], list[float]]
    pack: Callable[..., bytes]
    """Raises struct.error or OverflowError for another count, and for what the type can't hold."""
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


class Skeletons(Generic[T]):
    """What is known of the requests of one version with `n_tensors` tensors. Shared by all engine threads."""

    def __init__(self, n_tensors: int) -> None:
        self._n_tensors = n_tensors
        self._known: dict[bytes, tuple[tuple[_Place, ...], T]] = {}

    def read(self, text: bytes) -> tuple[dict[str, Array], T] | None:
        """The tensors by name, and what is remembered of such requests; None: read it the long way."""
        if not self._known or len(text) > MAX_TEXT_BYTES:
            return None
        cut = self._cut(text)
        known = self._known.get(cut[0]) if cut is not None else None
        if cut is None or known is None:
            return None
        places, rest = known
        tensors: dict[str, Array] = {}
        try:
            # A list of nothing but numbers in place of another: what is around it means what it meant there.
            for place, numbers in zip(places, cut[1], strict=True):
                tensors[place.name] = np.ndarray(place.shape, place.dtype, place.pack(*place.decode(numbers)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, struct.error, OverflowError):
            return None
        return tensors, rest

    def remember(self, text: bytes, tensors: Sequence[tuple[str, Array]], rest: T) -> None:
        """`text` was found right, and these are its tensors in its order; requests like it share `rest`.

        Not every text can be remembered: only lists of numbers that aren't nested, and keys that are plain to see.
        """
        if len(text) > MAX_TEXT_BYTES or b"\\" in text or text.count(_KEY) != self._n_tensors:
            return  # a backslash may hide a key
        cut = self._cut(text)
        if cut is None or len(cut[0]) > MAX_SKELETON_BYTES or len(_FLAT.findall(text)) != self._n_tensors:
            return
        if len(tensors) != self._n_tensors or any(a.dtype.kind not in _DECODERS or not a.size for _, a in tensors):
            return
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        places = tuple(
            _Place(
                name, _DECODERS[array.dtype.kind], struct.Struct(layout(array.size, array.dtype)).pack, array.dtype,
                array.shape,
            )
            for name, array in tensors
        )  # fmt: skip
        self._known[cut[0]] = places, rest

    def _cut(self, text: bytes) -> tuple[bytes, list[bytes]] | None:
        """The text with a mark for the first list after each `data`, and those lists."""
        if self._n_tensors == 1:
            begin = text.find(b"[", text.find(_KEY))
            end = text.find(b"]", begin) + 1
            return text[:begin] + _HERE + text[end:], [text[begin:end]]
        pieces, lists, at = [], [], 0
        for _ in range(self._n_tensors):
            begin = text.find(b"[", text.find(_KEY, at))
            end = text.find(b"]", begin) + 1
            if not at < begin < end:
                return None
            pieces.append(text[at:begin])
            lists.append(text[begin:end])
            at = end
        pieces.append(text[at:])
        return _HERE.join(pieces), lists
