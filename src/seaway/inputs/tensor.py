"""Input type `tensor`: a sample is the graph's own tensors as nested lists.

Where the graph takes any number of samples, a sample lacks the first axis and a list of samples is stacked; else a
sample is whole and a list runs one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from seaway.errors import InvalidRequest
from seaway.inputs.arrays import DTYPES, check_shape, nesting, to_array
from seaway.inputs.base import Array, Form, Samples, at, shown, split
from seaway.inputs.forms import tensor_forms
from seaway.packages import PackageSpec
from seaway.packages.spec import convert
from seaway.types import Signature, TensorSpec


class TensorOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """It has none: the graph says everything."""


class TensorInput:
    """Nested lists for one input; an object of them by input name for several."""

    gives_masks = False
    pads = False
    padding = None
    takes_bytes = False

    def __init__(self, options: TensorOptions, signature: Signature, spec: PackageSpec) -> None:
        self.options = options
        self._signature = signature
        self._allow_nonfinite = spec.input.allow_nonfinite
        self._limit = spec.serving.max_batch_size
        self._names = {spec.name for spec in signature.inputs}

    @classmethod
    def open(cls, package: Path, spec: PackageSpec, signature: Signature) -> Self:
        return cls(convert(spec.input.options, TensorOptions, "input"), signature, spec)

    def prepare(self, inputs: Any) -> Samples:
        samples, bare = split(inputs, self._is_sample, limit=self._limit)
        if self._signature.batchable:
            feeds = {spec.name: self._stacked(samples, spec, bare=bare) for spec in self._signature.inputs}
            return Samples((feeds,), len(samples), bare)
        runs = tuple(
            {spec.name: self._tensor(sample, spec, where=at(row, bare=bare)) for spec in self._signature.inputs}
            for row, sample in enumerate(samples)
        )
        return Samples(runs, len(samples), bare, stacked=False)

    def forms(self) -> Sequence[Form]:
        return tensor_forms(self._signature, self._limit)

    def examples(self) -> Sequence[Any]:
        found = [self._example(length) for length in (1, 8)]
        return found[:1] if found[0] == found[1] else found

    def _is_sample(self, inputs: Any) -> bool:
        if isinstance(inputs, dict):
            return True
        if len(self._signature.inputs) != 1 or inputs == []:
            return False
        rank = self._rank(self._signature.inputs[0])
        # Only the rank tells a sample from a list of them; where the graph declares none, there is only one sample.
        named = isinstance(inputs, list) and isinstance(inputs[0], dict)
        return rank is None or (nesting(inputs) <= rank and not named)

    def _rank(self, spec: TensorSpec) -> int | None:
        """Dimensions of a sample's tensor; None when the graph doesn't declare them."""
        if self._signature.batchable:
            return len(spec.shape) - 1
        return len(spec.shape) or None

    def _pick(self, sample: Any, spec: TensorSpec, where: str) -> tuple[Any, str]:
        """This tensor's part of a sample, and what messages call it."""
        if not isinstance(sample, dict):
            if len(self._names) == 1:
                return sample, where
            names = ", ".join(sorted(map(repr, self._names)))
            raise InvalidRequest(f"{where} must be an object with the inputs {names}, not {shown(sample)}.")
        if unknown := sample.keys() - self._names:
            raise InvalidRequest(f"{where}: the model has no input {shown(min(unknown))}; it has {_list(self._names)}.")
        if spec.name not in sample:
            raise InvalidRequest(f"{where}: the input {spec.name!r} is missing.")
        return sample[spec.name], f"{where}.{spec.name}"

    def _stacked(self, samples: list[Any], spec: TensorSpec, *, bare: bool) -> Array:
        if bare:
            return self._tensor(samples[0], spec, where="inputs")[np.newaxis]
        if any(isinstance(sample, dict) for sample in samples) or len(self._names) > 1:
            arrays = [self._tensor(sample, spec, where=f"inputs[{row}]") for row, sample in enumerate(samples)]
            if len({array.shape for array in arrays}) > 1:
                raise InvalidRequest(f"The samples' {spec.name!r} have different shapes; send one request for each.")
            return np.stack(arrays)
        array = to_array(samples, spec.datatype, len(spec.shape), where="inputs", allow_nonfinite=self._allow_nonfinite)
        check_shape(array.shape, spec, where="inputs")
        return array

    def _tensor(self, sample: Any, spec: TensorSpec, *, where: str) -> Array:
        value, where = self._pick(sample, spec, where)
        rank = self._rank(spec)
        rank = nesting(value) if rank is None else rank
        array = to_array(value, spec.datatype, rank, where=where, allow_nonfinite=self._allow_nonfinite)
        shape = spec.shape[1:] if self._signature.batchable else spec.shape
        check_shape(array.shape, TensorSpec(spec.name, spec.datatype, shape), where=where)
        return array

    def _example(self, length: int) -> Any:
        tensors = {}
        for spec in self._signature.inputs:
            shape = spec.shape[1:] if self._signature.batchable else spec.shape
            filler = "" if spec.datatype == "BYTES" else 0
            sizes = [length if size == -1 else size for size in shape]
            tensors[spec.name] = np.full(sizes, filler, dtype=DTYPES[spec.datatype]).tolist()
        return tensors


def _list(names: set[str]) -> str:
    return ", ".join(sorted(map(repr, names)))
