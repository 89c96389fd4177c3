"""What is deployed with Seaway names only what Seaway has: settings, extras, files, commands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from seaway.config import Settings

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path
    for place in ("README.md", "docs", "deploy", "docker", "configs", "scripts", "Makefile")
    for path in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*"))
    if path.is_file() and path.suffix not in {".svg", ".pyc"}
)
OTHER_VARIABLES = {"SEAWAY_CONFIG", "SEAWAY_URL", "SEAWAY_TEST_LOAD_SECONDS"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_variable_that_a_file_names_is_a_setting(path: Path) -> None:
    known = {f"SEAWAY_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    assert set(re.findall(r"\bSEAWAY_[A-Z_]*[A-Z]\b", path.read_text())) <= known


def test_the_image_installs_extras_that_exist() -> None:
    text = (ROOT / "docker" / "gateway.Dockerfile").read_text()
    extras = {name for found in re.findall(r"'\.\[([\w,]+)\]'", text) for name in found.split(",")}
    assert extras
    assert extras <= set(PROJECT["project"]["optional-dependencies"])


def test_the_service_stops_later_than_draining_takes() -> None:
    unit = (ROOT / "deploy" / "systemd" / "seaway.service").read_text()
    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert stop is not None
    compose = yaml.safe_load((ROOT / "deploy" / "compose" / "compose.yaml").read_text())
    grace = compose["services"]["seaway"]["stop_grace_period"]
    # Gateways, then control, then workers: see Launcher._shut_down.
    needed = Settings.model_fields["drain_seconds"].default + 6
    assert float(stop[1]) > needed
    assert float(grace.removesuffix("s")) > needed


def test_ci_runs_the_command_of_the_readme() -> None:
    assert re.search(r"^\$ make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def test_every_make_target_that_is_typed_says_what_it_does() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == set(re.findall(r"^([a-z_-]+):.*## .+$", text, re.MULTILINE))
