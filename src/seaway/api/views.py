"""Registry values as JSON."""

from __future__ import annotations

from typing import Any

import msgspec

from seaway.types import Calibration, DatasetVersion, DeploymentRevision, Json, ModelVersion, Page, Profile


def plain(value: Any) -> Json:
    """A dataclass as JSON has it: objects, lists, times as text."""
    described: Json = msgspec.to_builtins(value)
    return described


def page(value: Page[Any]) -> Json:
    return {"items": msgspec.to_builtins(value.items), "next_cursor": value.next_cursor}


def items(values: Any) -> Json:
    """A list that is never cut into pages."""
    return {"items": msgspec.to_builtins(values), "next_cursor": None}


def _with_files(value: DatasetVersion | ModelVersion) -> Json:
    described = plain(value)
    described["files"] = described.pop("manifest")["files"]
    described["n_bytes"] = value.manifest.n_bytes
    return described


def dataset_version(value: DatasetVersion) -> Json:
    return _with_files(value)


def model_version(value: ModelVersion) -> Json:
    return _with_files(value)


def profile(value: Profile) -> Json:
    """What was measured, by whom; the digest is that of the version it is shown with."""
    described = plain(value)
    del described["digest"]
    return described


def batches(value: Calibration) -> Json:
    """What batches cost. Where all samples have one size, the width that was noted says nothing."""
    sized = any(width > 1 for _, width, _, _ in value.curve)
    points = [
        {
            "rows": rows, "tokens": width if sized else None,
            "run_us": round(seconds * 1e6, 1) if seconds >= 0 else None, "memory_bytes": n_bytes,
        }
        for rows, width, seconds, n_bytes in value.curve
    ]  # fmt: skip
    about = ("machine", "device", "dtype", "max_difference", "min_cosine")
    return {name: getattr(value, name) for name in about} | {"points": points}


def revision(value: DeploymentRevision) -> Json:
    return plain(value)


def changed_revision(value: DeploymentRevision) -> Json:
    """A revision that was just asked for, and what comes of it."""
    return revision(value) | {"message": outlook(value)}


def outlook(value: DeploymentRevision) -> str:
    """What happens next, in a sentence."""
    model = value.model
    version = f"Version {value.arms[0].version} of {model}" if value.arms else model
    why = f": {value.state_reason.rstrip('.')}" if value.state_reason else ""
    sentences = {
        "ready": f"{version} serves.",
        "failed": f"{version} did not get ready{why}. What served before goes on.",
        "superseded": f"{version} was replaced by a newer revision{why}.",
        "undeployed": f"{model} is not served any more.",
    }
    if value.state in sentences:
        return sentences[value.state]
    if not value.arms:
        return f"Gateways stop routing to {model}; its workers finish their requests and stop."
    return (
        f"{version} is loaded and warmed up; once it is ready requests go to it, "
        "and what served before finishes its requests and stops."
    )
