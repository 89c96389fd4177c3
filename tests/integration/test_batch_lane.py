"""The batch lane on a real server: many requests in one run, each with its own answer."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from seaway.serving.process import NOBODY_NEW
from support import graphs
from support.load import Load
from support.server import SeawayServer, wait_until
from support.tiny import scale_model, slow_model, write_package

pytestmark = pytest.mark.timeout(180)

VOCABULARY = 50
TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
    "model": {
        "type": "WordLevel", "vocab": {f"w{number}": number for number in range(VOCABULARY)}, "unk_token": "w0",
    },
}  # fmt: skip
TEXT_SPEC = "input: {type: text, max_tokens: 64, truncate: false}\noutput: {pooling: mean}"


def texts_package(directory: Path) -> Path:
    vectors = np.random.default_rng(0).normal(size=(VOCABULARY, 8))
    package = write_package(directory, graphs.embedding(vectors), TEXT_SPEC)
    (package / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return package


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeawayServer]:
    directory = tmp_path_factory.mktemp("packages")
    with SeawayServer(gateways=2) as one:
        one.register("texts", texts_package(directory / "texts"))
        one.deploy("texts", lane="batch", max_queue_size=5000)
        one.register("waiting", texts_package(directory / "texts"))
        one.deploy("waiting", lane="batch", max_queue_delay_seconds=5.0, max_batch_rows=32)
        yield one


@pytest.mark.parametrize("lane", ["cpu", "batch"])
def test_an_answer_says_that_the_model_saw_only_the_beginning(server: SeawayServer, tmp_path: Path, lane: str) -> None:
    package = texts_package(tmp_path)
    (package / "seaway.yaml").write_text("input: {type: text, max_tokens: 3}\noutput: {pooling: mean}")
    name = f"short_{lane}"
    server.register(name, package)
    server.deploy(name, lane=lane)
    texts = ["w1 w2 w3", "w1 w2 w3 w4", "w2", " ".join(["w3"] * 9000)]
    # The lane before the framework, and the framework's own route.
    for path, body in ((f"/predict/{name}", {}), ("/predict", {"model": name})):
        answer = server.http.post(path, json={"inputs": texts, **body}).raise_for_status()
        assert answer.headers["seaway-truncated"] == "2"
        first, second, *_ = answer.json()["outputs"]
        assert first == second
        whole = server.http.post(path, json={"inputs": texts[:1], **body}).raise_for_status()
        assert "seaway-truncated" not in whole.headers


def text(chance: random.Random, longest: int = 60) -> str:
    return " ".join(f"w{chance.randrange(VOCABULARY)}" for _ in range(chance.randint(1, longest)))


def batch_rows(answer: httpx.Response) -> int:
    """Size of the batch that an answer rode in."""
    found = re.search(r'desc="(\d+) rows"', answer.headers["server-timing"])
    return int(found[1]) if found else 0


def metric(server: SeawayServer, name: str, model: str) -> float:
    """The sum of a metric's samples for a model."""
    lines = server.http.get("/metrics").raise_for_status().text.splitlines()
    return sum(
        float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{") and f'model="{model}"' in line
    )


def test_the_deployment_says_which_lane_it_has(server: SeawayServer) -> None:
    choice = server.http.get("/api/deployments/texts").json()["live"]["choice"]
    assert (choice["lane"], choice["processes"], choice["engines"]) == ("batch", 1, 1)
    assert "cpu in fp32" in choice["why"]


def test_status_says_what_a_batch_may_have(server: SeawayServer) -> None:
    (worker,) = server.http.get("/api/deployments/waiting").json()["live"]["workers"]
    assert worker["batches"]["max_rows"] == 32
    assert worker["batches"]["max_tokens"] >= 32
    assert worker["batches"]["max_queue_delay_seconds"] == 5.0


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"lane": "cpu", "max_batch_rows": 4}, "max_batch_rows"),
        ({"max_batch_rows": 4}, "lane cpu here"),
        ({"lane": "batch", "joint_runs": "never"}, "leave out joint_runs"),
        ({"lane": "cpu", "dtype": "bf16"}, "dtype"),
        ({"lane": "batch", "engines": 2, "processes": 2}, "engines and processes"),
        ({"lane": "batch", "placement": "inline"}, "inline"),
        ({"lane": "batch", "max_batch_rows": 4, "preferred_batch_rows": [2, 8]}, "preferred_batch_rows has 8"),
        ({"lane": "batch", "preferred_batch_rows": []}, "preferred_batch_rows"),
    ],
    ids=["rows", "rows, no lane", "joint runs", "dtype", "engines", "inline", "preferred", "preferred, none"],
)
def test_settings_that_would_do_nothing_are_refused(
    server: SeawayServer, settings: dict[str, Any], problem: str
) -> None:
    answer = server.http.put("/api/deployments/texts", json=settings)
    assert answer.status_code == 400
    assert problem in answer.json()["error"]


@pytest.mark.parametrize("settings", [{"engines": 2}, {"placement": "inline"}], ids=str)
def test_the_lane_of_the_package_counts_as_well(server: SeawayServer, tmp_path: Path, settings: dict[str, Any]) -> None:
    server.register("batched", write_package(tmp_path, scale_model(2.0), "serving: {lane: batch}"))
    answer = server.http.put("/api/deployments/batched", json=settings)
    assert answer.status_code == 400
    assert "lane batch" in answer.json()["error"]


def test_batches_leave_with_the_sizes_that_a_deployment_prefers(server: SeawayServer, tmp_path: Path) -> None:
    server.register("sized", write_package(tmp_path, scale_model(3.0)))
    server.deploy("sized", lane="batch", max_batch_rows=16, preferred_batch_rows=[4, 8], max_queue_delay_seconds=20.0)
    answer = server.http.post("/predict/sized", json={"inputs": [[1, 2, 3]] * 8}).raise_for_status()
    assert batch_rows(answer) == 8
    config = server.http.get("/v2/models/sized/config").json()
    assert config["dynamic_batching"]["preferred_batch_size"] == [4, 8]
    (worker,) = server.http.get("/api/deployments/sized").json()["live"]["workers"]
    assert worker["batches"]["preferred_rows"] == [4, 8]


def test_tokens_of_samples_of_one_size_are_their_numbers(server: SeawayServer, tmp_path: Path) -> None:
    server.register("fixed", write_package(tmp_path, scale_model(4.0)))
    server.deploy("fixed", lane="batch", max_batch_tokens=12)
    answer = server.http.post("/predict/fixed", json={"inputs": [[1, 2, 3]] * 20}).raise_for_status()
    assert batch_rows(answer) == 4


def test_a_model_of_strings_is_told_its_lane(server: SeawayServer, tmp_path: Path) -> None:
    server.register("strings", write_package(tmp_path, graphs.identity(graphs.STRING, ("n", 1))))
    server.deploy("strings", lane="cpu")
    server.http.put("/api/deployments/strings", json={"lane": "batch"}, params={"wait": 60})
    revision = server.http.get("/api/deployments/strings").json()
    assert revision["state"] == "failed"
    assert "takes strings" in revision["state_reason"]
    assert "lane cpu" in revision["state_reason"]
    assert revision["live"]["state"] == "READY"
    which = f"Version 1 as in revision {revision['number']}, which was asked for last"
    assert revision["live"]["reason"].startswith(f"{which}, is not served: ")
    logged = [json.loads(line) for line in server.http.get("/api/logs", params={"model": "strings"}).json()["lines"]]
    settled = [(line["number"], line["state"]) for line in logged if line["event"] == "deployment.settled"]
    assert settled == [(1, "ready"), (2, "failed")]


def test_a_target_that_no_sample_is_fast_enough_for_is_told(server: SeawayServer, tmp_path: Path) -> None:
    server.register("hurried", write_package(tmp_path, scale_model(5.0)))
    for target, missed in ((1e-9, True), (60.0, False)):
        server.deploy("hurried", lane="batch", latency_target_seconds=target)
        live = server.http.get("/api/deployments/hurried").json()["live"]
        (worker,) = (one for one in live["workers"] if one["revision"] == live["revision"])
        assert worker["batches"]["target_missed"] is missed


@pytest.mark.parametrize("how", ["undeploy", "redeploy"])
def test_who_waits_for_company_is_answered_when_the_version_goes(
    server: SeawayServer, tmp_path: Path, how: str
) -> None:
    server.register(f"going_{how}", write_package(tmp_path, scale_model(2.0)))
    server.deploy(f"going_{how}", lane="batch", max_queue_delay_seconds=50.0)
    with ThreadPoolExecutor(3) as pool:
        asked = [
            pool.submit(server.http.post, f"/predict/going_{how}", json={"inputs": [1, 2, 3]}, timeout=60)
            for _ in range(3)
        ]
        wait_until(lambda: metric(server, "seaway_queue_depth", f"going_{how}") == 3, seconds=30)
        if how == "undeploy":
            server.http.delete(f"/api/deployments/going_{how}").raise_for_status()
        else:
            server.deploy(f"going_{how}", lane="cpu")
        answers = [one.result() for one in asked]
    assert [one.status_code for one in answers] == [200] * 3
    assert [batch_rows(one) for one in answers] == [3] * 3


def test_who_waits_for_company_is_answered_when_the_server_stops(tmp_path: Path) -> None:
    with SeawayServer(gateways=2) as one:
        one.register("going", write_package(tmp_path, scale_model(2.0)))
        one.deploy("going", lane="batch", max_queue_delay_seconds=50.0)
        with ThreadPoolExecutor(5) as pool:
            asked = [
                pool.submit(one.http.post, "/predict/going", json={"inputs": [1, 2, number]}, timeout=60)
                for number in range(5)
            ]
            wait_until(lambda: metric(one, "seaway_queue_depth", "going") == 5, seconds=30)
            assert one.stop() == 0
            answers = [answer.result() for answer in asked]
    assert [answer.json() for answer in answers if answer.status_code != 200] == []
    assert [answer.json()["outputs"] for answer in answers] == [[2, 4, 2 * number] for number in range(5)]
    assert [batch_rows(answer) for answer in answers] == [5] * 5


def test_no_process_is_ended_by_hearing_that_nobody_new_comes(server: SeawayServer) -> None:
    # A worker that still starts doesn't listen for it either.
    before = server.pids
    for name in ("launcher", "control", "gateway-0", "gateway-1"):
        os.kill(before[name], NOBODY_NEW)
    assert server.pids == before


def test_the_model_configuration_says_that_it_batches_and_how_long_it_waits(server: SeawayServer) -> None:
    for model, microseconds in (("texts", 0), ("waiting", 5_000_000)):
        config = server.http.get(f"/v2/models/{model}/config").json()
        assert config["dynamic_batching"]["max_queue_delay_microseconds"] == microseconds
        assert config["instance_group"][0]["kind"] == "KIND_CPU"
        assert config["max_batch_size"] > 0


def test_a_thousand_concurrent_texts_of_any_length_get_what_they_get_alone(
    server: SeawayServer, tmp_path: Path
) -> None:
    # This model is so fast that without a delay requests might never meet.
    server.register("crowded", texts_package(tmp_path / "texts"))
    server.deploy("crowded", lane="batch", max_queue_delay_seconds=0.01)
    chance = random.Random(5)
    questions = [text(chance) for _ in range(1000)]

    def ask(question: str) -> httpx.Response:
        return server.http.post("/predict/crowded", json={"inputs": question}).raise_for_status()

    alone = [ask(question).json()["outputs"] for question in questions[::10]]
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(ask, questions))
    found = [answer.json()["outputs"] for answer in answers]
    np.testing.assert_allclose(found[::10], alone, atol=1e-5)
    assert len({tuple(outputs) for outputs in found}) > 900, "different texts, different answers"
    assert max(map(batch_rows, answers)) > 1, "some rode together"


def test_requests_that_wait_for_company_leave_together(server: SeawayServer) -> None:
    def ask(number: int) -> httpx.Response:
        return server.http.post("/predict/waiting", json={"inputs": [f"w{number}"] * 4}).raise_for_status()

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))
    assert [batch_rows(answer) for answer in answers] == [32] * 8


def test_a_row_that_fails_among_31_good_ones_fails_its_caller_only(server: SeawayServer) -> None:
    before = metric(server, "seaway_batch_failed_rows_total", "waiting")
    pid = next(iter(server.http.get("/api/status").json()["models"]["waiting"]["workers"]))["pid"]

    def ask(number: int) -> httpx.Response:
        ids = [VOCABULARY + 7] if number == 13 else [number]
        tensor = {"name": "input_ids", "datatype": "INT64", "shape": [1, 1], "data": ids}
        mask = {"name": "attention_mask", "datatype": "INT64", "shape": [1, 1], "data": [1]}
        return server.http.post("/v2/models/waiting/infer", json={"inputs": [tensor, mask]})

    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(ask, range(32)))
    assert [answer.status_code for answer in answers] == [400 if number == 13 else 200 for number in range(32)]
    assert "error" in answers[13].json()
    wait_until(lambda: metric(server, "seaway_batch_failed_rows_total", "waiting") == before + 1, 10)
    assert next(iter(server.http.get("/api/status").json()["models"]["waiting"]["workers"]))["pid"] == pid


def test_metrics_tell_how_large_batches_were_and_why_they_left(server: SeawayServer, tmp_path: Path) -> None:
    # A model of its own: what other tests have asked may not be in the counters yet.
    server.register("metered", texts_package(tmp_path / "texts"))
    server.deploy("metered", lane="batch", max_queue_delay_seconds=5.0, max_batch_rows=32)

    def ask(number: int) -> httpx.Response:
        return server.http.post("/predict/metered", json={"inputs": ["w1 w2 w3"] * 16}).raise_for_status()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(ask, range(2)))
    wait_until(lambda: metric(server, "seaway_batch_rows_sum", "metered") == 32, 10)
    assert metric(server, "seaway_batches_total", "metered") == 1
    assert metric(server, "seaway_batch_tokens_total", "metered") == 96
    assert metric(server, "seaway_batch_run_seconds_total", "metered") > 0
    exposition = server.http.get("/metrics").text
    assert 'seaway_batches_total{model="metered",reason="full",version="1"} 1' in exposition


def test_statistics_count_batches_and_not_the_requests_in_them(server: SeawayServer, tmp_path: Path) -> None:
    server.register("counted", texts_package(tmp_path / "texts"))
    server.deploy("counted", lane="batch", max_queue_delay_seconds=5.0, max_batch_rows=32)

    def ask(number: int) -> httpx.Response:
        return server.http.post("/predict/counted", json={"inputs": ["w1 w2 w3"] * 8}).raise_for_status()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, range(4)))
    (stats,) = server.http.get("/v2/models/counted/stats").json()["model_stats"]
    assert (stats["inference_count"], stats["execution_count"]) == (32, 1)
    (batch,) = stats["batch_stats"]
    assert (batch["batch_size"], batch["compute_infer"]["count"]) == (32, 1)
    assert batch["compute_infer"]["ns"] == stats["inference_stats"]["compute_infer"]["ns"] > 0
    assert stats["inference_stats"]["success"]["count"] == 4


def test_a_text_over_the_limit_is_refused_with_its_length(server: SeawayServer) -> None:
    answer = server.http.post("/predict/texts", json={"inputs": "w1 " * 65})
    assert answer.status_code == 413
    assert "65 tokens" in answer.json()["error"]


def test_raw_tokens_over_the_limit_are_refused_too(server: SeawayServer) -> None:
    tensors = [
        {"name": name, "datatype": "INT64", "shape": [1, 200], "data": [1] * 200}
        for name in ("input_ids", "attention_mask")
    ]
    answer = server.http.post("/v2/models/texts/infer", json={"inputs": tensors})
    assert answer.status_code == 413, answer.text
    assert "200 tokens" in answer.json()["error"]


def test_a_model_that_takes_one_sample_at_a_time_is_refused_with_the_lane_to_use(
    server: SeawayServer, tmp_path: Path
) -> None:
    server.register("single", write_package(tmp_path, slow_model()))
    answer = server.http.put("/api/deployments/single", params={"wait": 60}, json={"lane": "batch"}, timeout=90).json()
    assert answer["state"] == "failed"
    assert "lane cpu" in answer["state_reason"]


def test_numbers_are_batched_too_and_the_same_in_both_lanes(server: SeawayServer, tmp_path: Path) -> None:
    server.register("numbers", write_package(tmp_path, scale_model(3.0)))
    server.deploy("numbers", lane="batch")
    bodies = [{"inputs": [[1, 2, 3]] * rows} for rows in (1, 7, 100)]
    batched = [server.http.post("/predict/numbers", json=body).json()["outputs"] for body in bodies]
    server.deploy("numbers", lane="cpu")
    assert [server.http.post("/predict/numbers", json=body).json()["outputs"] for body in bodies] == batched


def test_what_batches_cost_is_measured_once(server: SeawayServer) -> None:
    server.deploy("texts", lane="batch", max_queue_size=5000, reason="again")
    lines = [json.loads(line) for line in (server.home / "logs" / "seaway.jsonl").read_text().splitlines()]
    measured = [line for line in lines if line["event"] == "batch.measured" and line["model"] == "texts"]
    assert len(measured) == 1


def answers_more(load: Load) -> Callable[[Load], bool]:
    """Whether 200 more requests have ended than now."""
    goal = len(load.samples) + 200
    return lambda run: len(run.samples) >= goal


def test_after_a_worker_s_death_only_those_in_its_batch_get_503(tmp_path: Path) -> None:
    with SeawayServer(gateways=1) as one:
        one.register("texts", texts_package(tmp_path))
        one.deploy("texts", lane="batch")
        chance = random.Random(1)
        questions = [("/predict/texts", {"inputs": text(chance)}) for _ in range(50)]
        with Load(one.url, questions, connections=8) as load:
            load.wait_for(answers_more(load))
            (worker,) = one.http.get("/api/status").json()["models"]["texts"]["workers"]
            os.kill(worker["pid"], signal.SIGKILL)
            load.wait_for(answers_more(load))
        statuses = Counter(sample.status for sample in load.samples)
        assert set(statuses) <= {200, 503}
        assert statuses[503] <= 8


def test_clients_that_leave_stop_costing(server: SeawayServer, tmp_path: Path) -> None:
    server.register("patient", texts_package(tmp_path / "texts"))
    server.deploy("patient", lane="batch", max_queue_delay_seconds=5.0, max_batch_rows=32)
    with httpx.Client(base_url=server.url, timeout=0.2) as impatient, pytest.raises(httpx.TimeoutException):
        impatient.post("/predict/patient", json={"inputs": "w1"})
    # A client that has closed its sending side is given a second, since it may still be reading.
    wait_until(lambda: metric(server, "seaway_queue_depth", "patient") == 0, 10)

    def ask(number: int) -> Any:
        return server.http.post("/predict/patient", json={"inputs": ["w2"] * 16}).raise_for_status()

    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(ask, range(2)))
    assert [batch_rows(answer) for answer in answers] == [32, 32], "the one who left takes nobody's place"
    wait_until(lambda: metric(server, "seaway_batch_rows_sum", "patient") == 32, 10)
