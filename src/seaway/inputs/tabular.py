"""Input type `tabular`: a sample is an object of named features, or a list of them in their order.

Numbers go into the tensor as they are. A category goes as its name where the graph takes strings, else as its position
in `categories`.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

import msgspec
import numpy as np

from seaway.errors import InvalidRequest
from seaway.inputs.arrays import DTYPES
from seaway.inputs.base import (
    Form,
    Samples,
    at,
    counts_samples,
    find_tensor,
    only_tensor,
    reject,
    shown,
    split,
    stack,
)
from seaway.inputs.rows import RowColumn, RowForms
from seaway.packages import PackageSpec
from seaway.packages.spec import convert
from seaway.types import Signature, TensorSpec

Category = str | int | bool
NAN = float("nan")
_LISTED, _COMPARED = 10, 100
"""Categories that an error lists, and how many are compared with a wrong one, by as many of its characters."""


class Feature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of `features`."""

    name: str
    type: Literal["number", "category"] = "number"
    categories: tuple[Category, ...] = ()
    missing: Category | float = "error"
    """What a null or absent value becomes: `error` refuses it, `nan`, or a number or category."""
    unknown: Category = "error"
    """What a value outside `categories` becomes: `error` refuses it, or one of the categories."""
    tensor: str | None = None
    """The graph input it goes into, where it isn't `input.tensor`."""


class TabularOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    features: tuple[Feature, ...]
    tensor: str | None = None


class TabularInput:
    """Columns of named features, in the order that the graph was trained with."""

    gives_masks = False
    pads = False
    padding = None
    takes_bytes = False

    def __init__(
        self, options: TabularOptions, signature: Signature, columns: Sequence[Column], limit: int | None
    ) -> None:
        self.options = options
        self._limit = limit
        self._signature = signature
        self._columns = tuple(columns)
        self._names = {column.name for column in columns}

    @classmethod
    def open(cls, package: Path, spec: PackageSpec, signature: Signature) -> Self:
        options = convert(spec.input.options, TabularOptions, "input")
        _check_names(options.features)
        columns = []
        for number, feature in enumerate(options.features):
            key = f"features[{number}]"
            columns.append(Column(feature, _tensor_of(feature, options, signature, key), key))
        for tensor in signature.inputs:
            _check_width(tensor, [column for column in columns if column.tensor.name == tensor.name])
        return cls(options, signature, columns, spec.serving.max_batch_size)

    def prepare(self, inputs: Any) -> Samples:
        samples, bare = split(inputs, _is_row, limit=self._limit)
        rows = [self._row(sample, at(number, bare=bare)) for number, sample in enumerate(samples)]
        feeds = {}
        for spec in self._signature.inputs:
            used = [number for number, column in enumerate(self._columns) if column.tensor is spec]
            array = np.array([[row[number] for number in used] for row in rows], dtype=DTYPES[spec.datatype])
            feeds[spec.name] = array[:, 0] if len(spec.shape) == 1 else array
        return stack(self._signature, feeds, rows=len(rows), bare=bare)

    def forms(self) -> Sequence[Form]:
        columns = [column.for_forms() for column in self._columns]
        known = [column for column in columns if column is not None]
        if len(self._signature.inputs) > 1 or len(known) < len(columns):
            return ()
        return RowForms(known, self._signature, self._limit).all()

    def examples(self) -> Sequence[Any]:
        row = {column.name: column.example for column in self._columns}
        return [row, [row] * 8]

    def _row(self, sample: Any, where: str) -> list[Any]:
        """The sample's values as they go into the tensors, in the order of the features."""
        if isinstance(sample, dict):
            if not sample.keys() <= self._names:
                unknown = min(sample.keys() - self._names)
                raise InvalidRequest(f"{where}: there is no feature {shown(unknown)}; there are: {self._listed()}.")
            return [column.encode(sample.get(column.name), where) for column in self._columns]
        if not isinstance(sample, list):
            raise InvalidRequest(
                f"{where} must be an object of features or a list of them, not {shown(sample)}; "
                f"the features are: {self._listed()}."
            )
        if len(sample) != len(self._columns):
            count = len(self._columns)
            raise InvalidRequest(f"{where} has {len(sample)} values; there are {count} features: {self._listed()}.")
        return [column.encode(value, where) for column, value in zip(self._columns, sample, strict=True)]

    def _listed(self) -> str:
        names = [repr(column.name) for column in self._columns]
        return ", ".join(names if len(names) <= 30 else [*names[:30], "..."])


class Column:
    """One feature, with what its values may be and become."""

    def __init__(self, feature: Feature, tensor: TensorSpec, key: str) -> None:
        self.name = feature.name
        self.tensor = tensor
        self._key = key
        self._dtype = DTYPES[tensor.datatype]
        self._codes = self._read_categories(feature)
        self._low, self._high = _limits(self._dtype)
        self._whole = self._dtype.kind in "iu"
        self._missing = self._read_missing(feature)
        self._unknown = None if feature.unknown == "error" else self._code_of(feature.unknown, "unknown")
        self.example: Any = feature.categories[0] if feature.categories else 0

    def encode(self, value: Any, where: str) -> Any:
        """`value` as it goes into the tensor. Raises InvalidRequest."""
        if value is None:
            if self._missing is None:
                raise InvalidRequest(f"{where}: the feature {self.name!r} is missing.")
            return self._missing
        if self._codes is None:
            return self._number(value, where)
        # The class is part of the key since 1 == True.
        code = self._codes.get((value.__class__, value)) if isinstance(value, str | int) else None
        if code is None:
            code = self._unknown
        if code is None:
            raise InvalidRequest(
                f"{where}: {shown(value)} is not a category of the feature {self.name!r}; {self._meant(value)}"
            )
        return code

    def _meant(self, value: Any) -> str:
        """The category that is like `value`, else those there are, at most ten of them."""
        categories = [category for _, category in self._codes or {}]
        texts = [category for category in categories[:_COMPARED] if isinstance(category, str)]
        if isinstance(value, str) and (close := get_close_matches(value[:_COMPARED], texts, n=1)):
            return f"did you mean {shown(close[0])}?"
        listed = [shown(category) for category in categories[:_LISTED]]
        return f"there are: {', '.join(listed + ['...'] * (len(categories) > _LISTED))}."

    def _number(self, value: Any, where: str) -> Any:
        if value.__class__ is not float and value.__class__ is not int:
            raise InvalidRequest(f"{where}: the feature {self.name!r} must be a number, not {shown(value)}.")
        # NaN and infinities fail the comparison too.
        if not self._low <= value <= self._high:
            raise InvalidRequest(f"{where}: the feature {self.name!r} is out of {self.tensor.datatype}'s range.")
        if self._whole and value != int(value):
            raise InvalidRequest(f"{where}: the feature {self.name!r} must be a whole number, not {shown(value)}.")
        return value

    def for_forms(self) -> RowColumn | None:
        """The same in the few words that forms understand: numbers, and categories that are all texts."""
        codes = self._codes
        if self._dtype.kind == "O" or (codes is not None and not all(kind is str for kind, _ in codes)):
            return None
        texts = None if codes is None else {str(value): code for (_, value), code in codes.items()}
        return RowColumn(self.name, texts, self._unknown, self._missing, (self._low, self._high))

    # ------------------------------------------------------------------ reading seaway.yaml

    def _read_categories(self, feature: Feature) -> dict[tuple[type, Category], Any] | None:
        if feature.type == "number":
            if feature.categories or feature.unknown != "error":
                self._reject("type", "`categories` and `unknown` are for type: category.")
            if self._dtype.kind in "Ob":
                self._reject("type", f"the graph's {self.tensor.name!r} takes {self.tensor.datatype}, not numbers.")
            return None
        if not feature.categories:
            self._reject("categories", "a category feature needs them listed.")
        if self._dtype.kind == "b":
            self._reject("type", f"the graph's {self.tensor.name!r} takes BOOL, not categories.")
        as_text = self._dtype.kind == "O"
        codes = {
            (value.__class__, value): str(value) if as_text else position
            for position, value in enumerate(feature.categories)
        }
        if len(codes) != len(feature.categories):
            self._reject("categories", "a category is listed twice.")
        return codes

    def _read_missing(self, feature: Feature) -> Any:
        missing = feature.missing
        if missing == "error":
            return None
        if missing == "nan" or missing != missing:  # .nan in YAML
            if self._dtype.kind != "f":
                self._reject("missing", f"NaN doesn't fit into {self.tensor.datatype}.")
            return NAN
        if self._codes is not None:
            return self._code_of(missing, "missing")
        try:
            return self._number(missing, "missing")
        except InvalidRequest as error:
            self._reject("missing", f"{shown(missing)} is not a number that fits into {self.tensor.datatype}: {error}")

    def _code_of(self, value: Any, option: str) -> Any:
        if self._codes is None or (value.__class__, value) not in self._codes:
            self._reject(option, f"{shown(value)} is not one of the categories.")
        return self._codes[value.__class__, value]

    def _reject(self, option: str, problem: str) -> NoReturn:
        reject(f"{self._key}.{option}", f"{self.name!r}: {problem}")


def _is_row(inputs: Any) -> bool:
    if isinstance(inputs, list):
        return bool(inputs) and not isinstance(inputs[0], dict | list)
    return isinstance(inputs, dict)


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind in "iu":
        return np.iinfo(dtype).min, np.iinfo(dtype).max
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    return 0, 0


def _check_names(features: tuple[Feature, ...]) -> None:
    if not features:
        reject("features", "list at least one feature.")
    seen: set[str] = set()
    for number, feature in enumerate(features):
        if not feature.name or feature.name in seen:
            reject(f"features[{number}].name", f"{feature.name!r} is empty or used twice.")
        seen.add(feature.name)


def _tensor_of(feature: Feature, options: TabularOptions, signature: Signature, key: str) -> TensorSpec:
    if feature.tensor is not None:
        return find_tensor(signature, feature.tensor, f"{key}.tensor")
    if options.tensor is not None:
        return find_tensor(signature, options.tensor, "tensor")
    return only_tensor(signature, "tensor")


def _check_width(tensor: TensorSpec, columns: list[Column]) -> None:
    """A graph input takes as many features as it is wide."""
    if not counts_samples(tensor) or len(tensor.shape) > 2:
        shape = list(tensor.shape)
        reject("type", f"tabular needs graph inputs of shape [-1] or [-1, features]; {tensor.name!r} has {shape}.")
    width = 1 if len(tensor.shape) == 1 else tensor.shape[1]
    if not columns:
        reject("features", f"no feature goes into the graph's input {tensor.name!r}; give one `tensor: {tensor.name}`.")
    if width not in {-1, len(columns)}:
        reject("features", f"{len(columns)} features go into {tensor.name!r}, which takes {width}.")
