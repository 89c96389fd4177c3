"""What counting a request costs a gateway, and what a scrape costs control.

    python benchmarks/micro/metrics_page.py [--json]

`record` is on the path of every request: it should stay near 1 microsecond. `render` is once per scrape.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from seaway.telemetry.metrics import LiveGauges, VersionGauges, render
from seaway.telemetry.page import MetricsPage, Timings, read_page

TIMINGS = Timings(30_000, 0, 20_000, 300_000, 5_000, 700_000, 1)


def microseconds(call: Callable[[], object], number: int, rounds: int = 7) -> dict[str, float]:
    """Best and median time of one call, over `rounds` rounds of `number` calls."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter_ns()
        for _ in range(number):
            call()
        times.append((time.perf_counter_ns() - started) / number / 1000)
    return {"best": round(min(times), 3), "median": round(statistics.median(times), 3)}


def measure(directory: Path) -> dict[str, dict[str, float]]:
    """All cases, in microseconds a call."""
    path = directory / "metrics-0.page"
    page = MetricsPage(path)
    series = page.series("iris", 3)
    results = {
        "record answered": microseconds(lambda: series.record("ok", TIMINGS), 100_000),
        "record refused": microseconds(lambda: series.record("overloaded", TIMINGS), 100_000),
        "find series, make timings, record": microseconds(
            lambda: page.series("iris", 3).record("ok", Timings(30_000, 0, 20_000, 300_000, 5_000, 700_000, 1)), 100_000
        ),
        "read page of 1 version": microseconds(lambda: read_page(path), 200),
    }
    versions = [("model", version) for version in range(1, 100)]
    for key in versions:
        page.series(*key).record("ok", TIMINGS)
    live = LiveGauges(tuple(VersionGauges(*key) for key in versions), gateways=1)
    results["read page of 100 versions"] = microseconds(lambda: read_page(path), 20)
    results["render 100 versions"] = microseconds(lambda: render([path], live), 5)
    page.close()
    return results


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true", help="print JSON instead of a table")
    as_json = arguments.parse_args().json
    with tempfile.TemporaryDirectory() as directory:
        results = measure(Path(directory))
    if as_json:
        print(json.dumps({"unit": "microseconds", "results": results}, indent=2))
        return
    print(f"{'microseconds a call':<36}{'best':>12}{'median':>12}")
    for name, times in results.items():
        print(f"{name:<36}{times['best']:>12.2f}{times['median']:>12.2f}")


if __name__ == "__main__":
    main()
