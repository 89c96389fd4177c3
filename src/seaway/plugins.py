"""Choose an implementation by name from a table of import strings.

A table maps a name to ``"package.module:attribute"``. Nothing is imported before it is chosen, so a runtime or an
input type whose libraries are not installed costs nothing until somebody asks for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from seaway.errors import ConfigurationError

_OF_TORCH = frozenset({"torch", "safetensors", "transformers", "huggingface_hub"})


def resolve(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """The object that `table` names for `name`.

    Raises ConfigurationError with the known names when there is none, or with the package to install when its
    libraries are missing.
    """
    if name not in table:
        known = ", ".join(sorted(table))
        raise ConfigurationError(f"There is no {kind} named {name!r}; there are: {known}.")
    module_name, _, attribute = table[name].partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # torch alone is ten times all the others, so that it is no part of `all`.
        extra = "torch" if error.name in _OF_TORCH else "all"
        brings = "it" if extra == "torch" else "it and the other extras"
        raise ConfigurationError(
            f"The {kind} {name!r} needs the Python package {error.name!r}, which is not installed; "
            f"`pip install '.[{extra}]'` in Seaway's directory brings {brings}; no restart is needed."
        ) from error
    return getattr(module, attribute)
