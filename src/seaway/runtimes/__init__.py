"""How a model is executed: one file for each runtime, and its line in this table."""

from __future__ import annotations

from pathlib import Path

import msgspec

from seaway.errors import ConfigurationError, InvalidPackage
from seaway.packages import PackageSpec
from seaway.packages.spec import SPEC_FILE, package_file
from seaway.plugins import resolve
from seaway.runtimes.base import Operators, Runtime

RUNTIMES = {"onnx": "seaway.runtimes.onnx:OnnxRuntime"}
OPERATORS = {"onnx": "seaway.runtimes.onnx_graph:operators"}
"""How each runtime's model files are asked for their operators."""
MODEL_SUFFIXES = {".onnx": "onnx"}
"""Which runtime a model file is for when seaway.yaml doesn't say."""


def identify(package: Path, spec: PackageSpec) -> PackageSpec:
    """`spec` with `runtime` and `model` filled in from the files. Raises InvalidPackage when that isn't unambiguous."""
    if spec.runtime is not None and spec.runtime not in RUNTIMES:
        known = ", ".join(sorted(RUNTIMES))
        raise InvalidPackage(f"{SPEC_FILE}: runtime: there is none called {spec.runtime!r}; there are: {known}.")
    model = spec.model
    if model is None:
        suffixes = [suffix for suffix, name in MODEL_SUFFIXES.items() if spec.runtime in {None, name}]
        found = sorted(file.name for file in package.iterdir() if file.suffix in suffixes)
        if len(found) != 1:
            raise InvalidPackage(
                f"The package needs one model file ({', '.join(suffixes)}) at its top and has {len(found)}; "
                f"add it, or name it as `model` in {SPEC_FILE}."
            )
        model = found[0]
    file = package_file(package, model, "model")
    runtime = spec.runtime or MODEL_SUFFIXES.get(file.suffix)
    if runtime is None:
        raise InvalidPackage(f"The model file {model!r} fits no runtime; accepted are: {', '.join(MODEL_SUFFIXES)}.")
    return msgspec.structs.replace(spec, runtime=runtime, model=model)


def runtime(name: str) -> Runtime:
    """The runtime called `name`. Raises InvalidPackage when its libraries are not installed."""
    try:
        found: Runtime = resolve("runtime", name, RUNTIMES)()
    except ConfigurationError as error:
        raise InvalidPackage(str(error)) from error
    return found


def operators(package: Path, spec: PackageSpec) -> Operators:
    """What the model of an identified package consists of. Raises InvalidPackage when its file can't be read."""
    found: Operators = resolve("runtime", spec.runtime or "", OPERATORS)(package / (spec.model or ""))
    return found
