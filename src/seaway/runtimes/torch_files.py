"""What packages for torch may hold, told from names and bytes alone: nothing here imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from seaway.errors import InvalidPackage
from seaway.packages import PackageSpec
from seaway.packages.spec import SPEC_FILE
from seaway.runtimes.base import Operators

PICKLED = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})
"""Files that torch and scikit-learn write with pickle, which runs code when it is read."""
CODE = frozenset({".py", ".pyc", ".pyo", ".so"})
MAX_JSON_BYTES = 64 * 1024 * 1024


def complete(package: Path, spec: PackageSpec) -> PackageSpec:
    """Nothing to fill in; refuses pickles and code, and weights without an architecture."""
    refuse_code(package)
    model = spec.model or ""
    if model.endswith(".safetensors") and spec.architecture is None:
        raise InvalidPackage(
            f"{SPEC_FILE}: architecture: {model!r} holds weights alone; list the layers, or export the model."
        )
    if model.endswith(".pt2") and spec.architecture is not None:
        raise InvalidPackage(f"{SPEC_FILE}: architecture: {model!r} holds its own; remove the key.")
    return spec


def refuse_code(package: Path) -> None:
    """Raise InvalidPackage for the first file that is code, or that reading would make code of."""
    for path in sorted(package.rglob("*")):
        name = str(path.relative_to(package))
        suffix = path.suffix.lower()
        if suffix in PICKLED:
            raise InvalidPackage(
                f"{name!r} is a pickle by its name, which could run code when it is read; save the weights as "
                "safetensors (save_pretrained does) and remove it."
            )
        if suffix in CODE:
            raise InvalidPackage(f"{name!r} is code; a package's code is never run. Remove it.")


def operators(model: Path) -> Operators:
    """Never for a gateway: torch is 200 MB there, and a run of it can't be stopped at any point."""
    return Operators(frozenset(), frozenset(), obstacle="It runs on torch, which gateways don't load")


def read_json(package: Path, name: str) -> dict[str, Any]:
    """A file of the package that holds a JSON object. Raises InvalidPackage when it isn't there, or is none."""
    file = package / name
    if not file.is_file() or file.is_symlink():
        raise InvalidPackage(f"The file {name!r} is missing; add it to the package.")
    if file.stat().st_size > MAX_JSON_BYTES:
        raise InvalidPackage(f"{name!r} is larger than {MAX_JSON_BYTES} bytes.")
    try:
        content = msgspec.json.decode(file.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPackage(f"{name!r} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise InvalidPackage(f"{name!r} must hold a JSON object.")
    return content
