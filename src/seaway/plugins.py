"""Choose an implementation by name from a table of import strings.

A table maps a name to ``"package.module:attribute"``. Nothing is imported before it is chosen, so a runtime or an
input type whose libraries are not installed costs nothing until somebody asks for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from seaway.errors import ConfigurationError


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
        raise ConfigurationError(
            f"The {kind} {name!r} needs the Python package {error.name!r}, which is not installed; "
            f"`pip install '.[all]'` in Seaway's directory brings it and the other extras; no restart is needed."
        ) from error
    return getattr(module, attribute)
