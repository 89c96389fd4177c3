"""What an input type makes of the `inputs` of a request, and what the types share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, Self

import msgspec
import numpy as np

from seaway.errors import InvalidPackage, InvalidRequest
from seaway.packages import PackageSpec
from seaway.packages.spec import SPEC_FILE
from seaway.types import MAX_BATCH_SIZE, Signature, TensorSpec

Array = np.ndarray[Any, np.dtype[Any]]
_HUGE = 1 << 64
Feeds = dict[str, Array]
"""The tensors of one run of the model, by name."""


class Samples(msgspec.Struct, frozen=True, gc=False):
    """The samples of one request, ready to run."""

    feeds: tuple[Feeds, ...]
    """One for each run of the model: a single one where the graph takes any number of samples, else one a sample."""
    rows: int
    bare: bool
    """True when the caller sent one sample and not a list, and so wants one output and not a list."""
    stacked: bool = True
    """True when the first axis of every tensor counts samples, of which a feed may then hold one."""
    tokens: int = 0
    masks: tuple[Array, ...] = ()
    """For text: which positions of each feed are tokens and not padding."""
    cut: int = 0
    """Texts that were longer than the model is given."""

    def apart(self) -> Samples:
        """The same samples, each in a run of its own and without padding."""
        runs: list[Feeds] = []
        masks: list[Array] = []
        for feeds, mask in zip(self.feeds, self.masks, strict=True):
            for row, counts in enumerate(mask):
                tokens = np.flatnonzero(counts)
                cut = slice(int(tokens[0]), int(tokens[-1]) + 1) if tokens.size else slice(0, 1)
                runs.append({name: array[row : row + 1, cut] for name, array in feeds.items()})
                masks.append(mask[row : row + 1, cut])
        return msgspec.structs.replace(self, feeds=tuple(runs), masks=tuple(masks))


class Padding(msgspec.Struct, frozen=True):
    """How rows of different lengths are stacked: filled up at their ends, which the mask says."""

    fills: dict[str, int]
    """Inputs whose second axis is the length, the mask among them, and what they are filled with."""
    mask: str
    longest: int
    """The longest row that is accepted."""
    exact: bool = False
    """Padding would change answers: only rows of one length ride together."""


class Form(msgspec.Struct, frozen=True):
    """An ordinary way to send samples, read straight from JSON into what the graph takes.

    A form is for the good: whatever doesn't fit it, wrong or only unusual, is None here, and `InputType.prepare` then
    reads it or says what is wrong. So a form may be stricter than `prepare`, and is never more permissive.
    """

    opening: bytes
    """The brackets that it begins with, as `[[`; no two forms of an input type share them."""
    kind: Any
    """The type that msgspec decodes `inputs` into."""
    read: Callable[[Any, int | None], Samples | None]
    """The samples, from what was decoded and the number of keys in its text (None: not counted, a large body)."""


class InputType(Protocol):
    """One kind of sample. An instance belongs to one version and is used by several threads at once."""

    options: msgspec.Struct
    """What seaway.yaml says about it, defaults filled in."""
    gives_masks: bool
    """True when its samples say which positions are padding, so that outputs can be pooled."""
    pads: bool
    """True when the samples of a request are padded to the longest of them."""
    padding: Padding | None
    """None: only rows of equal shapes may be stacked."""
    takes_bytes: bool
    """True when a body that is not JSON (an image) can be the one sample; `prepare` then gets it as bytes."""

    @classmethod
    def open(cls, package: Path, spec: PackageSpec, signature: Signature) -> Self:
        """Check the options against the graph. Raises InvalidPackage naming the key."""
        ...

    def prepare(self, inputs: Any) -> Samples:
        """Validate one sample or a list of samples. Raises InvalidRequest or PayloadTooLarge naming what is wrong."""
        ...

    def forms(self) -> Sequence[Form]:
        """Ordinary ways to send samples, each read faster than by `prepare`; there may be none."""
        ...

    def examples(self) -> Sequence[Any]:
        """Inputs that should work, the smallest first; a version without known answers is warmed up with them."""
        ...


def split(inputs: Any, is_sample: Callable[[Any], bool], *, limit: int | None) -> tuple[list[Any], bool]:
    """`inputs` as a list of at most `limit` samples, and whether it was a bare one."""
    if is_sample(inputs):
        return [inputs], True
    if not isinstance(inputs, list):
        return [inputs], True  # not a sample either: validation says what is wrong with it
    if not inputs:
        raise InvalidRequest("inputs is an empty list; send at least one sample.")
    check_rows(len(inputs), limit)
    return inputs, False


def check_rows(rows: int, limit: int | None) -> None:
    """Refuse a request with more samples than the package, or any package, allows."""
    limit = limit or MAX_BATCH_SIZE
    if rows > limit:
        are = "is" if limit == 1 else "are"
        raise InvalidRequest(f"The request has {rows} samples; {limit} {are} allowed (serving.max_batch_size).")


def stack(signature: Signature, feeds: Feeds, *, rows: int, bare: bool) -> Samples:
    """Samples from tensors whose first axis counts them, cut into runs of one where the graph takes no more."""
    if signature.batchable or rows == 1:
        return Samples((feeds,), rows, bare)
    cut = tuple({name: array[row : row + 1] for name, array in feeds.items()} for row in range(rows))
    return Samples(cut, rows, bare)


def at(sample: int, *, bare: bool) -> str:
    """Where in the request a sample is, for messages."""
    return "inputs" if bare else f"inputs[{sample}]"


def shown(value: Any) -> str:
    """A caller's value for a message, in JSON's words: quoted, escaped and short.

    >>> shown("text"), shown(None), shown(True), shown([1])
    ("'text'", 'null', 'true', 'a list')
    """
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) >= _HUGE:
        return "a huge number"  # Python refuses to print thousands of digits
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def reject(key: str, problem: str) -> NoReturn:
    """Raise InvalidPackage about a key of section `input`."""
    raise InvalidPackage(f"{SPEC_FILE}: input.{key}: {problem}")


def find_tensor(signature: Signature, name: str, key: str) -> TensorSpec:
    """The graph input that `key` names."""
    for spec in signature.inputs:
        if spec.name == name:
            return spec
    names = ", ".join(repr(spec.name) for spec in signature.inputs)
    reject(key, f"the graph has no input {name!r}; it has: {names}.")


def only_tensor(signature: Signature, key: str) -> TensorSpec:
    """The graph's one input, where `key` doesn't name any."""
    if len(signature.inputs) != 1:
        names = ", ".join(repr(spec.name) for spec in signature.inputs)
        reject(key, f"the graph has {len(signature.inputs)} inputs, so it must name one of: {names}.")
    return signature.inputs[0]


def counts_samples(spec: TensorSpec) -> bool:
    """True when a tensor's first axis can hold one sample."""
    return spec.shape[:1] in {(-1,), (1,)}
