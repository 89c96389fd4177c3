"""Moves the weights that ONNX Runtime has written beside a graph to addresses that its kernels can read.

ONNX Runtime 1.31 writes pre-packed weights of less than a megabyte wherever the last one ended, and maps them from
there. Kernels take what they have packed to be aligned to 64 bytes: in the mapped file SGEMM then dies of an aligned
load, and MatMulNBits reads from beside its weights. Here those that are not aligned move to the end.

Where a tensor's bytes are is said in `TensorProto.external_data`, as text: `offset` and `length`, and for each layout
`prepacked_N`, "key|offset;length;checksum|offset;length;checksum..." with a part for each buffer of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from seaway.runtimes.onnx_wire import BYTES, field, fields

_PAGE = 4096
_LINE = 64
_COPY_BYTES = 1 << 24

# Fields by message, from onnx.proto: number -> the message that it holds.
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _FUNCTION, _TENSOR, _ENTRY = (
    "model", "graph", "node", "attribute", "function", "tensor", "entry",
)  # fmt: skip
_INSIDE = {
    _MODEL: {7: _GRAPH, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {6: _GRAPH, 11: _GRAPH},
    _FUNCTION: {7: _NODE},
    _TENSOR: {13: _ENTRY},
}
_KEY, _VALUE = 1, 2


def align_weights(graph: Path, weights: Path) -> None:
    """Change both files, so that every buffer in `weights` begins at a cache line.

    Raises ValueError for a graph that is not as ONNX Runtime writes it; then they are of no use.
    """
    moves: dict[tuple[int, int], int] = {}
    size = end = weights.stat().st_size

    def place(offset: int, length: int) -> int:
        nonlocal end
        if offset + length > size:
            raise ValueError(f"{weights.name} ends before byte {offset + length}.")
        if offset % _LINE == 0:
            return offset
        if (offset, length) not in moves:
            moves[offset, length] = _up(end)
            end = moves[offset, length] + length
        return moves[offset, length]

    rewritten = _rewrite(memoryview(graph.read_bytes()), _MODEL, place)
    with weights.open("r+b") as file:
        for (offset, length), to in moves.items():
            for begin in range(0, length, _COPY_BYTES):
                file.seek(offset + begin)
                piece = file.read(min(_COPY_BYTES, length - begin))
                file.seek(to + begin)
                file.write(piece)
        # The last one may be shorter than what a kernel reads at once.
        file.truncate(_up(end))
    graph.write_bytes(rewritten)


def _up(offset: int) -> int:
    """The next page."""
    return -(-offset // _PAGE) * _PAGE


def _rewrite(message: memoryview, kind: str, place: Callable[[int, int], int]) -> bytes:
    """A message with its buffers where `place` puts them."""
    inside = _INSIDE[kind]
    parts: list[bytes | memoryview] = []
    entries: dict[str, str] = {}
    kept = 0
    for number, wire, start, begin, stop in fields(message):
        if wire != BYTES or number not in inside:
            continue
        parts.append(message[kept:start])
        kept = stop
        if inside[number] == _ENTRY:
            key, value = _texts(message[begin:stop])
            entries[key] = value
        else:
            parts += field(number, _rewrite(message[begin:stop], inside[number], place))
    parts.append(message[kept:])
    for key, value in _moved(entries, place).items():
        parts += field(13, b"".join([*field(_KEY, key.encode()), *field(_VALUE, value.encode())]))
    return b"".join(parts)


def _moved(entries: dict[str, str], place: Callable[[int, int], int]) -> dict[str, str]:
    """What a tensor says of its buffers, with their new offsets."""
    if "offset" not in entries:
        return entries
    found = entries | {"offset": str(place(int(entries["offset"]), int(entries["length"])))}
    for key, value in entries.items():
        if key.startswith("prepacked"):
            name, *buffers = value.split("|")
            for number, buffer in enumerate(buffers):
                offset, length, *rest = buffer.split(";")
                buffers[number] = ";".join([str(place(int(offset), int(length))), length, *rest])
            found[key] = "|".join([name, *buffers])
    return found


def _texts(entry: memoryview) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto."""
    found = {number: str(entry[begin:stop], "utf-8") for number, _, _, begin, stop in fields(entry)}
    return found.get(_KEY, ""), found.get(_VALUE, "")
