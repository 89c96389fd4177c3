"""What `/predict` makes of the graph's outputs: pooling, softmax, normalisation, labels, and the shape of the answer.

The Open Inference Protocol gets the graph's own tensors and none of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from seaway.errors import InferenceFailed, InvalidPackage
from seaway.inputs.base import Array, Samples
from seaway.packages import OutputSpec
from seaway.packages.spec import SPEC_FILE
from seaway.types import Signature, TensorSpec
from seaway.wire.numbers import FEW

_SEQUENCE_RANK = 3
"""Samples, tokens, features: what pooling needs."""


class OutputStage:
    """Section `output` of a package, checked against its graph. Pure, and so shared by all engine threads."""

    def __init__(self, spec: OutputSpec, signature: Signature, *, masked: bool) -> None:
        """`masked`: the input type says which positions are tokens. Raises InvalidPackage naming the key."""
        self.spec = spec
        self.tensors = _chosen(spec, signature)
        self.names = tuple(tensor.name for tensor in self.tensors)
        self._labels = spec.labels
        self._changes = bool(spec.pooling or spec.softmax or spec.normalize)
        per_token = masked and spec.pooling is None
        self._per_token = tuple(per_token and tensor.shape[:2] == (-1, -1) for tensor in self.tensors)
        """Outputs with a part for each token of a text; the parts of padding are left out."""
        if not (self._changes or spec.labels is not None):
            return
        if len(self.tensors) != 1:
            names = ", ".join(map(repr, self.names))
            _reject("tensor", f"pooling, normalize, softmax and labels are for one output; name one of: {names}.")
        _check(spec, self.tensors[0], masked=masked)

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Labels by the output they belong to."""
        return {self.names[0]: self._labels} if self._labels else {}

    def values(self, samples: Samples, runs: Sequence[Sequence[Array]]) -> Any:
        """The `outputs` of an answer, shaped as the request's `inputs` were: Python values and arrays."""
        if len(runs) == 1 and len(self.names) == 1 and samples.stacked and not self._per_token[0]:
            found = self._numbers(runs[0][0], samples)
            if found is not None:
                return found[0] if samples.bare else found
        columns = [self._column(samples, runs, position) for position in range(len(self.names))]
        if len(columns) == 1:
            return columns[0][0] if samples.bare else columns[0]
        answers = [dict(zip(self.names, values, strict=True)) for values in zip(*columns, strict=True)]
        return answers[0] if samples.bare else answers

    def _numbers(self, array: Array, samples: Samples) -> list[Any] | Array | None:
        """The one output where it is numbers, a row or more for each sample: as `_column` gives it, and sooner."""
        if array.dtype.kind not in "fiub" or array.shape[:1] != (samples.rows,):
            return None
        if self._changes:
            array = self._change(array, samples.masks[0] if samples.masks else None)
        labels = self._labels
        if labels is None and array.size > FEW:
            return array
        rows: list[Any] = array.tolist()
        if labels is None:
            return rows
        if array.shape[1:] != (len(labels),):
            return None
        answers = []
        for scores in rows:
            total = sum(scores)
            if total != total:
                return None  # NaN among them, or infinities of both signs: `_labelled` tells them apart
            best = max(scores)
            label = labels[scores.index(best)]
            answers.append({"label": label, "score": best, "scores": dict(zip(labels, scores, strict=True))})
        return answers

    def _column(self, samples: Samples, runs: Sequence[Sequence[Array]], position: int) -> Any:
        """One output for every sample, as something to index by sample."""
        parts = []
        for number, run in enumerate(runs):
            mask = samples.masks[number] if samples.masks else None
            array = run[position]
            rows = samples.rows if len(runs) == 1 else 1
            whole = not samples.stacked
            changed = [self._change(array, mask)] if whole else self._rows(array, mask, rows, position)
            if self._per_token[position] and mask is not None and array.shape[:2] == mask.shape:
                changed = [row[is_token.astype(bool)] for row, is_token in zip(changed, mask, strict=True)]
            parts.append(changed)
        column = parts[0] if len(parts) == 1 else [part[0] for part in parts]
        if self._labels is not None:
            return [self._labelled(value) for value in column]
        if isinstance(column, np.ndarray):
            return column.tolist() if column.dtype.kind == "O" else column
        return [value.tolist() if value.dtype.kind == "O" else value for value in column]

    def _rows(self, array: Array, mask: Array | None, rows: int, position: int) -> Any:
        if array.shape[:1] == (rows,):
            return self._change(array, mask)
        if rows == 1:
            return [self._change(array, mask)]
        raise InferenceFailed(f"The output {self.names[position]!r} has shape {list(array.shape)} for {rows} samples.")

    def _change(self, array: Array, mask: Array | None) -> Array:
        if not self._changes:
            return array
        # Half precision overflows in a sum of squares.
        array = array.astype(np.float32) if array.dtype == np.float16 else array
        with np.errstate(all="ignore"):
            if self.spec.pooling is not None and mask is not None:
                array = pool(array, mask, self.spec.pooling)
            if self.spec.softmax:
                array = softmax(array)
            if self.spec.normalize:
                array = normalize(array)
        return array

    def _labelled(self, scores: Any) -> Any:
        """Scores along the last axis as the best label and all of them; further axes stay lists.

        Scores that are no numbers have no best: label and score are None then, rather than whatever comes first.
        """
        labels = self._labels or ()
        if scores.ndim > 1:
            return [self._labelled(part) for part in scores]
        if scores.shape != (len(labels),):
            raise InferenceFailed(f"The model gave scores of shape {list(scores.shape)} for {len(labels)} labels.")
        values = scores.tolist()
        if np.isnan(scores).any():
            return {"label": None, "score": None, "scores": dict(zip(labels, values, strict=True))}
        best = int(np.argmax(scores))
        return {"label": labels[best], "score": values[best], "scores": dict(zip(labels, values, strict=True))}


def pool(states: Array, mask: Array, how: str) -> Array:
    """One vector a text from one a token: their mean, or the first token's; padding doesn't count."""
    if states.ndim != _SEQUENCE_RANK or states.shape[:2] != mask.shape:
        shape = list(states.shape)
        raise InferenceFailed(f"Pooling needs an output of shape [samples, tokens, features]; it has {shape}.")
    if how == "cls":
        first: Array = states[np.arange(len(states)), mask.argmax(axis=1)]
        return first
    weights = mask[:, :, np.newaxis].astype(states.dtype)
    mean: Array = (states * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
    return mean


def softmax(scores: Array) -> Array:
    """Along the last axis; does not overflow."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    share: Array = powers / powers.sum(axis=-1, keepdims=True)
    return share


def normalize(vectors: Array) -> Array:
    """To length 1 along the last axis; a zero vector stays zero."""
    unit: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return unit


def _chosen(spec: OutputSpec, signature: Signature) -> tuple[TensorSpec, ...]:
    if spec.tensor is None:
        return signature.outputs
    chosen = tuple(tensor for tensor in signature.outputs if tensor.name == spec.tensor)
    if not chosen:
        names = ", ".join(repr(tensor.name) for tensor in signature.outputs)
        _reject("tensor", f"the graph has no output tensor {spec.tensor!r}; it has: {names}.")
    return chosen


def _check(spec: OutputSpec, tensor: TensorSpec, *, masked: bool) -> None:
    if tensor.datatype not in {"FP16", "FP32", "FP64"}:
        _reject("tensor", f"{tensor.name!r} is {tensor.datatype}; pooling, normalize, softmax and labels need floats.")
    if spec.pooling and not masked:
        _reject("pooling", "is for input type text.")
    if spec.pooling and len(tensor.shape) not in {0, _SEQUENCE_RANK}:
        _reject("pooling", f"needs an output of 3 dimensions; {tensor.name!r} has {list(tensor.shape)}.")
    if spec.labels is None:
        return
    if len(set(spec.labels)) != len(spec.labels) or not all(spec.labels):
        _reject("labels", "must be different from each other and not empty.")
    if tensor.shape and tensor.shape[-1] not in {-1, len(spec.labels)}:
        _reject("labels", f"{len(spec.labels)} labels for {tensor.name!r}, which has {tensor.shape[-1]} scores.")


def _reject(key: str, problem: str) -> NoReturn:
    raise InvalidPackage(f"{SPEC_FILE}: output.{key}: {problem}")
