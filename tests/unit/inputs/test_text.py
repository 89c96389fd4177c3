"""Input type text: strings through the package's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from seaway.errors import InvalidPackage, InvalidRequest, PayloadTooLarge
from seaway.inputs.text import TextInput
from seaway.packages import InputSpec, PackageSpec
from seaway.types import Signature, TensorSpec

STATES = (TensorSpec("states", "FP32", (-1, -1, 4)),)
IDS, MASK = TensorSpec("input_ids", "INT64", (-1, -1)), TensorSpec("attention_mask", "INT32", (-1, -1))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "the": 4, "cat": 5, "sat": 6}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def text(package: Path, *inputs: TensorSpec, **options: Any) -> TextInput:
    spec = PackageSpec(input=InputSpec(type="text", options=options))
    return TextInput.open(package, spec, Signature(inputs or (IDS, MASK), STATES))


def test_a_text_becomes_token_ids_and_a_mask(package: Path) -> None:
    samples = text(package).prepare("the cat")

    assert samples.bare
    assert samples.feeds[0]["input_ids"].tolist() == [[1, 4, 5, 2]]
    assert samples.feeds[0]["attention_mask"].tolist() == [[1, 1, 1, 1]]
    assert str(samples.feeds[0]["attention_mask"].dtype) == "int32"
    assert samples.tokens == 4


def test_shorter_texts_are_padded_to_the_longest(package: Path) -> None:
    samples = text(package).prepare(["the cat sat", "", "cat"])

    assert samples.feeds[0]["input_ids"].tolist() == [[1, 4, 5, 6, 2], [1, 2, 3, 3, 3], [1, 5, 2, 3, 3]]
    assert samples.masks[0].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert samples.tokens == 10


def test_only_what_the_graph_takes_is_made(package: Path) -> None:
    kinds = TensorSpec("token_type_ids", "INT64", (-1, -1))

    assert text(package, IDS).prepare("cat").feeds[0].keys() == {"input_ids"}
    assert text(package, IDS, kinds).prepare("cat").feeds[0]["token_type_ids"].tolist() == [[0, 0, 0]]


def test_a_graph_of_fixed_length_is_always_filled(package: Path) -> None:
    fixed = TensorSpec("input_ids", "INT64", (-1, 4))

    assert text(package, fixed).prepare("cat").feeds[0]["input_ids"].tolist() == [[1, 5, 2, 3]]
    assert text(package, fixed).prepare("the cat sat the cat").feeds[0]["input_ids"].tolist() == [[1, 4, 5, 2]]


def test_a_long_text_is_cut(package: Path) -> None:
    assert text(package, max_tokens=3).prepare("the cat sat").feeds[0]["input_ids"].tolist() == [[1, 4, 2]]


def test_a_long_text_is_refused_where_it_must_not_be_cut(package: Path) -> None:
    with pytest.raises(PayloadTooLarge, match=r"inputs\[1\] has 5 tokens; 3 are allowed"):
        text(package, max_tokens=3, truncate=False).prepare(["cat", "the cat sat"])


def test_more_text_than_can_be_tokenized_in_time_is_refused(package: Path) -> None:
    with pytest.raises(PayloadTooLarge, match="max_characters"):
        text(package, max_characters=10).prepare(["the cat", "the cat"])


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([], "empty"),
        (7, "string, not 7"),
        (["a", None], r"inputs\[1\]"),
        ({"text": "a"}, "string"),
        ([["a"]], "string"),
    ],
)
def test_what_is_no_text_is_refused(package: Path, inputs: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        text(package).prepare(inputs)


def test_the_tokenizer_must_be_in_the_package(tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match=r"input\.tokenizer names 'tokenizer\.json'"):
        text(tmp_path)


def test_the_tokenizer_must_be_one(package: Path) -> None:
    (package / "tokenizer.json").write_text("{}")

    with pytest.raises(InvalidPackage, match=r"input\.tokenizer"):
        text(package)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ((MASK,), "needs a graph input 'input_ids'"),
        ((IDS, TensorSpec("pixels", "FP32", (-1, 3))), "'pixels'"),
        ((TensorSpec("input_ids", "FP32", (-1, -1)),), "INT64"),
        ((TensorSpec("input_ids", "INT64", (-1,)),), "INT64"),
    ],
)
def test_a_graph_that_a_tokenizer_cannot_fill_is_refused(
    package: Path, inputs: tuple[TensorSpec, ...], says: str
) -> None:
    with pytest.raises(InvalidPackage, match=says):
        text(package, *inputs)


def test_unknown_options_are_refused(package: Path) -> None:
    with pytest.raises(InvalidPackage, match=r"'input\.max_length'"):
        text(package, max_length=3)
