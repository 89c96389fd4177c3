"""Versions: the same bytes are the same version, whoever registers them and when; numbers have no gaps."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest

from seaway.errors import InvalidRequest, NotFound
from seaway.registry import Registry
from seaway.types import Signature, TensorSpec
from support.registering import INSPECTION, add_dataset, add_model

pytestmark = pytest.mark.timeout(120)


def ascii_name(value: object) -> str:
    """A test id: 2 and "2" are different tests."""
    return ascii(value)[:20]


def test_the_same_bytes_twice_are_the_same_version_of_a_model(registry: Registry) -> None:
    first, new = add_model(registry, b"weights")
    again, new_again = add_model(registry, b"weights")
    assert (first, new, new_again) == (again, True, False)
    assert first.version == 1


@dataclass(frozen=True, slots=True)
class EarlierSignature:
    """As signatures were stored before they noted what is left out."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def test_a_version_from_before_outputs_left_out_were_noted_has_none(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = EarlierSignature(INSPECTION.signature.inputs, INSPECTION.signature.outputs)
    monkeypatch.setattr("support.registering.INSPECTION", replace(INSPECTION, signature=cast(Signature, earlier)))

    version, _ = add_model(registry, b"weights")

    assert version.signature == INSPECTION.signature
    assert version.signature.left_out == ()


def test_the_same_bytes_twice_are_the_same_version_of_a_dataset(registry: Registry) -> None:
    first, new = add_dataset(registry, b"rows", source={"query": "select 1"})
    again, new_again = add_dataset(registry, b"rows", source={"query": "another"})
    assert (first, new, new_again) == (again, True, False)
    assert first.source == {"query": "select 1"}


def test_the_same_bytes_are_counted_in_each_model(registry: Registry) -> None:
    versions = [add_model(registry, b"weights", model=name)[0] for name in ("one", "two")]
    assert [version.version for version in versions] == [1, 1]
    assert versions[0].digest == versions[1].digest


def test_clients_that_register_the_same_bytes_at_once_get_the_same_version(
    registry: Registry, open_registry: Callable[[], Registry]
) -> None:
    clients = [registry, open_registry()]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: add_model(clients[number % 2], b"weights"), range(8)))
    assert {version.version for version, _ in answers} == {1}
    assert sum(new for _, new in answers) == 1
    assert len(registry.list_model_versions("scale")) == 1


def test_twenty_clients_that_register_at_once_get_the_numbers_one_to_twenty(
    registry: Registry, open_registry: Callable[[], Registry]
) -> None:
    clients = [registry, open_registry()]
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda number: add_model(clients[number % 2], str(number).encode()), range(20)))
    assert sorted(version.version for version, _ in answers) == list(range(1, 21))
    assert [version.version for version in registry.list_model_versions("scale")] == list(range(1, 21))
    registry.verify_audit()


def test_processes_that_register_at_once_share_one_count(registry: Registry, database_url: str, tmp_path: Path) -> None:
    contents = ["same", "same", "first", "second"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "support.registering", database_url, str(tmp_path / "artifacts"), content],
            env=os.environ | {"PYTHONPATH": "tests"}, stdout=subprocess.PIPE, text=True,
        )
        for content in contents
    ]  # fmt: skip
    answers = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert answers[0] == answers[1]
    assert set(answers) == {1, 2, 3}
    registry.verify_audit()


def test_a_version_is_found_by_number_by_alias_and_as_the_newest(registry: Registry) -> None:
    for content in (b"one", b"two", b"three"):
        add_model(registry, content)
    registry.set_alias("scale", "champion", 2, actor="ada")
    found = [registry.get_model_version("scale", wanted).version for wanted in (1, "1", "champion", None)]
    assert found == [1, 1, 2, 3]


def test_what_was_registered_reads_back_as_it_was(registry: Registry, open_registry: Callable[[], Registry]) -> None:
    registered, _ = add_model(registry, b"weights", description="a scale")
    assert open_registry().get_model_version("scale", 1) == registered
    assert registered.created_by == "ada"
    assert registered.manifest.n_bytes == len(b"weights")
    assert registry.list_models().items[0] == {
        "name": "scale", "description": "a scale", "newest": 1, "n_versions": 1, "aliases": {},
    }  # fmt: skip


def test_a_dataset_of_one_table_says_its_rows_and_columns(registry: Registry) -> None:
    version, _ = add_dataset(registry, b"city,delay\nEWR,3\nJFK,4\n", path="rows.csv")
    assert (version.n_rows, version.schema) == (2, {"city": "string", "delay": "int64"})


def test_a_dataset_that_only_calls_itself_a_table_is_a_dataset_of_bytes(registry: Registry) -> None:
    version, _ = add_dataset(registry, b"\x00\x01", path="rows.parquet")
    assert (version.n_rows, version.schema) == (None, None)


@pytest.mark.parametrize(
    "wanted",
    [2, 0, "3", 2**31, 2**63, 10**30, "9" * 40, "9" * 5000, "nobody", "²", "a\x00b"],
    ids=lambda wanted: ascii(wanted)[:50],
)
def test_a_model_version_that_does_not_exist_is_not_found(registry: Registry, wanted: int | str) -> None:
    add_model(registry, b"weights")
    with pytest.raises(NotFound):
        registry.get_model_version("scale", wanted)


def test_a_version_that_does_not_exist_is_told_with_the_newest_that_does(registry: Registry) -> None:
    for content in (b"one", b"two"):
        add_model(registry, content)
        add_dataset(registry, content)
    with pytest.raises(NotFound, match=r"^Model 'scale' has no version 99; the newest is 2\.$"):
        registry.get_model_version("scale", 99)
    with pytest.raises(NotFound, match=r"^Dataset 'rows' has no version 0; the newest is 2\.$"):
        registry.get_dataset_version("rows", 0)


@pytest.mark.parametrize("wanted", [2, 0, -1, 2**31, 2**63, 10**30])
def test_a_dataset_version_that_does_not_exist_is_not_found(registry: Registry, wanted: int) -> None:
    add_dataset(registry, b"rows")
    with pytest.raises(NotFound):
        registry.get_dataset_version("rows", wanted)


@pytest.mark.parametrize("name", ["", "..", ".hidden", "-x", "a/b", "a b", "ä", "a\n", "a\x00", "x" * 129])
def test_a_name_outside_the_alphabet_is_refused_everywhere(registry: Registry, name: str) -> None:
    with pytest.raises(InvalidRequest):
        add_model(registry, b"weights", model=name)
    with pytest.raises(InvalidRequest):
        add_dataset(registry, b"rows", dataset=name)
    assert registry.list_models().items == registry.list_datasets().items == ()
    assert not list(registry.artifacts.path("aa").parent.parent.glob("*/*"))


def test_names_of_all_allowed_characters_and_of_full_length_are_kept(registry: Registry) -> None:
    for name in ("0", "A.b_c-9", "x" * 128):
        assert add_model(registry, b"weights", model=name)[0].model == name


def test_pages_of_models_hold_every_name_once(registry: Registry) -> None:
    names = ["a", "B", "b.c", "b-c", "b_c", "c", "10", "9"]
    for name in names:
        add_model(registry, b"weights", model=name)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = registry.list_models(3, cursor)
        seen += [item["name"] for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == sorted(names)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_of_no_sensible_size_is_refused(registry: Registry, limit: int) -> None:
    with pytest.raises(InvalidRequest):
        registry.list_models(limit)
    with pytest.raises(InvalidRequest):
        registry.audit(limit)


@pytest.mark.parametrize("text", ["a\x00b", "half \ud800 a pair"])
def test_text_that_no_database_keeps_is_refused_and_leaves_nothing(registry: Registry, text: str) -> None:
    with pytest.raises(InvalidRequest):
        add_model(registry, b"weights", description=text)
    with pytest.raises(InvalidRequest):
        add_dataset(registry, b"rows", source={"query": text})
    assert registry.list_models().items == registry.list_datasets().items == ()
    assert registry.referenced_artifacts() == set()
    assert not list(registry.artifacts.path("aa").parent.parent.glob("*/*"))
