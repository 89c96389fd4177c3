"""Registering small things without HTTP; as a program, in a process that may be told to die."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from seaway import faults
from seaway.registry import ArtifactStore, Registry
from seaway.serving.inspect import Inspection
from seaway.types import Calibration, DatasetVersion, ModelVersion, Signature, TensorSpec

INSPECTION = Inspection(
    "onnx", "onnxruntime_onnx",
    Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 3)),)), {"runtime": "onnx"},
)  # fmt: skip


def add_model(registry: Registry, content: bytes, model: str = "scale", **more: Any) -> tuple[ModelVersion, bool]:
    """Register a package of one file with this content; the registry does not look into it."""
    with registry.artifacts.stage() as staging:
        with staging.open("model.onnx") as file:
            file.write(content)
        return registry.add_model_version(model, staging, INSPECTION, **{"actor": "ada", **more})


def add_dataset(registry: Registry, content: bytes, dataset: str = "rows", **more: Any) -> tuple[DatasetVersion, bool]:
    with registry.artifacts.stage() as staging:
        with staging.open(more.pop("path", "rows.bin")) as file:
            file.write(content)
        return registry.add_dataset_version(dataset, staging, **{"actor": "ada", **more})


def ready(registry: Registry, version: int, model: str = "scale") -> int:
    """Deploy `version` and say that it is ready, as the reconcile loop does; the id of its revision."""
    revision = registry.deploy(model, version, actor="ada")
    registry.record_deployment_event(revision.id, "ready", "")
    return revision.id


def measure(registry: Registry, digest: str = "d" * 64) -> None:
    """Keep a calibration and a profile of these bytes."""
    registry.add_calibration(digest, Calibration(1, 2, 3, 0.5, 4, (), True, "here"), actor="control")
    registry.add_profile(digest, "here", {"rows": []}, actor="ada")


def main(url: str, artifacts: str, content: str, kill_point_file: str = "") -> None:
    """`python -m support.registering URL ARTIFACTS CONTENT [KILL_POINT_FILE]` prints the version."""
    faults.arm(Path(kill_point_file) if kill_point_file else None)
    registry = Registry(url, ArtifactStore(Path(artifacts)))
    registry.migrate()
    version, _ = add_model(registry, content.encode())
    registry.close()
    sys.stdout.write(f"{version.version}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
