"""Finding files that run code when they are loaded, by what they hold and not by what they are called.

Nothing here loads them: pickles are recognised by their opcodes, also when compressed (joblib) or within archives
(torch.save, TorchScript, NumPy's objects).
"""

from __future__ import annotations

import bz2
import io
import lzma
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from seaway.errors import InvalidPackage

_START_BYTES = 1 << 16
_RAW_TENSOR = re.compile(r"[^/]+/data/(weights/weight_\d+|constants/tensor_\d+)")
"""Entries of a torch.export archive that are numbers, of which any may begin as a pickle does."""
_SUFFIXES = (".pkl", ".pickle", ".joblib")
_PROTOCOLS = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_CALLS = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"}
_IMPORTED = re.compile(r"[^\W\d][\w.]* [^\W\d][\w.]*")
_MAX_OPCODES = 1_000_000
"""Of all files of a package together; takes a second or two."""
_MAX_ARGUMENT_BYTES = 64 << 20
_NUMPY, _NUMPY_OBJECTS, _OLD_JOBLIB = b"\x93NUMPY", b"|O", b"ZF0x"
_COMPRESSED: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x78": lambda data: zlib.decompressobj().decompress(data, _START_BYTES),
    b"\x1f\x8b": lambda data: zlib.decompressobj(wbits=31).decompress(data, _START_BYTES),
    b"BZh": lambda data: bz2.BZ2Decompressor().decompress(data, _START_BYTES),
    b"\xfd7zXZ": lambda data: lzma.LZMADecompressor().decompress(data, _START_BYTES),
    b"\x5d\x00": lambda data: lzma.LZMADecompressor().decompress(data, _START_BYTES),
}


def refuse_pickles(directory: Path) -> None:
    """Raises InvalidPackage naming the first file below `directory` that is a pickle or holds one."""
    opcodes_left = iter(range(_MAX_OPCODES))
    for path in sorted(directory.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(directory).as_posix()
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
            if _is_safetensors(path, start):
                continue
            file.seek(0)
            found = path.name.lower().endswith(_SUFFIXES) or is_pickle(start) or _calls(file, opcodes_left)
        instead = _instead(path, directory) if found or zipfile.is_zipfile(path) else ""
        if found:
            raise InvalidPackage(f"{name!r} is a pickle, which runs code when it is loaded; {instead}.")
        if instead:
            _look_into(path, name, instead)


def _instead(path: Path, directory: Path) -> str:
    """What to do about the pickle at `path`."""
    if any(other != path for other in directory.rglob("*.safetensors")):
        return "the package has its weights as safetensors, too, so leave this file out"
    return "save the weights as safetensors, or export the model with torch.export or to ONNX"


def _look_into(path: Path, name: str, instead: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if path.suffix == ".pt2" and _RAW_TENSOR.fullmatch(info.filename):
                    continue  # the runtime reads these as numbers, or refuses the archive
                with archive.open(info) as member:
                    start = member.read(_START_BYTES)
                if info.filename.lower().endswith(_SUFFIXES) or is_pickle(start):
                    raise InvalidPackage(f"{name!r} is an archive with pickles (TorchScript, torch.save); {instead}.")
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError) as error:
        raise InvalidPackage(f"{name!r} is an archive that can't be looked into; leave it out.") from error


def _is_safetensors(path: Path, start: bytes) -> bool:
    """Numbers behind a JSON header, whose length comes first: that may look like the first bytes of a pickle."""
    length = int.from_bytes(start[:8], "little")
    return path.suffix == ".safetensors" and start[8:9] == b"{" and 8 + length <= path.stat().st_size


def is_pickle(start: bytes) -> bool:
    """Whether a file that begins with these bytes is a pickle, also a compressed one.

    >>> is_pickle(b"cos\\nsystem\\n(S'true'\\ntR."), is_pickle(b"cat\\ndog\\n")
    (True, False)
    """
    if start.startswith((*_PROTOCOLS, _OLD_JOBLIB)) or (start.startswith(_NUMPY) and _NUMPY_OBJECTS in start[:256]):
        return True
    for magic, unpack in _COMPRESSED.items():
        if start.startswith(magic):
            try:
                return is_pickle(unpack(start))
            except (zlib.error, lzma.LZMAError, OSError, EOFError):
                return False  # not compressed after all
    return _calls(io.BytesIO(start), iter(range(_MAX_OPCODES)))


class _Bounded:
    """What `pickletools` reads from; a longer argument is refused instead of taken into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        if size > _MAX_ARGUMENT_BYTES:
            raise ValueError("too long")
        return self._file.read(size)

    def readline(self) -> bytes:
        return self._file.readline(_MAX_ARGUMENT_BYTES)


def _calls(file: BinaryIO, opcodes_left: Iterator[int]) -> bool:
    """Whether this is a pickle of protocol 0 or 1, which have no magic bytes, and loading it would import or call.

    Followed as a loader would, opcode by opcode with its stack, since a text may well begin with a few opcodes: up to
    the first call, or the end. More opcodes than a package may have count as a pickle too.
    """
    stack: list[object] = []
    imports = False
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], _Bounded(file))):
            if next(opcodes_left, None) is None:
                return True
            if opcode.name in {"GLOBAL", "INST"}:
                if not _IMPORTED.fullmatch(str(argument)):
                    return False
                imports = True
            if opcode.name in {"PERSID", "BINPERSID"} or not _moved(stack, opcode):
                return False
            if opcode.name in _CALLS:
                return True
    except (ValueError, UnicodeDecodeError, IndexError, OverflowError):
        return False
    return imports


def _moved(stack: list[object], opcode: pickletools.OpcodeInfo) -> bool:
    """Do to the stack what `opcode` does; False when it holds too little for that."""
    taken = list(opcode.stack_before)
    if pickletools.markobject in taken:
        while stack and stack[-1] is not pickletools.markobject:
            stack.pop()
        del taken[taken.index(pickletools.markobject) + 1 :]
    if len(stack) < len(taken):
        return False
    del stack[len(stack) - len(taken) :]
    stack.extend(opcode.stack_after)
    return True
