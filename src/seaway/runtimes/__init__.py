"""How a model is executed: one file for each runtime, and its lines in these tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from seaway.errors import ConfigurationError, InvalidPackage
from seaway.packages import PackageSpec
from seaway.packages.spec import SPEC_FILE, package_file
from seaway.plugins import resolve
from seaway.runtimes.base import Operators, PreparedModels, RewrittenModels, Runtime

RUNTIMES = {
    "onnx": "seaway.runtimes.onnx:OnnxRuntime",
    "torch": "seaway.runtimes.torch:TorchRuntime",
    "transformers": "seaway.runtimes.transformers:TransformersRuntime",
}
OPERATORS = {
    "onnx": "seaway.runtimes.onnx_graph:operators",
    "torch": "seaway.runtimes.torch_files:operators",
    "transformers": "seaway.runtimes.torch_files:operators",
}
"""How each runtime's model files are asked for their operators."""
COMPLETIONS = {
    "torch": "seaway.runtimes.torch_files:complete",
    "transformers": "seaway.runtimes.transformers_files:complete",
}
"""What checks the files of a package beside the model, and fills in what they say and seaway.yaml doesn't."""
PREPARED = {"onnx": "seaway.runtimes.onnx_prepared:PreparedOnnx"}
"""What keeps a runtime's models in files that processes can share, for runtimes that can."""
REWRITTEN = {"onnx": "seaway.runtimes.onnx_rewrite:RewrittenOnnx"}
"""What opens a runtime's models with graphs that were rewritten, for runtimes that can."""
INDEX = ".safetensors.index.json"
"""The end of the name of the file that says which of several safetensors files holds which tensor."""
MODEL_SUFFIXES = {
    ".onnx": ("onnx",), ".pt2": ("torch",), ".safetensors": ("torch", "transformers"), INDEX: ("transformers",),
}  # fmt: skip
"""Which runtimes a model file may be for."""
_KEYS = {"task": "transformers", "architecture": "torch", "signature": "torch"}
"""Keys of seaway.yaml that only one runtime reads."""


def identify(package: Path, spec: PackageSpec) -> PackageSpec:
    """`spec` with `runtime`, `model` and what else the files say filled in.

    Raises InvalidPackage when that isn't unambiguous, or when there is a file that the runtime refuses.
    """
    if spec.runtime is not None and spec.runtime not in RUNTIMES:
        known = ", ".join(sorted(RUNTIMES))
        raise InvalidPackage(f"{SPEC_FILE}: runtime: there is none called {spec.runtime!r}; there are: {known}.")
    model = spec.model if spec.model is not None else _only_model(package, spec)
    package_file(package, model, "model")
    name = _runtime_of(package, spec, model)
    for key, reader in _KEYS.items():
        if getattr(spec, key) is not None and reader != name:
            raise InvalidPackage(f"{SPEC_FILE}: {key} is for the runtime {reader}; {model!r} is run by {name}.")
    spec = msgspec.structs.replace(spec, runtime=name, model=model)
    if name in COMPLETIONS:
        spec = resolve("runtime", name, COMPLETIONS)(package, spec)
    if not spec.input.type:
        spec = msgspec.structs.replace(spec, input=msgspec.structs.replace(spec.input, type="tensor"))
    return spec


def runtime(name: str) -> Runtime:
    """The runtime called `name`. Raises InvalidPackage when its libraries are not installed."""
    try:
        found: Runtime = resolve("runtime", name, RUNTIMES)()
    except ConfigurationError as error:
        raise InvalidPackage(str(error)) from error
    return found


def prepared(name: str) -> PreparedModels | None:
    """What keeps models of the runtime called `name` in files that processes share; None: nothing does."""
    found: PreparedModels | None = resolve("runtime", name, PREPARED)() if name in PREPARED else None
    return found


def rewriter(name: str) -> RewrittenModels | None:
    """What opens models of the runtime called `name` with rewritten graphs; None: nothing does."""
    found: RewrittenModels | None = resolve("runtime", name, REWRITTEN)() if name in REWRITTEN else None
    return found


def operators(package: Path, spec: PackageSpec) -> Operators:
    """What the model of an identified package consists of. Raises InvalidPackage when its file can't be read."""
    found: Operators = resolve("runtime", spec.runtime or "", OPERATORS)(package / (spec.model or ""))
    return found


def _suffix(name: str) -> str:
    return INDEX if name.endswith(INDEX) else Path(name).suffix


def _only_model(package: Path, spec: PackageSpec) -> str:
    """The one file at the top of the package that can be its model."""
    suffixes = [suffix for suffix, names in MODEL_SUFFIXES.items() if spec.runtime is None or spec.runtime in names]
    found = sorted(file.name for file in package.iterdir() if _suffix(file.name) in suffixes and file.is_file())
    if any(name.endswith(INDEX) for name in found):
        found = [name for name in found if not name.endswith(".safetensors")]  # they are its parts
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidPackage(
            f"The package needs one model file and has {len(found)}: {', '.join(map(repr, found[:5]))}; "
            f"name one as `model` in {SPEC_FILE}, or write `runtime` where that settles it."
        )
    raise InvalidPackage(
        f"The package needs one model file ({', '.join(suffixes)}) at its top and has none; "
        f"add it, or name it as `model` in {SPEC_FILE}."
    )


def _runtime_of(package: Path, spec: PackageSpec, model: str) -> str:
    """The runtime that `model` is for: the one that was written down, if it takes such files."""
    names: Sequence[str] = MODEL_SUFFIXES.get(_suffix(model), ())
    if not names:
        raise InvalidPackage(f"The model file {model!r} fits no runtime; accepted are: {', '.join(MODEL_SUFFIXES)}.")
    if spec.runtime is not None:
        if spec.runtime not in names:
            raise InvalidPackage(f"{SPEC_FILE}: {model!r} is not for the runtime {spec.runtime}, but {names[0]}.")
        return spec.runtime
    if len(names) == 1:
        return names[0]
    if spec.architecture is not None:
        return "torch"
    if (package / "config.json").is_file():
        return "transformers"
    raise InvalidPackage(
        f"{model!r} holds weights and not what to do with them: add transformers' config.json, or write the layers as "
        f"`architecture` in {SPEC_FILE}."
    )
