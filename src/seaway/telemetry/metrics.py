"""The Prometheus exposition of the whole server. Called in control: gateways only count, in their pages.

Every metric is one line in a table below, with its help text and where its value comes from; the reference in the
documentation is tested against these tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from seaway.telemetry.batches import FILL, ROWS, BatchCounters, DeviceUse
from seaway.telemetry.page import read_page
from seaway.telemetry.snapshot import (
    BUCKETS_NS,
    OTHER_MODELS,
    OUTCOMES,
    UNKNOWN_MODEL,
    Histogram,
    SeriesSnapshot,
    merge,
)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_LABELS = ("model", "version")
_BOUNDS = (*(f"{bound / 1e9:g}" for bound in BUCKETS_NS), "+Inf")


@dataclass(frozen=True, slots=True)
class VersionGauges:
    """What control knows about one version that pages don't.

    `restarts` and `cpu_seconds` are counters: control adds up the processes that have ended and never forgets a
    version that it has shown, so that they never go backwards.
    """

    model: str
    version: int
    engines: int = 0
    engines_busy: int = 0
    queue_depth: int = 0
    restarts: int = 0
    memory_bytes: int = 0
    cpu_seconds: float = 0.0
    ready: bool = False
    batches: BatchCounters | None = None
    """Of the batch lane, and of the CPU lane where it has joint runs; None where there is neither."""
    devices: tuple[DeviceUse, ...] = ()


@dataclass(frozen=True, slots=True)
class LiveGauges:
    """The state of the server at the moment of a scrape; control fills it."""

    versions: tuple[VersionGauges, ...] = ()
    gateways: int = 0
    generation: int = 0
    build: Mapping[str, str] = field(default_factory=dict)
    """Labels of seaway_build_info: version, python, onnxruntime ..."""
    counted: bool = True
    """False where gateways count no predictions; a zero would then be a lie."""


_HISTOGRAMS: dict[str, tuple[str, Callable[[SeriesSnapshot], Histogram]]] = {
    "seaway_queue_seconds": ("Wait of answered requests for an engine.", lambda series: series.queue),
    "seaway_batch_seconds": ("Wait of answered requests for company in a batch.", lambda series: series.batch),
    "seaway_inference_seconds": ("Run time of the model for answered requests.", lambda series: series.inference),
    "seaway_request_seconds": (
        "Time in the server of requests that ended ok, failed or at their deadline.",
        lambda series: series.request,
    ),
}

_GAUGES: dict[str, tuple[str, Callable[[VersionGauges], float]]] = {
    "seaway_model_ready": ("1 when the version answers requests now.", lambda live: live.ready),
    "seaway_engines": ("Engine threads of the version.", lambda live: live.engines),
    "seaway_engines_busy": ("Engine threads that run a request now.", lambda live: live.engines_busy),
    "seaway_queue_depth": ("Requests that wait for an engine now.", lambda live: live.queue_depth),
    "seaway_worker_memory_bytes": ("Memory of the version's worker processes.", lambda live: live.memory_bytes),
}

_COUNTERS: dict[str, tuple[str, Callable[[VersionGauges], float]]] = {
    "seaway_worker_restarts_total": ("Worker processes started anew after a death.", lambda live: live.restarts),
    "seaway_worker_cpu_seconds_total": (
        "CPU time of the version: its workers, and gateways that run it.",
        lambda live: live.cpu_seconds,
    ),
}

_BATCH_HISTOGRAMS: dict[str, tuple[str, tuple[float, ...], Callable[[BatchCounters], tuple[list[int], float]]]] = {
    "seaway_batch_rows": ("Samples of a batch, or of a joint run.", ROWS, lambda of: (of.row_buckets, of.rows)),
    "seaway_batch_fill_ratio": (
        "Samples of a batch, of those that might have been in it.", FILL, lambda of: (of.fill_buckets, of.fill),
    ),
}  # fmt: skip
_BATCH_COUNTERS: dict[str, tuple[str, Callable[[BatchCounters], float]]] = {
    "seaway_batch_tokens_total": ("Tokens that batches ran, padding counted.", lambda of: of.tokens),
    "seaway_batch_padding_tokens_total": ("Tokens that batches ran and nobody had sent.", lambda of: of.padding),
    "seaway_batch_run_seconds_total": (
        "Time that batches took on their device, or joint runs.",
        lambda of: of.busy_ns / 1e9,
    ),
    "seaway_batch_out_of_memory_total": ("Batches for which the device had no memory.", lambda of: of.out_of_memory),
    "seaway_batch_failed_rows_total": ("Samples that made their batch fail.", lambda of: of.failed_rows),
}
_LEFT = ("seaway_batches_total", "Batches by why they left the queue: full, idle, delay, deadline or retry.")
_DEVICE: dict[str, tuple[str, Callable[[DeviceUse], float | None]]] = {
    "seaway_device_memory_used_bytes": ("Memory in use on the device.", lambda device: device.used_bytes),
    "seaway_device_memory_bytes": ("Memory of the device.", lambda device: device.total_bytes),
    "seaway_device_utilisation_ratio": ("Part of the last moments in which it worked.", lambda of: of.utilisation),
}

_SERVER: dict[str, tuple[str, Callable[[LiveGauges], float]]] = {
    "seaway_gateways": ("Gateway processes that run.", lambda live: live.gateways),
    "seaway_routing_generation": ("Generation of the newest routing table.", lambda live: live.generation),
}

_REQUESTS = ("seaway_requests_total", "Finished requests by how they ended.")
_ROWS = ("seaway_inference_rows_total", "Samples in answered requests.")
_BUILD = ("seaway_build_info", "What runs here; always 1.")

NAMES = (
    _REQUESTS[0], _ROWS[0], *_HISTOGRAMS, *_GAUGES, *_COUNTERS,
    *_BATCH_HISTOGRAMS, *_BATCH_COUNTERS, _LEFT[0], *_DEVICE, *_SERVER, _BUILD[0],
)  # fmt: skip
"""Every metric of the exposition."""


def render(pages: Iterable[Path], live: LiveGauges) -> bytes:
    """The exposition in Prometheus text format 0.0.4 (`CONTENT_TYPE`), summed over the gateways' pages.

    Pass the page of every gateway index that has ever run here, also of one that is down just now: a page left out is
    a counter that goes backwards. Raises Unavailable when a file is no page of this layout.
    """
    series = merge(snapshot for page in pages for snapshot in read_page(page))
    known = {(snapshot.model, snapshot.version) for snapshot in series}
    # A version starts at zero with its first scrape, so that its first failures are an increase.
    fresh = {(version.model, version.version) for version in live.versions if live.counted} - known
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Exposition([*series, *(SeriesSnapshot(*key) for key in sorted(fresh))], live))
    return generate_latest(registry)


class _Exposition(Collector):
    def __init__(self, series: list[SeriesSnapshot], live: LiveGauges) -> None:
        self._series = series
        self._live = live

    def describe(self) -> Iterable[Metric]:
        # The registry is made for one scrape: there is nothing to clash with, so nothing to look up beforehand.
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from self._counted()
        yield from self._of_versions()
        yield from self._of_batches()
        yield from self._of_devices()
        for name, (text, server_value) in _SERVER.items():
            yield GaugeMetricFamily(name, text, value=server_value(self._live))
        build = GaugeMetricFamily(*_BUILD, labels=tuple(self._live.build))
        build.add_metric(tuple(self._live.build.values()), 1)
        yield build

    def _counted(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(*_REQUESTS, labels=(*_LABELS, "outcome"))
        for series in self._series:
            for outcome in OUTCOMES:
                requests.add_metric((*_labels(series), outcome), series.outcomes[outcome])
        yield requests
        # Nothing was ever inferred for a model that doesn't exist.
        of_models = [series for series in self._series if (series.model, series.version) != UNKNOWN_MODEL]
        rows = CounterMetricFamily(*_ROWS, labels=_LABELS)
        for series in of_models:
            rows.add_metric(_labels(series), series.rows)
        yield rows
        for name, (text, histogram_of) in _HISTOGRAMS.items():
            family = HistogramMetricFamily(name, text, labels=_LABELS)
            for series in of_models:
                histogram = histogram_of(series)
                family.add_metric(_labels(series), _cumulative(histogram), histogram.sum_ns / 1e9)
            yield family

    def _of_versions(self) -> Iterator[Metric]:
        for name, (text, value) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=_LABELS)
            for version in self._live.versions:
                gauge.add_metric(_labels(version), value(version))
            yield gauge
        for name, (text, value) in _COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=_LABELS)
            for version in self._live.versions:
                counter.add_metric(_labels(version), value(version))
            yield counter

    def _of_batches(self) -> Iterator[Metric]:
        batching = [(_labels(version), version.batches) for version in self._live.versions if version.batches]
        for name, (text, bounds, histogram) in _BATCH_HISTOGRAMS.items():
            family = HistogramMetricFamily(name, text, labels=_LABELS)
            for labels, batches in batching:
                counts, total = histogram(batches)
                limits = (*(f"{bound:g}" for bound in bounds), "+Inf")
                family.add_metric(labels, list(zip(limits, accumulate(counts), strict=True)), total)
            yield family
        for name, (text, value) in _BATCH_COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=_LABELS)
            for labels, batches in batching:
                counter.add_metric(labels, value(batches))
            yield counter
        left = CounterMetricFamily(*_LEFT, labels=(*_LABELS, "reason"))
        for labels, batches in batching:
            for reason, count in sorted(batches.reasons.items()):
                left.add_metric((*labels, reason), count)
        yield left

    def _of_devices(self) -> Iterator[Metric]:
        for name, (text, value) in _DEVICE.items():
            gauge = GaugeMetricFamily(name, text, labels=(*_LABELS, "device"))
            for version in self._live.versions:
                for device in version.devices:
                    if (found := value(device)) is not None:
                        gauge.add_metric((*_labels(version), device.device), found)
            yield gauge


def _labels(of: SeriesSnapshot | VersionGauges) -> tuple[str, str]:
    nobody = (of.model, of.version) in (UNKNOWN_MODEL, OTHER_MODELS)
    return of.model, "" if nobody else str(of.version)


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip(_BOUNDS, histogram.buckets, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
