"""Finding files that run code when they are loaded, by what they hold and not by what they are called.

Nothing here loads them: pickles are recognised by their opcodes, also when compressed (joblib) or within archives
(torch.save, TorchScript, NumPy's objects).
"""

from __future__ import annotations

import bz2
import lzma
import pickletools
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from seaway.errors import InvalidPackage

_START_BYTES = 1 << 16
_SUFFIXES = (".pkl", ".pickle", ".joblib")
_PROTOCOLS = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_CALLS = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD", "EXT1", "EXT2", "EXT4"}
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
    for path in sorted(directory.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(directory).as_posix()
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
        if path.name.lower().endswith(_SUFFIXES) or is_pickle(start):
            raise InvalidPackage(f"{name!r} is a pickle, which runs code when it is loaded; export the model to ONNX.")
        if zipfile.is_zipfile(path):
            _look_into(path, name)


def _look_into(path: Path, name: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                with archive.open(info) as member:
                    start = member.read(_START_BYTES)
                if info.filename.lower().endswith(_SUFFIXES) or is_pickle(start):
                    raise InvalidPackage(
                        f"{name!r} is an archive with pickles (TorchScript, torch.save); export the model to ONNX."
                    )
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError) as error:
        raise InvalidPackage(f"{name!r} is an archive that can't be looked into; leave it out.") from error


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
    return _calls_something(start)


def _calls_something(start: bytes) -> bool:
    """Protocols 0 and 1 have no magic bytes: a text is one if all of it reads as opcodes and one of them calls."""
    try:
        return bool(_CALLS & {opcode.name for opcode, _, _ in pickletools.genops(start)})
    except (ValueError, UnicodeDecodeError, IndexError, OverflowError):
        return False
