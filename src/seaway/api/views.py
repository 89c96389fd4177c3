"""Registry values as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from seaway.types import DatasetVersion, DeploymentRevision, ModelVersion, Page


def plain(value: Any) -> Any:
    """Dataclasses, tuples and times as JSON has them."""
    return msgspec.to_builtins(value)


def page(value: Page[Any]) -> dict[str, Any]:
    return {"items": plain(value.items), "next_cursor": value.next_cursor}


def items(values: Any) -> dict[str, Any]:
    """A list that is never cut into pages."""
    return {"items": plain(values), "next_cursor": None}


def _with_files(value: DatasetVersion | ModelVersion) -> dict[str, Any]:
    described: dict[str, Any] = plain(value)
    described["files"] = described.pop("manifest")["files"]
    described["n_bytes"] = value.manifest.n_bytes
    return described


def dataset_version(value: DatasetVersion) -> dict[str, Any]:
    return _with_files(value)


def model_version(value: ModelVersion) -> dict[str, Any]:
    return _with_files(value)


def revision(value: DeploymentRevision, message: str = "") -> dict[str, Any]:
    described: dict[str, Any] = plain(value)
    return described | ({"message": message} if message else {})
