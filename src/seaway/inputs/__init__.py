"""What a sample of `/predict` is: one file for each input type, and its line in this table."""

from __future__ import annotations

from pathlib import Path

from seaway.errors import ConfigurationError, InvalidPackage
from seaway.inputs.base import InputType
from seaway.packages import PackageSpec
from seaway.packages.spec import SPEC_FILE
from seaway.plugins import resolve
from seaway.types import Signature

INPUT_TYPES = {
    "tensor": "seaway.inputs.tensor:TensorInput",
    "tabular": "seaway.inputs.tabular:TabularInput",
    "text": "seaway.inputs.text:TextInput",
    "image": "seaway.inputs.image:ImageInput",
}


def open_input(package: Path, spec: PackageSpec, signature: Signature) -> InputType:
    """The input type that `spec` names, checked against the graph. Raises InvalidPackage naming the wrong key."""
    try:
        kind: type[InputType] = resolve("input type", spec.input.type or "tensor", INPUT_TYPES)
    except ConfigurationError as error:
        raise InvalidPackage(f"{SPEC_FILE}: input.type: {error}") from error
    return kind.open(package, spec, signature)
