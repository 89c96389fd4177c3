"""Choosing an input type from its table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from seaway.errors import InvalidPackage
from seaway.inputs import open_input
from seaway.packages import InputSpec, PackageSpec
from seaway.types import Signature


@pytest.mark.parametrize(("kind", "library"), [("text", "tokenizers"), ("image", "PIL")])
def test_a_type_whose_library_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, kind: str, library: str
) -> None:
    monkeypatch.delitem(sys.modules, f"seaway.inputs.{kind}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(InvalidPackage, match=rf"input\.type: .*{library}.*install"):
        open_input(Path(), PackageSpec(input=InputSpec(type=kind)), Signature((), ()))


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidPackage, match="image, tabular, tensor, text"):
        open_input(Path(), PackageSpec(input=InputSpec(type="sound")), Signature((), ()))
