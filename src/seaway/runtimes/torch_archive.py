"""Reads what `torch.export.save` wrote, without torch and without anything of torch's that runs code.

torch's own reader must not see a stranger's archive, checked or not: `torch.export.load` unpickles the sample inputs
and the tensors whose `use_pickle` is set, and evaluates the expressions of dynamic shapes as Python (`sympify`). So
this file takes the archive apart: a zip file of uncompressed entries, JSON that is read as data, tensors as raw bytes.
What is pickled, compiled or unknown is refused by its name before any entry is read.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from seaway.errors import InvalidPackage
from seaway.packages.manifest import safe_path
from seaway.types import Json

MAX_ENTRIES = 100_000
MAX_JSON_BYTES = 256 * 1024 * 1024
MAX_SAMPLE_BYTES = 256 * 1024 * 1024
_ALIGNED_HEADER = struct.Struct("<4s22xHH")
_LOCAL = b"PK\x03\x04"
_TENSOR = re.compile(r"data/(weights/weight_\d+|constants/tensor_\d+)")
_KNOWN = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/[\w.-]+\.json|extra/.+"
    r"|data/(weights/[\w.-]+_weights_config|constants/[\w.-]+_constants_config)\.json|data/sample_inputs/[\w.-]+\.pt"
)
_REFUSED = (
    (re.compile(r"data/(weights|constants)/[^/]+\.pt"), "is a pickle, as older versions of torch wrote them"),
    (re.compile(r"data/constants/(custom|opaque)_obj_\d+"), "is a pickled object"),
    (re.compile(r"data/aotinductor/.*"), "is compiled machine code"),
)
_SAMPLE_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch (\w+Storage|Size|device|[a-z]+\d*)"
)
_SAMPLE_ENTRY = re.compile(r"data\.pkl|byteorder|version|\.format_version|\.storage_alignment|\.data/\w+|data/\d+")
_CALLS = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
_AGAIN = "Export it again with torch.export.save of torch 2.9 or later, of a plain model."
ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}
"""Size of an element, by the number that an archive gives a type."""


class StoredTensor(NamedTuple):
    """Where in the file a tensor's bytes are, and how to look at them."""

    begin: int
    n_bytes: int
    dtype: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


class Archive(NamedTuple):
    """What an archive says. Everything in it is data that somebody else wrote."""

    graph_module: Json
    range_constraints: Json
    tensors: dict[str, StoredTensor]
    """Parameters, buffers and constants, by the names that the graph's signature has for them."""


def read_archive(path: Path) -> Archive:
    """Take `path` apart. Raises InvalidPackage naming the entry that is refused."""
    try:
        with zipfile.ZipFile(path) as file:
            return _Reader(path, file).read()
    except (zipfile.BadZipFile, struct.error, EOFError, OSError, NotImplementedError, ValueError) as error:
        raise InvalidPackage(f"{path.name!r} is not an archive of torch.export: it is no sound zip file.") from error


class _Reader:
    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self._path = path
        self._file = file
        self._entries: dict[str, zipfile.ZipInfo] = {}

    def read(self) -> Archive:
        self._check_entries()
        self._check_header()
        models = [name for name in self._entries if name.startswith("models/")]
        if len(models) != 1:
            self._refuse(f"it has {len(models)} models; export one")
        content = self._json(models[0])
        model = models[0].removeprefix("models/").removesuffix(".json")
        tensors = self._tensors(f"data/weights/{model}_weights_config.json", "data/weights/")
        tensors |= self._tensors(f"data/constants/{model}_constants_config.json", "data/constants/")
        for name in self._entries:
            if name.startswith("data/sample_inputs/"):
                self._check_sample(name)
        graph_module, constraints = content.get("graph_module"), content.get("range_constraints")
        if not isinstance(graph_module, dict) or not isinstance(constraints, dict):
            self._refuse("its model has no graph")
        return Archive(graph_module, constraints, tensors)

    # ------------------------------------------------------------------ names and sizes, before anything is read

    def _check_entries(self) -> None:
        infos = self._file.infolist()
        if not infos or len(infos) > MAX_ENTRIES:
            self._refuse(f"it has {len(infos)} entries; 1 to {MAX_ENTRIES} are allowed")
        root = infos[0].filename.partition("/")[0]
        for info in infos:
            name = info.filename.removeprefix(f"{root}/")
            safe_path(info.filename)
            if name == info.filename or name in self._entries:
                self._refuse(f"its entry {info.filename!r} is twice there, or outside of {root!r}")
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
                self._refuse(f"its entry {name!r} is compressed or encrypted, which torch.export.save never does")
            self._entries[name] = info
        if sum(info.file_size for info in infos) > self._path.stat().st_size:
            self._refuse("its entries are larger than itself")
        for name in self._entries:
            if problem := next((why for pattern, why in _REFUSED if pattern.fullmatch(name)), None):
                self._refuse(f"its entry {name!r} {problem}, which could run code. {_AGAIN}")
            if not _TENSOR.fullmatch(name) and not _KNOWN.fullmatch(name):
                self._refuse(f"its entry {name!r} is unknown. {_AGAIN}")

    def _check_header(self) -> None:
        if self._bytes("archive_format", 16) != b"pt2":
            self._refuse("it is no archive of the format 'pt2'")
        if self._bytes("archive_version", 16) != b"0":
            self._refuse("it has a version that is not known here")
        if "byteorder" in self._entries and self._bytes("byteorder", 16) != b"little":
            self._refuse("its numbers are not little-endian")

    # ------------------------------------------------------------------ contents

    def _bytes(self, name: str, limit: int) -> bytes:
        info = self._entries.get(name)
        if info is None:
            self._refuse(f"it lacks the entry {name!r}. {_AGAIN}")
        if info.file_size > limit:
            self._refuse(f"its entry {name!r} has {info.file_size} bytes; {limit} are allowed")
        return self._file.read(info)

    def _json(self, name: str) -> Json:
        try:
            content = msgspec.json.decode(self._bytes(name, MAX_JSON_BYTES))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidPackage(f"{self._path.name!r}: its entry {name!r} is not JSON.") from error
        if not isinstance(content, dict):
            self._refuse(f"its entry {name!r} is no JSON object")
        return content

    def _tensors(self, config: str, folder: str) -> dict[str, StoredTensor]:
        found = self._json(config).get("config")
        if not isinstance(found, dict):
            self._refuse(f"its entry {config!r} has no 'config'")
        return {name: self._tensor(name, payload, folder) for name, payload in found.items()}

    def _tensor(self, name: str, payload: Any, folder: str) -> StoredTensor:
        payload = payload if isinstance(payload, dict) else {}
        if payload.get("use_pickle") is not False:
            self._refuse(f"its tensor {name!r} is pickled, which could run code. {_AGAIN}")
        entry = f"{folder}{payload.get('path_name')}"
        if not _TENSOR.fullmatch(entry) or entry not in self._entries:
            self._refuse(f"its tensor {name!r} is in {entry!r}, which isn't there")
        meta = payload.get("tensor_meta")
        try:
            tensor = self._stored(entry, meta)
        except (TypeError, KeyError, AttributeError, ValueError, IndexError):
            self._refuse(f"its tensor {name!r} has no sound description")
        return tensor

    def _stored(self, entry: str, meta: Any) -> StoredTensor:
        sizes, strides = (tuple(_count(size["as_int"]) for size in meta[key]) for key in ("sizes", "strides"))
        offset = _count(meta["storage_offset"]["as_int"])
        size, n_bytes = ITEM_BYTES[meta["dtype"]], self._entries[entry].file_size
        empty = 0 in sizes
        last = offset + sum((count - 1) * stride for count, stride in zip(sizes, strides, strict=True))
        if not empty and (last + 1) * size > n_bytes:
            raise ValueError(entry)
        if math.prod(sizes) * size > 4 * max(n_bytes, 1):
            raise ValueError(entry)  # strides of 0 would make much of little
        return StoredTensor(self._begin(entry), n_bytes, meta["dtype"], sizes, strides, offset)

    def _begin(self, entry: str) -> int:
        """Where an entry's bytes begin: behind its own header, whose name is as long as it says itself."""
        info = self._entries[entry]
        with self._path.open("rb") as file:
            file.seek(info.header_offset)
            magic, name, extra = _ALIGNED_HEADER.unpack(file.read(_ALIGNED_HEADER.size))
        begin: int = info.header_offset + _ALIGNED_HEADER.size + name + extra
        if magic != _LOCAL or begin + info.file_size > self._path.stat().st_size:
            raise ValueError(entry)
        return begin

    # ------------------------------------------------------------------ what is never read, but must not be a trap

    def _check_sample(self, name: str) -> None:
        """The sample inputs are a pickle always. They aren't read here; whoever downloads the archive may read them."""
        content = self._bytes(name, MAX_SAMPLE_BYTES)
        if not content:
            return
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as inner:
                names = {info.filename.partition("/")[2]: info for info in inner.infolist()}
                wrong = [entry for entry in names if not _SAMPLE_ENTRY.fullmatch(entry)]
                if wrong or any(info.compress_type != zipfile.ZIP_STORED for info in names.values()):
                    self._refuse(f"its entry {name!r} holds more than tensors. {_AGAIN}")
                calls = _calls(inner.read(names["data.pkl"]))
        except (zipfile.BadZipFile, KeyError, ValueError, IndexError, UnicodeDecodeError):
            self._refuse(f"its entry {name!r} is a pickle of an unknown form, which could run code. {_AGAIN}")
        if refused := [call for call in calls if not _SAMPLE_GLOBALS.fullmatch(call)]:
            self._refuse(f"its entry {name!r} is a pickle that calls {refused[0][:80]!r}, which could run code")

    def _refuse(self, problem: str) -> NoReturn:
        text = f"{self._path.name!r} is refused: {problem}"
        raise InvalidPackage(text if text.endswith(".") else f"{text}.")


def _calls(pickled: bytes) -> list[str]:
    """What a pickle names to be called. Nothing is called: its instructions are only listed."""
    calls = []
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name == "GLOBAL":
            calls.append(str(argument))
        elif operation.name in _CALLS:
            calls.append(operation.name)
    return calls


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(value)
    return value
