"""Statistics of the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

from seaway.telemetry.snapshot import OUTCOMES, Executions, Histogram, SeriesSnapshot
from seaway.telemetry.statistics import model_stats

BUSY = SeriesSnapshot(
    "iris", 3,
    outcomes=dict.fromkeys(OUTCOMES, 0) | {"ok": 5, "failed": 2, "overloaded": 1},
    queue=Histogram((5,) + (0,) * 13, 50),
    success_ns=500,
    fail_ns=80,
    rows=11,
    last_inference_ms=1_700_000_000_123,
    batches={4: Executions(2, 10, 20, 30), 1: Executions(2, 1, 2, 3), 0: Executions(1, 100, 200, 300)},
)  # fmt: skip


def names(stats: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["name"], one["version"]) for one in stats["model_stats"]]


def test_the_statistics_have_exactly_the_protocols_fields() -> None:
    assert model_stats([BUSY]) == {
        "model_stats": [
            {
                "name": "iris",
                "version": "3",
                "last_inference": 1_700_000_000_123,
                "inference_count": 11,
                "execution_count": 5,
                "inference_stats": {
                    "success": {"count": 5, "ns": 500},
                    "fail": {"count": 3, "ns": 80},
                    "queue": {"count": 5, "ns": 50},
                    "compute_input": {"count": 5, "ns": 111},
                    "compute_infer": {"count": 5, "ns": 222},
                    "compute_output": {"count": 5, "ns": 333},
                    "cache_hit": {"count": 0, "ns": 0},
                    "cache_miss": {"count": 0, "ns": 0},
                },
                "batch_stats": [
                    {
                        "batch_size": 1,
                        "compute_input": {"count": 2, "ns": 1},
                        "compute_infer": {"count": 2, "ns": 2},
                        "compute_output": {"count": 2, "ns": 3},
                    },
                    {
                        "batch_size": 4,
                        "compute_input": {"count": 2, "ns": 10},
                        "compute_infer": {"count": 2, "ns": 20},
                        "compute_output": {"count": 2, "ns": 30},
                    },
                ],
                "memory_usage": [],
            }
        ]
    }


def test_the_gateways_are_summed() -> None:
    [both] = model_stats([BUSY, BUSY])["model_stats"]
    assert both["inference_count"] == 22
    assert both["inference_stats"]["fail"] == {"count": 6, "ns": 160}
    assert both["last_inference"] == 1_700_000_000_123


def test_model_and_version_narrow_the_answer() -> None:
    series = [SeriesSnapshot("iris", 1), SeriesSnapshot("iris", 2), SeriesSnapshot("rose", 1)]
    assert names(model_stats(series)) == [("iris", "1"), ("iris", "2"), ("rose", "1")]
    assert names(model_stats(series, "iris")) == [("iris", "1"), ("iris", "2")]
    assert names(model_stats(series, "iris", 2)) == [("iris", "2")]
    assert names(model_stats(series, "lily")) == []


def test_unknown_and_overflowing_models_are_not_models() -> None:
    assert names(model_stats([SeriesSnapshot("", 0), SeriesSnapshot("(other)", 0)])) == []


def test_a_served_version_appears_before_its_first_request() -> None:
    stats = model_stats([BUSY], served=[("rose", 1)])
    assert names(stats) == [("rose", "1")]
    assert stats["model_stats"][0]["inference_count"] == 0
    assert stats["model_stats"][0]["batch_stats"] == []


def test_a_server_that_serves_nothing_has_no_statistics() -> None:
    assert names(model_stats([BUSY], served=[])) == []
