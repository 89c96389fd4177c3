"""`seaway.yaml`: what a package says about its model beyond what the graph itself tells.

Only the form is checked here. What an input type's own options mean is in that type's file; whether names fit the graph
is checked when the package is opened.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml
from msgspec import Meta

from seaway.errors import InvalidPackage
from seaway.packages.known import advice, known_keys, known_values, value_at
from seaway.packages.manifest import safe_path
from seaway.types import Json

SPEC_FILE = "seaway.yaml"
_NEARLY = {"seaway.yaml", "seaway.yml"}
MAX_SPEC_BYTES = 256 * 1024
"""The YAML parser is pure Python: this much takes it a few seconds at worst."""
MAX_LABELS_BYTES = 4 * 1024 * 1024

T = TypeVar("T")
_UNKEEPABLE = re.compile(r"[\x00\ud800-\udfff]")


class InputSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Section `input`. `options` is for the input type named by `type`, which checks it."""

    type: str = ""
    """Empty: what the runtime makes of the package's files, else `tensor`."""
    allow_nonfinite: bool = False
    options: Json = {}


class OutputSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `output`: what `/predict` makes of the graph's outputs."""

    tensor: str | None = None
    pooling: Literal["mean", "cls"] | None = None
    normalize: bool = False
    softmax: bool = False
    labels: tuple[str, ...] | None = None


class ServingDefaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `serving`: what a deployment takes when it doesn't say otherwise."""

    # The upper limits are those of a deployment's own settings.
    engines: Annotated[int, Meta(ge=1, le=1024)] | None = None
    processes: Annotated[int, Meta(ge=1, le=256)] | None = None
    max_queue_size: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] | None = None
    placement: Literal["auto", "inline", "worker"] | None = None
    joint_runs: Literal["auto", "never"] | None = None
    lane: Literal["auto", "cpu", "batch"] | None = None
    device: str | None = None
    dtype: Literal["auto", "fp32", "bf16", "fp16"] | None = None
    max_batch_rows: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    max_batch_tokens: Annotated[int, Meta(ge=1, le=100_000_000)] | None = None
    preferred_batch_rows: (
        Annotated[tuple[Annotated[int, Meta(ge=1, le=65_536)], ...], Meta(min_length=1, max_length=16)] | None
    ) = None
    max_queue_delay_seconds: Annotated[float, Meta(ge=0, le=60)] | None = None
    latency_target_seconds: Annotated[float, Meta(gt=0, le=3600)] | None = None
    length_bucketing: bool | None = None
    max_batch_size: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    """Samples of one request; more are refused. None: what the input type says, else as many as fit in a body."""


class PackageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed `seaway.yaml`; every default stands for what the file leaves out."""

    runtime: str | None = None
    model: str | None = None
    task: str | None = None
    architecture: tuple[Json, ...] | None = None
    signature: Json | None = None
    """This and the two above are for the runtimes that read them, which check them."""
    input: InputSpec = InputSpec()
    output: OutputSpec = OutputSpec()
    known_answers: str | None = None
    serving: ServingDefaults = ServingDefaults()
    description: str = ""


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The file as it is written; `PackageSpec` is the same with references followed."""

    runtime: str | None = None
    model: str | None = None
    task: str | None = None
    architecture: tuple[Json, ...] | None = None
    signature: Json | None = None
    input: Json = {}
    output: Json = {}
    known_answers: str | None = None
    serving: ServingDefaults = ServingDefaults()
    description: Annotated[str, Meta(max_length=10_000)] = ""


def read_spec(package: Path) -> PackageSpec:
    """Read `seaway.yaml` of a package directory; without one, all defaults. Raises InvalidPackage naming the key."""
    file = convert(_load_yaml(package), _File, "")
    common = {key: value for key, value in file.input.items() if key in {"type", "allow_nonfinite"}}
    options = {key: value for key, value in file.input.items() if key not in common}
    labels = file.output.get("labels")
    if isinstance(labels, str):
        file.output["labels"] = _read_labels(package, labels)
    return PackageSpec(
        runtime=file.runtime,
        model=str(safe_path(file.model)) if file.model is not None else None,
        task=file.task,
        architecture=file.architecture,
        signature=file.signature,
        input=convert({**common, "options": options}, InputSpec, "input"),
        output=convert(file.output, OutputSpec, "output"),
        known_answers=str(safe_path(file.known_answers)) if file.known_answers is not None else None,
        serving=file.serving,
        description=file.description,
    )


def refuse_misnamed(package: Path) -> None:
    """Raises InvalidPackage where a file is called nearly as `seaway.yaml`, since nobody would read it.

    For what is registered now: a version that was registered with such a file goes on as it is.
    """
    names = {file.name for file in package.iterdir()}
    misnamed = sorted(name for name in names if name.lower() in _NEARLY and name != SPEC_FILE)
    if misnamed:
        wrong = misnamed[0]
        what = f"remove {wrong}, or make one file of the two" if SPEC_FILE in names else "rename it"
        raise InvalidPackage(f"The package has {wrong}; its description is read from {SPEC_FILE}: {what}.")


def convert(value: Any, kind: type[T], section: str) -> T:
    """`value` from a YAML file as a `kind`, strictly. Raises InvalidPackage naming the key below `section`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidPackage(f"{SPEC_FILE}: {_explain(str(error), section, value, kind)}") from error


def package_file(package: Path, path: str, key: str) -> Path:
    """The file of the package that `key` in seaway.yaml names. Raises InvalidPackage when it isn't there."""
    file = package.joinpath(safe_path(path))
    if not file.is_file() or file.is_symlink():
        raise InvalidPackage(f"{SPEC_FILE}: {key} names {path!r}, which is not a file of the package.")
    return file


def _explain(message: str, section: str, value: Any, kind: Any) -> str:
    """msgspec's message about `value`, which is no `kind`, with the key as people write it and what it may be.

    >>> _explain("Object contains unknown field `pool` - at `$`", "output", {"pool": "mean"}, OutputSpec)
    "unknown key 'output.pool'; did you mean 'pooling'?"
    >>> _explain("Expected `int`, got `str` - at `$.engines`", "serving", {"engines": "2"}, ServingDefaults)
    "'serving.engines' must be a whole number, not '2'."
    """
    text, _, where = message.partition(" - at `$")
    where = where.rstrip("`")
    key = f"{section}{where}".strip(".") or "the file"
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text):
        known = known_keys(kind, value, where) + (["type", "allow_nonfinite"] if key == "input" else [])
        return f"unknown key {f'{key}.{unknown[1]}'.removeprefix('the file.')!r}; {advice(unknown[1], known)}"
    if wrong := re.fullmatch(r"Invalid (?:enum )?value '(.*)'", text, re.DOTALL):
        known = known_values(kind, value, where)
        return f"{key!r}: there is no {wrong[1][:80]!r}; known are: {', '.join(known)}."
    if missing := re.fullmatch(r"Object missing required field `(.*)`", text):
        return f"{f'{key}.{missing[1]}'.removeprefix('the file.')!r} is required."
    if expected := _EXPECTED.fullmatch(text):
        return f"{key!r} must be {_expected(expected)}, not {_shown(value_at(value, where), expected['got'])}."
    return f"{key!r}: {text[:1].lower()}{text[1:]}."


_EXPECTED = re.compile(
    r"Expected `(?P<kinds>[^`]*)`(?: (?P<length>of length )?(?P<sign>[<>]=?) (?P<limit>[\d.]+))?"
    r"(?:, got `(?P<got>.*)`)?"
)
_KINDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "array": "a list",
    "object": "keys and values",
}  # fmt: skip
_SIGNS = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}
_SHOWN_CHARACTERS = 60


def _expected(found: re.Match[str]) -> str:
    """What is possible there; that a key may be left out goes without saying."""
    kinds = [_KINDS.get(kind, kind) for kind in found["kinds"].split(" | ") if kind != "null"]
    limit = f"{_SIGNS[found['sign']]} {found['limit']}" if found["sign"] else ""
    if found["length"]:
        return f"{' or '.join(kinds)} of {limit} {'characters' if found['kinds'].startswith('str') else 'values'}"
    return f"{' or '.join(kinds)}, {limit}" if limit else " or ".join(kinds) or "left out"


def _shown(value: Any, kind: str | None) -> str:
    """A value of the file, if it is short; `kind` is what msgspec calls it."""
    if value is None or isinstance(value, dict | list | tuple):
        return _KINDS.get(kind or "", kind or "that") if kind != "null" else "nothing"
    text = repr(value[:_SHOWN_CHARACTERS] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN_CHARACTERS + 2 else "this"


def _read_labels(package: Path, path: str) -> list[str]:
    file = package_file(package, path, "output.labels")
    if file.stat().st_size > MAX_LABELS_BYTES:
        raise InvalidPackage(f"{SPEC_FILE}: output.labels: {path!r} is larger than {MAX_LABELS_BYTES} bytes.")
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InvalidPackage(f"{SPEC_FILE}: output.labels: {path!r} is not UTF-8 text, one label a line.") from error


def _load_yaml(package: Path) -> Any:
    file = package / SPEC_FILE
    if not file.exists():
        return {}
    if not file.is_file() or file.is_symlink() or file.stat().st_size > MAX_SPEC_BYTES:
        raise InvalidPackage(f"{SPEC_FILE} must be a plain file of at most {MAX_SPEC_BYTES} bytes.")
    try:
        content = yaml.load(file.read_bytes(), _Loader)  # noqa: S506 - _Loader is a SafeLoader that allows less
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        raise InvalidPackage(f"{SPEC_FILE} is not valid YAML{where}: {problem}.") from error
    except (RecursionError, ValueError) as error:
        raise InvalidPackage(f"{SPEC_FILE} can't be read: nested too deep, or not a YAML value.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidPackage(f"{SPEC_FILE} must hold keys and values at its top.")
    return content


class _Loader(yaml.SafeLoader):
    """Safe YAML of text that can be kept, without aliases (a small file would expand without end) or duplicate keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if isinstance(node, yaml.ScalarNode) and _UNKEEPABLE.search(node.value):
            raise yaml.constructor.ConstructorError(None, None, "text must be Unicode without NUL", node.start_mark)
        return super().construct_scalar(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)
