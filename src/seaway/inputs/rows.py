"""The forms of tabular samples: a row of named features, or of all features in their order, or a list of either."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from types import GenericAlias
from typing import Annotated, Any

import msgspec
import numpy as np

from seaway.inputs.arrays import DTYPES
from seaway.inputs.base import Form, Samples, stack
from seaway.inputs.forms import layout, packed
from seaway.types import MAX_BATCH_SIZE, Signature

_ABSENT = float("nan")
"""Stands for a key that was not sent, and is also what most of these become; JSON has no NaN."""

Row = tuple[Any, ...]


class RowColumn(msgspec.Struct, frozen=True):
    """What forms need to know of a feature."""

    name: str
    codes: dict[str, int] | None
    """Of a category, whose values are texts; None for a number."""
    unknown: int | None
    """Code of a text that is none of the categories; None: refused."""
    missing: Any
    """What null and a key that was not sent become; None: refused."""
    limits: tuple[float, float]


class RowForms:
    """Rows for a graph whose only input takes all features in their order."""

    def __init__(self, columns: Sequence[RowColumn], signature: Signature, limit: int | None) -> None:
        [spec] = signature.inputs
        self._columns, self._signature, self._limit = columns, signature, limit or MAX_BATCH_SIZE
        self._name, self._dtype = spec.name, DTYPES[spec.datatype]
        self._width = len(columns)
        self._flat = len(spec.shape) == 1
        self._one_shape = (1,) if self._flat else (1, self._width)
        self._pack = struct.Struct(layout(self._width, self._dtype)).pack
        self._missing = [column.missing for column in columns]
        self._categories = [
            (at, column.codes, column.unknown, column.missing)
            for at, column in enumerate(columns)
            if column.codes is not None
        ]
        self._filled = [
            (at, column.missing)
            for at, column in enumerate(columns)
            if column.codes is None and column.missing is not None and column.missing == column.missing
        ]
        self._as_sent = not self._categories and not self._filled

    def all(self) -> tuple[Form, ...]:
        kinds = [_kind(column, self._dtype) for column in self._columns]
        fields = [
            (f"f{at}", kind) if column.missing is None else (f"f{at}", kind, _ABSENT)
            for at, (column, kind) in enumerate(zip(self._columns, kinds, strict=True))
        ]
        names = {f"f{at}": column.name for at, column in enumerate(self._columns)}
        named = msgspec.defstruct("Row", fields, rename=names, forbid_unknown_fields=True, kw_only=True, gc=False)
        ordered = GenericAlias(tuple, tuple(kinds))
        several = msgspec.Meta(min_length=1, max_length=self._limit)
        return (
            Form(b"[", ordered, self._ordered),
            Form(b"{", named, self._named),
            Form(b"[[", Annotated[GenericAlias(list, (ordered,)), several], self._all_ordered),
            Form(b"[{", Annotated[GenericAlias(list, (named,)), several], self._all_named),
        )

    # ------------------------------------------------------------------ what the forms read

    def _ordered(self, row: Row, n_keys: int | None) -> Samples | None:
        return None if n_keys else self._one(row)

    def _named(self, sample: msgspec.Struct, n_keys: int | None) -> Samples | None:
        row = msgspec.structs.astuple(sample)
        # As many keys as values, or one was sent twice.
        if n_keys is not None and n_keys + row.count(_ABSENT) != self._width:
            return None
        return self._one(row)

    def _all_ordered(self, rows: list[Row], n_keys: int | None) -> Samples | None:
        return None if n_keys else self._several(rows)

    def _all_named(self, samples: list[msgspec.Struct], n_keys: int | None) -> Samples | None:
        rows = [msgspec.structs.astuple(sample) for sample in samples]
        if n_keys is not None and n_keys + sum(row.count(_ABSENT) for row in rows) != self._width * len(rows):
            return None
        return self._several(rows)

    def _one(self, row: Row) -> Samples | None:
        values = row if self._as_sent else self._encoded(row)
        if values is None:
            return None
        try:
            data = self._pack(*values)
        except (struct.error, OverflowError):
            return self._several([row], bare=True)
        return Samples(({self._name: np.ndarray(self._one_shape, self._dtype, data)},), 1, True)

    def _several(self, rows: list[Row], *, bare: bool = False) -> Samples | None:
        values: list[Any] = []
        for row in rows:
            encoded = row if self._as_sent else self._encoded(row)
            if encoded is None:
                return None
            values += encoded
        if None in values:
            values = [
                default if value is None else value
                for value, default in zip(values, chain.from_iterable([self._missing] * len(rows)), strict=True)
            ]
        array = packed(values, self._dtype, (len(rows),) if self._flat else (len(rows), self._width))
        if array is None:
            return None
        return stack(self._signature, {self._name: array}, rows=len(rows), bare=bare)

    def _encoded(self, row: Row) -> list[Any] | None:
        """The row as it goes into the tensor, nulls of numbers aside; None for a category that isn't one."""
        values = list(row)
        for at, codes, unknown, missing in self._categories:
            value = values[at]
            code = codes.get(value, unknown) if value.__class__ is str else missing
            if code is None:
                return None
            values[at] = code
        for at, missing in self._filled:
            if values[at] is _ABSENT:
                values[at] = missing
        return values


def _kind(column: RowColumn, dtype: np.dtype[Any]) -> Any:
    """The type of a feature's JSON. Whole numbers have no limits here: packing them knows."""
    kind: Any = str
    if column.codes is None:
        low, high = column.limits
        kind = Annotated[float, msgspec.Meta(ge=low, le=high)] if dtype.kind == "f" else int
    return kind if column.missing is None else kind | None
