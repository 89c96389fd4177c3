"""Input type text: strings through the package's tokenizer."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from tokenizers.normalizers import NFKC, BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace, Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer

from seaway.errors import InvalidPackage, InvalidRequest, PayloadTooLarge
from seaway.inputs.text import TextInput, TextOptions
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


@pytest.mark.parametrize(("sent", "named"), [(None, "null"), (True, "true"), (1.5, "1.5"), ({}, "an object")], ids=str)
def test_what_is_no_text_is_named_as_json_writes_it(package: Path, sent: Any, named: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"inputs\[1\] must be a string, not {named}\."):
        text(package).prepare(["cat", sent])


def test_a_long_text_is_cut(package: Path) -> None:
    assert text(package, max_tokens=3).prepare("the cat sat").feeds[0]["input_ids"].tolist() == [[1, 4, 2]]


def test_texts_that_were_cut_are_counted(package: Path) -> None:
    short = text(package, max_tokens=4)
    assert short.prepare(["cat", "the cat", "the cat sat", "cat " * 20_000]).cut == 2
    assert short.prepare("the cat").cut == 0


def test_a_long_text_is_refused_where_it_must_not_be_cut(package: Path) -> None:
    with pytest.raises(PayloadTooLarge, match=r"inputs\[1\] has 5 tokens; 3 are allowed"):
        text(package, max_tokens=3, truncate=False).prepare(["cat", "the cat sat"])


def tokenizers() -> dict[str, Tokenizer]:
    """One of each kind in use, trained on next to nothing."""
    corpus = ["the cat sat on the mat", "今天天气很好", "naïve café", "aaaa bbbb abab", "one. two! three?"] * 3
    pieces = Tokenizer(WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    pieces.normalizer, pieces.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    pieces.train_from_iterator(corpus, WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "[CLS]", "[SEP]"]))
    pieces.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    pairs = Tokenizer(BPE())
    pairs.pre_tokenizer = ByteLevel(add_prefix_space=False)
    pairs.train_from_iterator(corpus, BpeTrainer(vocab_size=400, initial_alphabet=ByteLevel.alphabet()))
    likely = Tokenizer(Unigram())
    likely.normalizer, likely.pre_tokenizer = NFKC(), Metaspace()
    likely.train_from_iterator(corpus, UnigramTrainer(vocab_size=60, unk_token="[UNK]", special_tokens=["[UNK]"]))
    return {"WordPiece": pieces, "BPE": pairs, "Unigram": likely}


KINDS = tokenizers()
FRAGMENTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["the cat sat. ", " ", "\n\n", "a", "ab", "今天天气", "e\u0301", "naïve ", "x" * 99, "y" * 101, "👩‍🚀"]
    ),
)
LONG_TEXTS = st.lists(st.tuples(FRAGMENTS, st.integers(1, 400)), min_size=1, max_size=12).map(
    lambda parts: "".join(fragment * times for fragment, times in parts)
)


@pytest.mark.parametrize("kind", KINDS)
@given(long=LONG_TEXTS, max_tokens=st.integers(3, 40))
@settings(max_examples=60, deadline=None)
def test_a_long_text_has_the_tokens_it_has_when_all_of_it_is_looked_at(kind: str, long: str, max_tokens: int) -> None:
    def tokenizer() -> Tokenizer:
        return Tokenizer.from_str(KINDS[kind].to_str())

    options = TextOptions(max_tokens=max_tokens)
    cutting = TextInput(options, Signature((IDS, MASK), STATES), tokenizer(), limit=10, pad_id=None)
    whole = tokenizer()
    whole.enable_truncation(max_tokens)
    (row,) = cutting.prepare(long).feeds[0]["input_ids"].tolist()
    assert row[: cutting.prepare(long).tokens] == whole.encode(long).ids

    whole.no_truncation()
    options = TextOptions(max_tokens=max_tokens, truncate=False)
    refusing = TextInput(options, Signature((IDS, MASK), STATES), tokenizer(), limit=10, pad_id=None)
    with contextlib.nullcontext() if len(whole.encode(long).ids) <= max_tokens else pytest.raises(PayloadTooLarge):
        refusing.prepare(long)


def test_samples_that_run_one_by_one_already_lose_their_padding_too(package: Path) -> None:
    single = TensorSpec("input_ids", "INT64", (1, -1))
    samples = text(package, single).prepare(["the cat sat", "cat"])
    assert len(samples.feeds) == 2

    apart = samples.apart()

    assert [feeds["input_ids"].tolist() for feeds in apart.feeds] == [[[1, 4, 5, 6, 2]], [[1, 5, 2]]]


@pytest.mark.parametrize("length", [5001, 5999, 6000, 9999, 20_001])
def test_a_tokenizer_that_looks_far_ahead_sees_as_far(length: int, tmp_path: Path) -> None:
    scores = [("[UNK]", 0.0), ("a", -3.0), ("aa", -2.0), ("aaa", -1.0)]
    tokenizer = Tokenizer(Unigram(scores, 0, byte_fallback=False))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (row,) = text(tmp_path, max_tokens=64).prepare("a" * length).feeds[0]["input_ids"].tolist()
    assert row == tokenizer.encode("a" * length).ids[:64]


@pytest.mark.parametrize(
    ("config", "pad"), [('{"pad_token_id": 6}', 6), ('{"pad_token_id": null}', 3), ("{", 3), ("[]", 3)]
)
def test_texts_are_padded_with_what_the_model_knows_as_padding(config: str, pad: int, package: Path) -> None:
    (package / "config.json").write_text(config)

    samples = text(package).prepare(["the cat sat", "cat"])

    assert samples.feeds[0]["input_ids"].tolist() == [[1, 4, 5, 6, 2], [1, 5, 2, pad, pad]]


def test_samples_may_be_taken_apart_without_their_padding(package: Path) -> None:
    apart = text(package).prepare(["the cat sat", "", "cat"]).apart()

    assert [feeds["input_ids"].tolist() for feeds in apart.feeds] == [[[1, 4, 5, 6, 2]], [[1, 2]], [[1, 5, 2]]]
    assert [feeds["attention_mask"].tolist() for feeds in apart.feeds] == [[[1] * 5], [[1] * 2], [[1] * 3]]
    assert [mask.tolist() for mask in apart.masks] == [[[1] * 5], [[1] * 2], [[1] * 3]]
    assert (apart.rows, apart.tokens) == (3, 10)


def test_a_book_costs_what_its_first_pages_do(package: Path) -> None:
    class Counting:
        def __init__(self, tokenizer: Tokenizer) -> None:
            self.tokenizer, self.characters = tokenizer, 0

        def encode(self, text: str) -> Encoding:
            self.characters += len(text)
            return self.tokenizer.encode(text)

    for truncate in (True, False):
        made = text(package, max_tokens=100, truncate=truncate)
        made._tokenizer = counting = Counting(made._tokenizer)  # type: ignore[assignment]
        with (
            contextlib.nullcontext()
            if truncate
            else pytest.raises(PayloadTooLarge, match="more than the 100 tokens that are")
        ):
            assert made.prepare("the cat sat " * 80_000).tokens == 100
        assert counting.characters < 5000


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
