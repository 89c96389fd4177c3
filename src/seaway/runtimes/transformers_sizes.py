"""Sizes in transformers' config.json that can't be meant, told before anything of that size is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

from seaway.errors import InvalidPackage
from seaway.types import Json

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
POSITIONS = ("max_position_embeddings", "n_positions")
MAX_POSITIONS = 10_000_000
"""Models that compute their positions hold no tensor of that size, so it can't be held against the file."""


def check_sizes(config: Json, file: str, shapes: Sequence[Sequence[int]], *, text: bool) -> None:
    """Raise InvalidPackage for a size in config.json that `file`, whose tensors have these shapes, can't have.

    >>> check_sizes({"num_hidden_layers": 2, "vocab_size": 10}, "m.safetensors", [(10, 4), (4,)], text=True)
    """
    for key, value in _numbers(config, LAYERS):
        if value > len(shapes):
            raise InvalidPackage(f"config.json: {key!r} is {value:,}; {file!r} has only {len(shapes)} tensors.")
    largest = max((side for shape in shapes for side in shape), default=0)
    # A part of the configuration may be of words that this model has nothing to do with, as may one of pictures.
    vocabulary = config.get("vocab_size")
    if text and _is_number(vocabulary) and vocabulary > largest:
        raise InvalidPackage(
            f"config.json: 'vocab_size' is {vocabulary:,}; no tensor in {file!r} has more than {largest:,} rows."
        )
    for key, value in _numbers(config, POSITIONS):
        if value > MAX_POSITIONS:
            raise InvalidPackage(f"config.json: {key!r} is {value:,}; at most {MAX_POSITIONS:,} are accepted.")


def _numbers(config: Json, keys: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What is there of the keys, in the configurations of a model's parts as well."""
    todo: list[Any] = [config]
    while todo:
        part = todo.pop()
        yield from ((key, part[key]) for key in keys if _is_number(part.get(key)))
        todo += [value for value in part.values() if isinstance(value, dict)]


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
