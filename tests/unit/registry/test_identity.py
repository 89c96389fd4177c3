"""Ids and names: pure functions, the same on every machine."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.errors import InvalidRequest
from seaway.registry.identity import canonical_json, checked_name, checked_text, experiment_id, spec_digest

text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(text, values, max_size=4))
def test_canonical_json_survives_being_stored_and_read(value: dict[str, Any]) -> None:
    assert canonical_json(json.loads(json.dumps(value))) == canonical_json(value)


@given(st.dictionaries(text, values, max_size=4))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert spec_digest(dict(reversed(value.items()))) == spec_digest(value)


def test_an_experiment_s_id_is_what_anyone_can_compute() -> None:
    assert experiment_id("a" * 64, "b" * 64) == "351e5597ea9bd0a58e34a2ef32423104"


def test_parts_that_differ_give_ids_that_differ() -> None:
    specs: list[dict[str, object]] = [{"a": 1}, {"a": 1.0}, {"a": "1"}, {"a": True}, {"a": None}, {"b": 1}, {}]
    assert len({spec_digest(spec) for spec in specs}) == len(specs)


def test_the_sha256_program_agrees_on_a_specification() -> None:
    program = "import hashlib,sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    done = subprocess.run([sys.executable, "-c", program], input='{"a":"ä","b":[1,2.5]}'.encode(), capture_output=True)
    assert done.stdout.decode().strip() == spec_digest({"b": [1, 2.5], "a": "ä"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "a\x00b", "\ud800", "\\\x00"], ids=ascii)
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    for nested in (value, [value], {"a": {"b": value}}):
        with pytest.raises(InvalidRequest):
            canonical_json(nested)


def test_json_that_is_nested_without_end_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(InvalidRequest, match="nested"):
        canonical_json(nested)


def test_a_backslash_before_u0000_is_text_like_any_other() -> None:
    assert canonical_json("\\u0000") == '"\\\\u0000"'


@pytest.mark.parametrize("name", ["0", "a", "A.b_c-9", "x" * 128])
def test_a_name_within_the_alphabet_is_a_name(name: str) -> None:
    assert checked_name("model", name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "_a", "a/b", "a b", "a\n", "ä", "a\x00", "x" * 129], ids=ascii)
def test_other_names_are_refused_and_shown_escaped(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        checked_name("model", name)
    assert "model name" in str(refused.value)
    assert str(refused.value).isprintable()


def test_text_longer_than_its_column_is_refused() -> None:
    assert checked_text("actor", "x" * 128, max_characters=128)
    with pytest.raises(InvalidRequest, match="129 characters"):
        checked_text("actor", "x" * 129, max_characters=128)
