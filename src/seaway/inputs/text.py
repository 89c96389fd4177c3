"""Input type `text`: a sample is a string; the package's `tokenizer.json` makes token ids of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
import numpy as np
from msgspec import Meta
from tokenizers import Encoding, Tokenizer

from seaway.errors import InvalidRequest, PayloadTooLarge
from seaway.inputs.arrays import DTYPES
from seaway.inputs.base import Array, Form, Padding, Samples, at, counts_samples, reject, shown, split, stack
from seaway.packages import PackageSpec
from seaway.packages.spec import convert, package_file
from seaway.types import Signature, TensorSpec

IDS, MASK, TYPE_IDS = "input_ids", "attention_mask", "token_type_ids"
"""The graph inputs that a tokenizer fills, by the names that exporters give them."""

MAX_TEXTS = 1024
"""Texts of a request, where the package says nothing: half a million of one letter would take seconds to tokenize."""


CERTAIN_CHARACTERS = 1024
"""Tokens that end so far before the end of a piece of a text are also those of the whole text: tokenizers look a word
ahead at most, and words of over a hundred characters are unknown to them anyway."""


class TextOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tokenizer: str = "tokenizer.json"
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 256
    """With the special tokens; a longer text is cut or refused, as `truncate` says."""
    truncate: bool = True
    max_characters: Annotated[int, Meta(ge=1)] = 1_000_000
    """Of all texts of a request: bounds the time that tokenizing takes, which nothing can interrupt."""


class TextInput:
    """Strings through a tokenizer, padded to the longest of the request."""

    gives_masks = True
    takes_bytes = False

    def __init__(
        self, options: TextOptions, signature: Signature, tokenizer: Tokenizer, *, limit: int, pad_id: int | None
    ) -> None:
        """`pad_id`: what the model knows padding by; None: what the tokenizer says."""
        self.options = options
        self._limit = limit
        self._signature = signature
        self._tokenizer = tokenizer
        ids = next(spec for spec in signature.inputs if spec.name == IDS)
        self._fixed = ids.shape[1] if ids.shape[1] != -1 else None
        self._max_tokens = min(options.max_tokens, self._fixed or options.max_tokens)
        padding = tokenizer.padding or {}
        self._pad_left = padding.get("direction") == "left"
        if pad_id is None:
            pad_id = padding.get("pad_id", _pad_id(tokenizer))
        self._fill = {IDS: pad_id, TYPE_IDS: padding.get("pad_type_id", 0)}
        self._looks_far = type(tokenizer.model).__name__ == "Unigram"
        self.pads = self._fixed is None
        self.padding = self._can_be_padded()
        tokenizer.no_padding()
        if options.truncate:
            tokenizer.enable_truncation(self._max_tokens)
        else:
            tokenizer.no_truncation()

    @classmethod
    def open(cls, package: Path, spec: PackageSpec, signature: Signature) -> Self:
        options = convert(spec.input.options, TextOptions, "input")
        _check_inputs(signature.inputs)
        file = package_file(package, options.tokenizer, "input.tokenizer")
        try:
            tokenizer = Tokenizer.from_buffer(file.read_bytes())
        except Exception as error:  # noqa: BLE001 - the library raises plain Exception for everything
            reject("tokenizer", f"{options.tokenizer!r} is not a tokenizer.json: {str(error)[:200]}.")
        limit = spec.serving.max_batch_size or MAX_TEXTS
        return cls(options, signature, tokenizer, limit=limit, pad_id=_models_pad_id(package))

    def prepare(self, inputs: Any) -> Samples:
        samples, bare = split(inputs, lambda value: isinstance(value, str), limit=self._limit)
        self._check_texts(samples, bare=bare)
        # One by one, since `encode_batch` brings a thread pool of its own into a process that has one thread a core.
        encodings = [self._encode(text, at(number, bare=bare)) for number, text in enumerate(samples)]
        lengths = [len(encoding.ids) for encoding in encodings]
        mask = self._pad([[1] * length for length in lengths], 0)
        made = {IDS: self._pad([e.ids for e in encodings], self._fill[IDS]), MASK: mask}
        made[TYPE_IDS] = self._pad([e.type_ids for e in encodings], self._fill[TYPE_IDS])
        wanted = self._signature.inputs
        feeds = {spec.name: made[spec.name].astype(DTYPES[spec.datatype], copy=False) for spec in wanted}
        stacked = stack(self._signature, feeds, rows=len(samples), bare=bare)
        masks = (mask,) if len(stacked.feeds) == 1 else tuple(mask[row : row + 1] for row in range(len(samples)))
        return msgspec.structs.replace(
            stacked, tokens=sum(lengths), masks=masks, cut=sum(1 for e in encodings if e.overflowing)
        )

    def _encode(self, text: str, where: str) -> Encoding:
        """The tokens of a text, at most as many as are allowed. Raises PayloadTooLarge for one that may not be cut.

        Of a long text only as much is looked at as it takes to know them: a book costs what its first pages do.
        """
        allowed = self._max_tokens
        n_characters = 8 * allowed + 2 * CERTAIN_CHARACTERS
        while n_characters < len(text):
            encoding = self._tokenizer.encode(text[:n_characters])
            if self._looks_far and encoding.ids != self._tokenizer.encode(text[: n_characters - 1]).ids[:allowed]:
                n_characters *= 4
                continue
            certain = n_characters - CERTAIN_CHARACTERS
            if self.options.truncate:
                if encoding.overflowing and max((end for _, end in encoding.offsets), default=0) <= certain:
                    return encoding
            elif sum(end <= certain for _, end in encoding.offsets) > allowed:
                raise PayloadTooLarge(f"{where} {_too_many(allowed)}")
            n_characters *= 4
        encoding = self._tokenizer.encode(text)
        if len(encoding.ids) > allowed:
            n_tokens = len(encoding.ids)
            are = "is" if allowed == 1 else "are"
            raise PayloadTooLarge(f"{where} has {n_tokens} tokens; {allowed} {are} allowed (input.max_tokens).")
        return encoding

    def _can_be_padded(self) -> Padding | None:
        """A graph of a fixed length needs none; without a mask, or with padding in front, it would change answers."""
        names = {spec.name for spec in self._signature.inputs}
        if self._fixed is not None or self._pad_left or MASK not in names:
            return None
        fills = {name: fill for name, fill in {**self._fill, MASK: 0}.items() if name in names}
        return Padding(fills, MASK, self._max_tokens)

    def forms(self) -> Sequence[Form]:
        return ()

    def examples(self) -> Sequence[Any]:
        return ["a", ["a", "a longer text, of several words and two sentences. Here is the other."]]

    def _check_texts(self, samples: list[Any], *, bare: bool) -> None:
        characters = 0
        for number, text in enumerate(samples):
            if not isinstance(text, str):
                raise InvalidRequest(f"{at(number, bare=bare)} must be a string, not {shown(text)}.")
            characters += len(text)
        if characters > self.options.max_characters:
            raise PayloadTooLarge(
                f"The texts have {characters} characters; a request may have {self.options.max_characters} "
                "(input.max_characters)."
            )

    def _pad(self, rows: list[list[int]], fill: int) -> Array:
        width = self._fixed or max(1, *map(len, rows))
        array = np.full((len(rows), width), fill, dtype=np.int64)
        for number, row in enumerate(rows):
            start = width - len(row) if self._pad_left else 0
            array[number, start : start + len(row)] = row
        return array


def _too_many(allowed: int) -> str:
    """
    >>> _too_many(256)
    'has more than the 256 tokens that are allowed (input.max_tokens).'
    """
    tokens = "token that is" if allowed == 1 else "tokens that are"
    return f"has more than the {allowed} {tokens} allowed (input.max_tokens)."


def _check_inputs(inputs: Sequence[TensorSpec]) -> None:
    """Every graph input must be one that a tokenizer can fill."""
    names = {spec.name for spec in inputs}
    if IDS not in names:
        reject("type", f"text needs a graph input {IDS!r}; the graph has: {', '.join(sorted(map(repr, names)))}.")
    for spec in inputs:
        if spec.name not in {IDS, MASK, TYPE_IDS}:
            reject("type", f"the graph's {spec.name!r} is not one a tokenizer fills: {IDS}, {MASK}, {TYPE_IDS}.")
        if spec.datatype not in {"INT64", "INT32"} or len(spec.shape) != 2 or not counts_samples(spec):
            found = f"{spec.datatype} {list(spec.shape)}"
            reject("type", f"text needs {spec.name!r} as INT64 or INT32 of shape [-1, -1]; it is {found}.")


def _models_pad_id(package: Path) -> int | None:
    """What transformers' config.json says: models with a head on the last token find that by it."""
    try:
        found = msgspec.json.decode((package / "config.json").read_bytes(), type=_Config).pad_token_id
    except (OSError, msgspec.DecodeError):
        return None
    return found if isinstance(found, int) and 0 <= found < 1 << 31 else None


class _Config(msgspec.Struct):
    pad_token_id: Any = None


def _pad_id(tokenizer: Tokenizer) -> int:
    """The id of the padding token, by the names in use; 0 where there is none, as most models don't look at it."""
    for token in ("[PAD]", "<pad>"):
        if (number := tokenizer.token_to_id(token)) is not None:
            return int(number)
    return 0
