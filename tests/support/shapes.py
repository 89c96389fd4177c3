"""What the API answers, made from the values it makes its answers from: for tests of what reads it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from seaway.api import views
from seaway.types import (
    Arm,
    DatasetVersion,
    DeploymentRevision,
    Experiment,
    FileEntry,
    Json,
    Manifest,
    ModelVersion,
    ServingSettings,
    Signature,
    TensorSpec,
    TrainedVersion,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MANIFEST = Manifest((FileEntry("model.onnx", 1_500_000, "0" * 64),))


def over_http(value: Any) -> Json:
    """As it comes out of a response."""
    read: Json = json.loads(json.dumps(value))
    return read


def model_version(version: int = 1) -> Json:
    signature = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1,)),))
    found = ModelVersion(
        "churn", version, "d" * 64, MANIFEST, "onnx", "onnxruntime_onnx", signature, {}, NOON, "ana", "e" * 32
    )
    return over_http(views.model_version(found))


def dataset_version() -> Json:
    found = DatasetVersion("customers", 1, "d" * 64, MANIFEST, NOON, "ana", n_rows=1234)
    return over_http(views.dataset_version(found))


def experiment() -> Json:
    spec = {"architecture": "trees", "hyper_parameters": {"depth": 4}, "validation_strategy": "", "code_commit": "abc"}
    trained = (TrainedVersion("churn", 7, {"auc": 0.91}, NOON),)
    found = Experiment("e" * 32, "customers", 1, "d" * 64, "churn", spec, "f" * 64, NOON, trained)
    return over_http(views.plain(found))


def revision(state: str, version: int = 2, *, reason: str = "", number: int = 5) -> Json:
    arms = (Arm("main", version),)
    found = DeploymentRevision(9, "churn", number, arms, ServingSettings(), "deploy", "", NOON, "ana", state, reason)
    return over_http(views.revision(found))


def live(version: int | None = 1, state: str = "READY") -> Json:
    worker = {
        "worker_id": "w1", "pid": 4242, "version": 1, "revision": 9, "phase": "ready", "engines": 2,
        "memory_bytes": 60_000_000,
    }  # fmt: skip
    choice = {"placement": "worker", "processes": 1, "engines": 2, "why": "A run takes 5 ms."}
    model = {
        "state": state, "version": version, "revision": 9, "reason": "", "choice": choice if version else None,
        "workers": [worker] if version else [], "answered": 17,
    }  # fmt: skip
    return {
        "version": "0.1.0", "models": {"churn": model}, "gateways": [{"index": 0, "pid": 77, "generation": 3}],
        "generation": 3,
    }  # fmt: skip
