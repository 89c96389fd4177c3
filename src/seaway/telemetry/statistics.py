"""The statistics extension of the Open Inference Protocol, as `/v2/models/stats` answers it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from seaway.telemetry.snapshot import OTHER_MODELS, UNKNOWN_MODEL, Executions, SeriesSnapshot, merge
from seaway.types import Json


def model_stats(
    snapshots: Iterable[SeriesSnapshot],
    model: str | None = None,
    version: int | None = None,
    *,
    served: Iterable[tuple[str, int]] | None = None,
) -> Json:
    """`{"model_stats": [...]}` for one version, one model (`version` None) or all (`model` None too).

    `served` names the versions that answer now: these appear, with zeros before their first request. Without it,
    everything that was ever counted does. All times are nanoseconds, all numbers integers.
    """
    counted = {(snapshot.model, snapshot.version): snapshot for snapshot in merge(snapshots)}
    keys = counted.keys() - {UNKNOWN_MODEL, OTHER_MODELS} if served is None else set(served)
    wanted = [key for key in sorted(keys) if model in (None, key[0]) and version in (None, key[1])]
    return {"model_stats": [_one(counted.get(key) or SeriesSnapshot(*key)) for key in wanted]}


def _one(series: SeriesSnapshot) -> Json:
    executions = series.executions
    n_ok = series.outcomes["ok"]
    return {
        "name": series.model,
        "version": str(series.version),
        "last_inference": series.last_inference_ms,
        "inference_count": series.rows,
        "execution_count": executions.count,
        "inference_stats": {
            "success": _duration(n_ok, series.success_ns),
            "fail": _duration(sum(series.outcomes.values()) - n_ok, series.fail_ns),
            "queue": _duration(series.queue.count, series.queue.sum_ns),
            **_phases(executions),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": [
            {"batch_size": size, **_phases(series.batches[size])} for size in sorted(series.batches) if size > 0
        ],
        "memory_usage": [],
    }


def _phases(executions: Executions) -> Json:
    return {
        "compute_input": _duration(executions.count, executions.input_ns),
        "compute_infer": _duration(executions.count, executions.infer_ns),
        "compute_output": _duration(executions.count, executions.output_ns),
    }


def _duration(count: int, ns: int) -> Json:
    return {"count": count, "ns": ns}
