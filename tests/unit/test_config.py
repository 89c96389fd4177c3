"""Settings that are wrong: what is told, and where they stand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seaway.config import load_settings
from seaway.errors import ConfigurationError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SEAWAY_")]:
        monkeypatch.delenv(name)


def refused(**flags: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**flags)
    return str(caught.value)


def test_a_setting_that_there_is_not_is_told_what_was_meant_and_where_it_stands() -> None:
    Path("seaway.toml").write_text("prot = 8093\n")

    assert refused() == "There is no setting 'prot' (in seaway.toml); did you mean 'port'?"


def test_a_section_that_there_is_not_is_told_where_all_settings_are() -> None:
    Path("seaway.toml").write_text("[xyz]\nport = 8093\n")

    assert refused() == "There is no setting 'xyz' (in seaway.toml); `seaway serve --print-config` lists them all."


def test_a_mistyped_variable_is_told_what_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWAY_PROT", "8093")

    assert refused() == "There is no setting 'prot' (in SEAWAY_PROT); did you mean 'port'?"


@pytest.mark.parametrize("name", ["SEAWAY_URL", "SEAWAY_SERVICE_HOST", "SEAWAY_SERVICE_PORT_HTTP",
                                  "SEAWAY_PORT_8080_TCP", "SEAWAY_TEST_LOAD_SECONDS", "OTHER_PROT"])  # fmt: skip
def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "elsewhere.toml")

    assert load_settings().port == 8080


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("device", "gpu", "it must be auto, cpu, cuda or cuda:N, not 'gpu'"),
        ("engines", "x", "it must be a whole number, not 'x'"),
        ("port", "99999", "it must be at most 65535, not '99999'"),
        ("timeout_seconds", "0", "it must be more than 0, not '0'"),
        ("lane", "bath", "it must be 'auto', 'cpu' or 'batch', not 'bath'"),
        ("metrics", "x", "it must be true or false, not 'x'"),
    ],
)
def test_a_wrong_value_is_told_what_is_possible(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    assert refused(**{name: value}) == f"The setting {name!r} is wrong: {told}."

    monkeypatch.setenv(f"SEAWAY_{name.upper()}", value)

    assert refused() == f"The setting {name!r} is wrong: {told} (in SEAWAY_{name.upper()})."


def test_a_secret_is_not_repeated() -> None:
    Path("seaway.toml").write_text("api_key = 12345\n")

    assert refused() == "The setting 'api_key' is wrong: it must be text (in seaway.toml)."


@pytest.mark.parametrize("name", ["my.tmol", "/nope.toml", "."])
def test_a_settings_file_that_was_named_has_to_be_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("SEAWAY_CONFIG", name)

    assert refused() == f"SEAWAY_CONFIG names {name!r}, where there is no file."


def test_a_settings_file_that_was_named_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my.toml").write_text("port = 8093\n")
    monkeypatch.setenv("SEAWAY_CONFIG", "my.toml")

    assert load_settings().port == 8093


def test_a_settings_file_that_is_no_toml_is_named() -> None:
    Path("seaway.toml").write_text("port := 8093\n")

    assert refused().startswith("The settings file seaway.toml can't be read: ")
