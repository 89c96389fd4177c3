"""The Prometheus exposition: names, values, and what a scrape must never show."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from seaway.telemetry.batches import BatchCounters
from seaway.telemetry.metrics import CONTENT_TYPE, NAMES, LiveGauges, VersionGauges, render
from seaway.telemetry.page import MetricsPage, Timings
from seaway.telemetry.snapshot import BUCKETS_NS, OUTCOMES, UNKNOWN_MODEL

ROOT = Path(__file__).resolve().parents[3]
MS = 1_000_000
ANSWERED = Timings(1 * MS, 0, 0, 3 * MS, 0, 6 * MS, 2)
LIVE = LiveGauges(
    versions=(VersionGauges("iris", 3, engines=2, engines_busy=1, queue_depth=4, restarts=5,
                            memory_bytes=6 << 20, cpu_seconds=7.5, ready=True),),
    gateways=2,
    generation=11,
    build={"version": "0.1.0", "python": "3.11.7"},
)  # fmt: skip

Labels = frozenset[tuple[str, str]]


def samples(text: bytes) -> dict[tuple[str, Labels], float]:
    families = list(text_string_to_metric_families(text.decode()))
    found = [(sample.name, frozenset(sample.labels.items()), sample.value) for f in families for sample in f.samples]
    assert len({(name, labels) for name, labels, _ in found}) == len(found), "a sample appears twice"
    return {(name, labels): value for name, labels, value in found}


def value(text: bytes, name: str, **labels: str) -> float:
    return samples(text)[name, frozenset(labels.items())]


@pytest.fixture
def pages(tmp_path: Path) -> list[Path]:
    """Two gateways that have answered three requests, and one that hasn't begun."""
    paths = [tmp_path / f"metrics-{index}.page" for index in range(3)]
    for path, answers in zip(paths[:2], (1, 2), strict=True):
        page = MetricsPage(path)
        for _ in range(answers):
            page.series("iris", 3).record("ok", ANSWERED)
        page.series(*UNKNOWN_MODEL).record("not_found", Timings(0, 0, 0, 0, 0, MS, 0))
        page.close()
    return paths


def test_the_gateways_are_summed(pages: list[Path]) -> None:
    text = render(pages, LIVE)
    of = {"model": "iris", "version": "3"}
    assert value(text, "seaway_requests_total", **of, outcome="ok") == 3
    assert value(text, "seaway_inference_rows_total", **of) == 6
    assert value(text, "seaway_request_seconds_count", **of) == 3
    assert value(text, "seaway_request_seconds_sum", **of) == pytest.approx(0.018)


def test_buckets_are_cumulative_and_end_with_everything(pages: list[Path]) -> None:
    text = render(pages, LIVE)
    of = {"model": "iris", "version": "3"}
    assert value(text, "seaway_request_seconds_bucket", **of, le="0.005") == 0
    assert value(text, "seaway_request_seconds_bucket", **of, le="0.01") == 3
    assert value(text, "seaway_request_seconds_bucket", **of, le="+Inf") == 3
    bounds = [float(dict(labels)["le"]) for name, labels in samples(text) if name == "seaway_queue_seconds_bucket"]
    assert bounds == [*(bound / 1e9 for bound in BUCKETS_NS), float("inf")]


def test_control_adds_what_it_knows_of_a_version(pages: list[Path]) -> None:
    text = render(pages, LIVE)
    of = {"model": "iris", "version": "3"}
    assert {
        name: value(text, name, **of)
        for name in ("seaway_engines", "seaway_engines_busy", "seaway_queue_depth", "seaway_worker_restarts_total",
                     "seaway_worker_memory_bytes", "seaway_worker_cpu_seconds_total", "seaway_model_ready")
    } == {
        "seaway_engines": 2, "seaway_engines_busy": 1, "seaway_queue_depth": 4, "seaway_worker_restarts_total": 5,
        "seaway_worker_memory_bytes": 6 << 20, "seaway_worker_cpu_seconds_total": 7.5, "seaway_model_ready": 1,
    }  # fmt: skip
    assert (value(text, "seaway_gateways"), value(text, "seaway_routing_generation")) == (2, 11)
    assert value(text, "seaway_build_info", version="0.1.0", python="3.11.7") == 1


def test_a_served_version_starts_at_zero(tmp_path: Path) -> None:
    text = render([tmp_path / "metrics-0.page"], LIVE)
    for outcome in OUTCOMES:
        assert value(text, "seaway_requests_total", model="iris", version="3", outcome=outcome) == 0
    assert value(text, "seaway_request_seconds_count", model="iris", version="3") == 0


def test_requests_for_unknown_models_are_counted_and_nothing_more(pages: list[Path]) -> None:
    found = samples(render(pages, LIVE))
    unknown = {name for name, labels in found if ("model", "") in labels}
    assert unknown == {"seaway_requests_total"}
    key = frozenset({"model": "", "version": "", "outcome": "not_found"}.items())
    assert found["seaway_requests_total", key] == 2


def test_every_metric_is_there_also_on_an_idle_server() -> None:
    text = render([], LiveGauges()).decode()
    assert tuple(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)) != ()
    assert set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)) == set(NAMES)
    assert set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE)) == set(NAMES)


def test_the_format_is_the_one_that_every_scraper_reads(pages: list[Path]) -> None:
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
    text = render(pages, LIVE).decode()
    assert text.endswith("\n")
    assert "# EOF" not in text
    assert "_created" not in text


def test_names_follow_the_conventions(pages: list[Path]) -> None:
    for family in text_string_to_metric_families(render(pages, LIVE).decode()):
        assert re.fullmatch(r"seaway_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert family.type in {"counter", "gauge", "histogram"}
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_rows", "_ratio"))


def test_label_values_are_escaped(tmp_path: Path) -> None:
    hostile = 'a"b\\c\nd'
    text = render([], LiveGauges(versions=(VersionGauges(hostile, 1, engines=9),)))
    assert value(text, "seaway_engines", model=hostile, version="1") == 9


# --------------------------------------------------------------------------- the rules and boards that use the names


def exposed() -> set[str]:
    """Every series name that a query can ask for; names with a colon are recorded by the rules themselves."""
    batches = BatchCounters()
    batches.left(1, 1, "full")
    text = render([], LiveGauges((VersionGauges("iris", 1, batches=batches),), build={"version": "0"}))
    return {name for name, _ in samples(text)}


def queries(tree: Any) -> list[str]:
    """Every `expr` in a rules file or a dashboard."""
    if isinstance(tree, dict):
        own = [value for name, value in tree.items() if name == "expr"]
        return own + [query for value in tree.values() for query in queries(value)]
    if isinstance(tree, list):
        return [query for item in tree for query in queries(item)]
    return []


USERS = ("deploy/prometheus/alerts.yml", "deploy/grafana/seaway.json")


@pytest.mark.parametrize("file", USERS)
def test_queries_ask_only_for_what_is_exposed(file: str) -> None:
    tree = yaml.safe_load((ROOT / file).read_text())
    asked = {name for query in queries(tree) for name in re.findall(r"(?<![\w:])seaway_\w+", query)}
    assert asked
    assert asked <= exposed()


@pytest.mark.parametrize("file", USERS)
def test_queries_ask_only_for_outcomes_that_exist(file: str) -> None:
    tree = yaml.safe_load((ROOT / file).read_text())
    listed = {one for query in queries(tree) for found in re.findall(r'outcome=?~?!?"([^"]+)"', query)
              for one in found.split("|")}  # fmt: skip
    assert listed
    assert listed <= set(OUTCOMES)


@pytest.mark.parametrize("file", USERS)
def test_queries_ask_only_for_buckets_that_exist(file: str) -> None:
    tree = yaml.safe_load((ROOT / file).read_text())
    asked = {float(found) for query in queries(tree) for found in re.findall(r'le="([^"]+)"', query)}
    assert asked <= {bound / 1e9 for bound in BUCKETS_NS}


def test_every_alert_says_what_is_wrong_and_how_bad_it_is() -> None:
    rules = [
        rule
        for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert rules
    for rule in rules:
        assert rule["alert"].startswith("Seaway")
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert {"summary", "description"} <= rule["annotations"].keys()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Prometheus, is not installed")
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "deploy/prometheus/scrape.yml"),
        ("check", "rules", "deploy/prometheus/alerts.yml"),
        ("test", "rules", "tests/unit/telemetry/alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_prometheus_accepts_the_files_and_the_alerts_fire_when_they_should(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Prometheus, is not installed")
def test_prometheus_has_nothing_to_say_against_the_exposition(pages: list[Path]) -> None:
    text = render(pages, LIVE)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
