"""What a metrics page held at one moment. Plain values, so that sums over gateways are exact integers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

OUTCOMES = ("ok", "invalid", "not_found", "overloaded", "deadline", "cancelled", "unavailable", "failed")
"""How a request can end. The order is the layout of a page: append, never reorder."""

BUCKETS_NS = tuple(
    milliseconds * 500_000 for milliseconds in (1, 2, 4, 10, 20, 40, 100, 200, 400, 1_000, 2_000, 4_000, 10_000)
)
"""Upper bounds of the histograms, 0.5 ms to 5 s; one more bucket takes what is longer."""

UNKNOWN_MODEL = ("", 0)
"""The one series of requests for models that don't exist, whatever name they asked for."""

OTHER_MODELS = ("(other)", 0)
"""The series of versions that came when a page was full; no model can be called so."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations in each bucket (not cumulative; the last one is open) and their sum."""

    buckets: tuple[int, ...] = (0,) * (len(BUCKETS_NS) + 1)
    sum_ns: int = 0

    @property
    def count(self) -> int:
        return sum(self.buckets)

    def __add__(self, other: Histogram) -> Histogram:
        buckets = tuple(mine + its for mine, its in zip(self.buckets, other.buckets, strict=True))
        return Histogram(buckets, self.sum_ns + other.sum_ns)


@dataclass(frozen=True, slots=True)
class Executions:
    """Executions of the model, and the time they took in each phase."""

    count: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0

    def __add__(self, other: Executions) -> Executions:
        return Executions(
            self.count + other.count,
            self.input_ns + other.input_ns,
            self.infer_ns + other.infer_ns,
            self.output_ns + other.output_ns,
        )


@dataclass(frozen=True, slots=True)
class SeriesSnapshot:
    """Everything counted for one model version, by one gateway or, merged, by all."""

    model: str
    version: int
    outcomes: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    queue: Histogram = Histogram()
    batch: Histogram = Histogram()
    inference: Histogram = Histogram()
    request: Histogram = Histogram()
    success_ns: int = 0
    """Total time of the requests that ended ok."""
    fail_ns: int = 0
    """Total time of all others."""
    rows: int = 0
    last_inference_ms: int = 0
    """Unix time of the last answered request; 0: there was none."""
    batches: Mapping[int, Executions] = field(default_factory=dict)
    """By rows in the execution. Key 0 sums up the sizes that a page had no room for."""

    @property
    def executions(self) -> Executions:
        """Over all batch sizes."""
        return sum(self.batches.values(), Executions())

    def __add__(self, other: SeriesSnapshot) -> SeriesSnapshot:
        sizes = self.batches.keys() | other.batches.keys()
        none = Executions()
        return SeriesSnapshot(
            model=self.model,
            version=self.version,
            outcomes={outcome: self.outcomes[outcome] + other.outcomes[outcome] for outcome in OUTCOMES},
            queue=self.queue + other.queue,
            batch=self.batch + other.batch,
            inference=self.inference + other.inference,
            request=self.request + other.request,
            success_ns=self.success_ns + other.success_ns,
            fail_ns=self.fail_ns + other.fail_ns,
            rows=self.rows + other.rows,
            last_inference_ms=max(self.last_inference_ms, other.last_inference_ms),
            batches={size: self.batches.get(size, none) + other.batches.get(size, none) for size in sizes},
        )


def merge(snapshots: Iterable[SeriesSnapshot]) -> list[SeriesSnapshot]:
    """One snapshot for each model version, summed over gateways, sorted by model and version."""
    sums: dict[tuple[str, int], SeriesSnapshot] = {}
    for snapshot in snapshots:
        key = (snapshot.model, snapshot.version)
        sums[key] = sums[key] + snapshot if key in sums else snapshot
    return [sums[key] for key in sorted(sums)]
