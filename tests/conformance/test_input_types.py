"""Every input type of the table keeps the same promises; a new one needs a case here and nothing else."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.support import graphs, tiny
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from seaway.errors import InvalidPackage, InvalidRequest, SeawayError
from seaway.inputs import INPUT_TYPES, open_input
from seaway.inputs.base import InputType
from seaway.packages import PackageSpec, read_spec
from seaway.types import Signature


class Case(NamedTuple):
    model: bytes
    options: str
    samples: tuple[Any, Any]


def _picture(grey: int) -> str:
    file = io.BytesIO()
    Image.new("L", (5, 5), grey).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


CASES = {
    "tensor": Case(graphs.identity(), "", ([1, 2, 3], [4, 5, 6])),
    "tabular": Case(
        graphs.identity(),
        ", features: [{name: a}, {name: b, missing: 0}, {name: c, type: category, categories: [x, y]}]",
        ({"a": 1, "b": 2, "c": "x"}, {"a": 3, "c": "y"}),
    ),
    "text": Case(graphs.embedding(np.eye(4)), "", ("cat sat", "cat")),
    "image": Case(graphs.identity(shape=("n", 1, 4, 4)), ", mode: L", (_picture(0), _picture(255))),
}


class Opened(NamedTuple):
    kind: str
    input: InputType
    signature: Signature
    samples: tuple[Any, Any]


def open_case(directory: Path, kind: str, more: str = "") -> Opened:
    from seaway.runtimes.onnx import OnnxRuntime

    case = CASES[kind]
    tiny.write_package(directory, case.model, f"input: {{type: {kind}{case.options}{more}}}\n")
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "cat": 1, "sat": 2, "[PAD]": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(directory / "tokenizer.json"))
    signature = OnnxRuntime().load(directory, PackageSpec(model="model.onnx"), threads=1).signature
    return Opened(kind, open_input(directory, read_spec(directory), signature), signature, case.samples)


@pytest.fixture(params=sorted(INPUT_TYPES))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    return open_case(tmp_path, request.param)


def test_every_type_of_the_table_has_a_case() -> None:
    assert CASES.keys() == INPUT_TYPES.keys()


def test_every_graph_input_is_filled_with_its_datatype_and_shape(opened: Opened) -> None:
    from seaway.inputs.arrays import DTYPES, check_shape

    (feeds,) = opened.input.prepare(list(opened.samples)).feeds

    assert feeds.keys() == {spec.name for spec in opened.signature.inputs}
    for spec in opened.signature.inputs:
        assert feeds[spec.name].dtype == DTYPES[spec.datatype]
        check_shape(feeds[spec.name].shape, spec, where=spec.name)


def test_a_bare_sample_is_a_list_of_one(opened: Opened) -> None:
    bare, listed = opened.input.prepare(opened.samples[0]), opened.input.prepare([opened.samples[0]])

    assert (bare.bare, listed.bare) == (True, False)
    assert (bare.rows, listed.rows) == (1, 1)
    for name, array in bare.feeds[0].items():
        np.testing.assert_array_equal(array, listed.feeds[0][name])


def test_samples_keep_their_order(opened: Opened) -> None:
    first, second = opened.samples

    both = opened.input.prepare([first, second, first])

    name = opened.signature.inputs[0].name
    array = both.feeds[0][name]
    assert both.rows == 3 == len(array)
    np.testing.assert_array_equal(array[0], array[2])
    assert not np.array_equal(array[0], array[1])


def test_no_sample_is_refused(opened: Opened) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        opened.input.prepare([])


def test_more_samples_than_allowed_are_refused_naming_the_limit(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "seaway.yaml").write_text((tmp_path / "seaway.yaml").read_text() + "serving: {max_batch_size: 2}\n")
    limited = open_input(tmp_path, read_spec(tmp_path), opened.signature)

    assert limited.prepare([opened.samples[0]] * 2).rows == 2
    with pytest.raises(InvalidRequest, match=r"3 samples; 2 are allowed \(serving\.max_batch_size\)"):
        limited.prepare([opened.samples[0]] * 3)


def test_the_examples_for_the_warm_up_are_accepted_and_are_json(opened: Opened) -> None:
    assert opened.input.examples()
    for example in opened.input.examples():
        assert opened.input.prepare(json.loads(json.dumps(example))).rows >= 1


def test_an_unknown_option_is_refused_with_its_key(opened: Opened, tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match=r"'input\.nonsense'"):
        open_case(tmp_path / "again", opened.kind, ", nonsense: 1")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcxy"), inner, max_size=4),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inputs=ANYTHING)
def test_anything_is_taken_or_refused_in_a_sentence(opened: Opened, inputs: Any) -> None:
    outcome = _outcome(opened.input, inputs)

    assert isinstance(outcome, int) or (outcome.endswith(".") and len(outcome) < 500)


def _outcome(input_type: InputType, inputs: Any) -> int | str:
    """How many samples these are, or why they are refused."""
    try:
        return input_type.prepare(inputs).rows
    except SeawayError as error:
        return str(error)
