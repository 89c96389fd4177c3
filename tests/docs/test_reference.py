"""The reference is written from the code, and names everything that can be chosen."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from seaway.inputs import INPUT_TYPES
from seaway.runtimes import RUNTIMES

ROOT = Path(__file__).resolve().parents[2]


def _writer() -> dict[str, object]:
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "scripts" / "write_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, object] = module.PAGES
    return pages


@pytest.mark.parametrize("name", ["errors.md", "metrics.md", "settings.md"])
def test_the_reference_is_what_the_code_says(name: str) -> None:
    page = _writer()[name]
    assert callable(page)
    written = (ROOT / "docs" / "reference" / name).read_text()
    assert written == page(), "run: .venv/bin/python scripts/write_reference.py"


@pytest.mark.parametrize("name", sorted([*INPUT_TYPES, *RUNTIMES]))
def test_every_input_type_and_runtime_is_described(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "reference" / "model-package.md").read_text()
