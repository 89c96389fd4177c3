"""Where versions run, on a real server: measured, chosen, remembered, asked for, given up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from seaway.serving.isolation import ACTIVITY_PAGE, ActivityPage
from support import graphs
from support.server import SeawayServer, wait_until
from support.tiny import endless_model, scale_model, write_package

pytestmark = pytest.mark.timeout(120)

TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 2}, "unk_token": "[UNK]"},
}  # fmt: skip
LOOP = {"go": [False], "x": [3.0]}


@pytest.fixture(scope="module")
def server() -> Iterator[SeawayServer]:
    with SeawayServer(gateways=2) as one:
        yield one


def registered(server: SeawayServer, model: str, package: Path) -> None:
    server.register(model, package)


def scale(server: SeawayServer, model: str, tmp_path: Path, factor: float, spec: str = "") -> None:
    registered(server, model, write_package(tmp_path / str(factor), scale_model(factor), spec))


def live(server: SeawayServer, model: str) -> dict[str, Any]:
    """What runs of a model; nothing until control, just started, has looked."""
    found: dict[str, Any] = server.http.get(f"/api/deployments/{model}").raise_for_status().json()["live"]
    return found


def run_directory(server: SeawayServer) -> Path:
    return Path((server.home / "run").read_text().strip())


def published(server: SeawayServer, model: str) -> dict[str, Any]:
    """What gateways were told of a model."""
    table = json.loads((run_directory(server) / "table.json").read_bytes())
    found: dict[str, Any] = next(served for served in table["versions"] if served["model"] == model)
    return found


def answer(server: SeawayServer, model: str, inputs: Any) -> Any:
    return server.http.post(f"/predict/{model}", json={"inputs": inputs}).raise_for_status().json()["outputs"]


def logged(server: SeawayServer, event: str, model: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (server.home / "logs" / "seaway.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == event and line.get("model") == model]


def test_a_tiny_model_is_measured_and_leave_given_to_run_it_inline(server: SeawayServer, tmp_path: Path) -> None:
    scale(server, "tiny", tmp_path, 2.0)
    server.deploy("tiny")

    found = live(server, "tiny")
    assert (found["choice"]["placement"], len(found["workers"]), found["workers"][0]["engines"]) == ("inline", 1, 1)
    assert "µs of CPU time, less than 200 µs" in found["choice"]["why"]
    inline = published(server, "tiny")["inline"]
    assert (inline["max_body_bytes"], inline["budget_ns"]) == (16_384, 200_000)
    assert 1 <= inline["max_rows"] <= 64
    assert (Path(inline["package"]) / "model.onnx").is_file()
    assert answer(server, "tiny", [1, 2, 3]) == [2, 4, 6]


def test_a_model_with_a_loop_runs_in_workers(server: SeawayServer, tmp_path: Path) -> None:
    registered(server, "loop", write_package(tmp_path, endless_model()))
    server.deploy("loop")

    found = live(server, "loop")
    assert found["choice"]["placement"] == "worker"
    assert "Loop" in found["choice"]["why"]
    assert len(found["workers"]) == found["choice"]["processes"]
    assert published(server, "loop")["inline"] is None
    assert answer(server, "loop", LOOP) == [3.0]


def test_texts_run_in_workers(server: SeawayServer, tmp_path: Path) -> None:
    package = write_package(tmp_path, graphs.embedding(np.eye(3)), "input: {type: text}\noutput: {pooling: mean}")
    (package / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    registered(server, "text", package)
    server.deploy("text")
    assert "not numbers" in live(server, "text")["choice"]["why"]
    assert published(server, "text")["inline"] is None
    assert answer(server, "text", "a b") == [0, 0.5, 0.5]


def test_the_same_bytes_are_measured_once(server: SeawayServer, tmp_path: Path) -> None:
    scale(server, "first", tmp_path, 7.0)
    scale(server, "second", tmp_path, 7.0)
    server.deploy("first")
    server.deploy("second")
    server.deploy("second", reason="again", max_queue_size=9)
    assert len(logged(server, "worker.calibrated", "first")) == 1
    assert logged(server, "worker.calibrated", "second") == []
    assert live(server, "second")["choice"] == live(server, "first")["choice"]


def test_a_graph_that_is_faster_rewritten_is_served_so_everywhere(server: SeawayServer, tmp_path: Path) -> None:
    numbers = list(np.linspace(-6, 6, 20_000))
    expected = np.asarray(numbers, np.float32)
    for _ in range(8):
        expected = expected * np.clip(expected + 3, 0, 6) / 6
    registered(server, "swish", write_package(tmp_path, graphs.hard_swishes(8, ("n", len(numbers)))))
    server.deploy("swish", placement="worker", processes=2)

    assert "Its graph was rewritten (8 hard swish): runs take" in live(server, "swish")["choice"]["why"]
    np.testing.assert_allclose(answer(server, "swish", numbers), expected, atol=1e-4)
    # The second process, and those after it, do as the first has found out.
    server.deploy("swish", placement="worker", processes=2, max_queue_size=9)

    def loaded() -> list[bool]:
        return [line["rewritten"] for line in logged(server, "worker.loaded", "swish")]

    wait_until(lambda: len(loaded()) == 5, 20, loaded)
    assert loaded() == [False, True, True, True, True]
    np.testing.assert_allclose(answer(server, "swish", numbers), expected, atol=1e-4)
    assert len(logged(server, "worker.graph", "swish")) == 1


def test_graphs_are_left_as_they_are_where_the_server_says_so(tmp_path: Path) -> None:
    with SeawayServer(graph_rewrites="never") as one:
        registered(one, "swish", write_package(tmp_path, graphs.hard_swishes(8, ("n", 20_000))))
        one.deploy("swish")
        assert "rewritten" not in live(one, "swish")["choice"]["why"]
        assert logged(one, "worker.graph", "swish") == []


def test_what_was_measured_outlives_the_server(tmp_path: Path) -> None:
    with SeawayServer(tmp_path / "home") as one:
        scale(one, "tiny", tmp_path, 2.0)
        one.deploy("tiny")
        before = live(one, "tiny")["choice"]
        one.restart()
        assert live(one, "tiny")["choice"] == before
        assert len(logged(one, "worker.calibrated", "tiny")) == 1


def test_the_deployment_wins_over_the_package_and_that_over_the_server(tmp_path: Path) -> None:
    with SeawayServer(placement="worker") as one:
        scale(one, "plain", tmp_path, 2.0)
        scale(one, "package", tmp_path, 3.0, "serving: {placement: auto}")
        placed = {}
        for model, body in (("plain", {}), ("package", {}), ("package", {"placement": "worker"})):
            revision = one.deploy(model, **body)
            placed[model, *body] = live(one, model)["choice"]["placement"]
            assert revision["settings"]["placement"] == body.get("placement")
        assert placed == {("plain",): "worker", ("package",): "inline", ("package", "placement"): "worker"}
        assert published(one, "package")["inline"] is None


def test_engines_and_processes_that_were_asked_for_are_had(server: SeawayServer, tmp_path: Path) -> None:
    scale(server, "asked", tmp_path, 2.5)
    server.deploy("asked", placement="worker", engines=3, processes=1)
    assert [worker["engines"] for worker in live(server, "asked")["workers"]] == [3]
    server.deploy("asked", placement="worker", engines=2)
    ready = [worker for worker in live(server, "asked")["workers"] if worker["phase"] == "ready"]
    assert [worker["engines"] for worker in ready] == [1, 1]
    assert answer(server, "asked", [1, 2, 3]) == [2.5, 5, 7.5]


def sharers(server: SeawayServer, model: str) -> dict[int, frozenset[str]]:
    """Of each ready worker, by its pid: the files of weights that it maps."""
    found = {}
    for worker in live(server, model)["workers"]:
        if worker["phase"] == "ready":
            with contextlib.suppress(FileNotFoundError):  # it died, and control doesn't know yet
                maps = Path(f"/proc/{worker['pid']}/maps").read_text().splitlines()
                found[worker["pid"]] = frozenset(line.split()[-1] for line in maps if "weights.bin" in line)
    return found


def test_processes_share_their_weights_and_so_do_those_that_replace_them(server: SeawayServer, tmp_path: Path) -> None:
    chance = np.random.default_rng(4)
    package = tmp_path / "wide"
    package.mkdir()
    (package / "model.onnx").write_bytes(graphs.linear(chance.standard_normal((1024, 1200))))
    server.register("wide", package)

    revision = server.deploy("wide", placement="worker", engines=2, processes=2)
    wait_until(lambda: len(sharers(server, "wide")) == 2, 30, server.stderr)
    before = sharers(server, "wide")
    file = str(run_directory(server) / "weights" / str(revision["id"]) / "weights.bin")
    assert set(before.values()) == {frozenset({file})}
    expected = answer(server, "wide", [1.0] * 1024)

    os.kill(next(iter(before)), signal.SIGKILL)
    wait_until(lambda: len(sharers(server, "wide").keys() - before.keys()) == 1, 30, server.stderr)
    assert all(sharers(server, "wide").values())
    assert [answer(server, "wide", [1.0] * 1024) for _ in range(8)] == [expected] * 8

    crashed = next(iter(sharers(server, "wide")))
    os.kill(crashed, signal.SIGSEGV)
    wait_until(lambda: frozenset() in sharers(server, "wide").values(), 30, server.stderr)
    assert [answer(server, "wide", [1.0] * 1024) for _ in range(8)] == [expected] * 8

    server.deploy("wide", placement="worker", engines=1, processes=1)
    wait_until(lambda: not list((run_directory(server) / "weights").glob(f"{revision['id']}*")), 20)
    assert answer(server, "wide", [1.0] * 1024) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("known", [False, True], ids=["measured by it", "measured before"])
def test_inline_that_cannot_be_fails_and_what_served_before_goes_on(
    known: bool, server: SeawayServer, tmp_path: Path
) -> None:
    model = f"refused-{known}"
    scale(server, model, tmp_path, 2.0)
    server.deploy(model)
    # Other bytes for each, since evidence is found by them.
    registered(server, model, write_package(tmp_path / "loop", endless_model(), f"description: {model}"))
    if known:
        server.deploy(model, 2)
        server.deploy(model, 1)
    done = server.http.put(
        f"/api/deployments/{model}", params={"wait": 60}, json={"version": 2, "placement": "inline"}, timeout=90
    ).json()
    assert done["state"] == "failed"
    assert "inline was asked for and can't be: Its graph has Loop" in done["state_reason"]
    assert answer(server, model, [1, 2, 3]) == [2, 4, 6]
    assert live(server, model)["version"] == 1


def demote(server: SeawayServer, revision: int, reason: str) -> None:
    """As a gateway does."""
    with socket.socket(socket.AF_UNIX) as bus:
        bus.connect(str(run_directory(server) / "bus.sock"))
        message = {"kind": "demote", "model": "demoted", "revision": revision, "reason": reason}
        bus.sendall(json.dumps(message).encode() + b"\n")


def test_what_a_gateway_gives_up_no_gateway_runs_until_there_is_a_new_revision(tmp_path: Path) -> None:
    with SeawayServer(tmp_path / "home") as one:
        scale(one, "demoted", tmp_path, 2.0)
        revision = one.deploy("demoted")["id"]
        assert published(one, "demoted")["inline"] is not None
        generation = one.http.get("/api/status").json()["generation"]

        demote(one, revision, "Three runs took 900 µs.")
        wait_until(lambda: published(one, "demoted")["inline"] is None, 10, one.stderr)
        wait_until(lambda: one.http.get("/api/deployments/demoted").json()["demoted"], 10, one.stderr)

        found = one.http.get("/api/deployments/demoted").json()
        assert (found["state"], found["demoted"]) == ("ready", "Three runs took 900 µs.")
        assert found["live"]["choice"]["placement"] == "worker"
        assert "Three runs took 900 µs." in found["live"]["reason"]
        assert one.http.get("/api/status").json()["generation"] > generation
        assert answer(one, "demoted", [1, 2, 3]) == [2, 4, 6]

        one.restart()
        assert published(one, "demoted")["inline"] is None
        one.deploy("demoted", reason="try again", max_queue_size=99)
        assert published(one, "demoted")["inline"] is not None


@pytest.mark.parametrize("line", [b'{"kind": "demote"}', b'{"kind": "demote", "revision": "x", "reason": 1}', b"[]"])
def test_a_broken_message_of_a_gateway_harms_nobody(line: bytes, server: SeawayServer, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bus:
        bus.connect(str(run_directory(server) / "bus.sock"))
        bus.sendall(line + b"\n")
        bus.settimeout(10)
        assert bus.recv(1) == b""
    assert server.http.get("/v2/health/ready").status_code == httpx.codes.OK


def test_a_revision_that_is_not_inline_cannot_be_demoted(server: SeawayServer, tmp_path: Path) -> None:
    scale(server, "worked", tmp_path, 4.5)
    revision = server.deploy("worked", placement="worker")["id"]
    for wrong in (revision, 10**6, -1):
        demote(server, wrong, "Nonsense.")
    scale(server, "later", tmp_path, 5.5)
    server.deploy("later")
    assert logged(server, "placement.demoted", "worked") == []


def test_control_that_dies_finds_the_placement_again(tmp_path: Path) -> None:
    with SeawayServer(tmp_path / "home") as one:
        scale(one, "tiny", tmp_path, 2.0)
        one.deploy("tiny")
        before = published(one, "tiny")
        os.kill(one.pids["control"], signal.SIGKILL)
        wait_until(lambda: one.http.get("/api/deployments/tiny").status_code == httpx.codes.OK, 20, one.stderr)
        wait_until(lambda: (live(one, "tiny") or {}).get("choice"), 10, one.stderr)
        assert live(one, "tiny")["choice"]["placement"] == "inline"
        assert published(one, "tiny") == before


def ran_inline(response: httpx.Response) -> bool:
    """A worker's answer says how long the request waited there; a gateway runs it at once."""
    assert response.status_code == httpx.codes.OK, response.text
    return response.headers["server-timing"].startswith("queue;dur=0,")


def whole_quotient(tmp_path: Path) -> Path:
    """a / b of whole numbers."""
    kind = graphs.INT64
    inputs = [("a", kind, ["n", 1]), ("b", kind, ["n", 1])]
    package = write_package(
        tmp_path,
        graphs.model([("Div", ["a", "b"], ["y"], {})], inputs, [("y", kind, ["n", 1])], {}),
        "known_answers: known.json",
    )
    (package / "known.json").write_text(json.dumps([{"inputs": {"a": [6], "b": [3]}, "outputs": [2]}]))
    return package


def test_a_model_that_a_request_can_kill_runs_in_workers(server: SeawayServer, tmp_path: Path) -> None:
    server.register("quotient", whole_quotient(tmp_path))
    server.deploy("quotient")
    found = live(server, "quotient")
    assert found["choice"]["placement"] == "worker"
    assert "divides whole numbers by what a request may say (Div)" in found["choice"]["why"]
    assert published(server, "quotient")["inline"] is None


@contextlib.contextmanager
def over_and_over(act: Callable[[], object]) -> Iterator[None]:
    """`act` is done again and again in a thread."""
    enough = threading.Event()

    def work() -> None:
        while not enough.is_set():
            act()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def kill_in_a_run(pid: int, page: ActivityPage, revision: int) -> None:
    """Kill the first gateway while it runs this revision: it is stopped until that is so."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            pass
        if page.running(0)[0] == revision:
            os.kill(pid, signal.SIGKILL)
            return
        os.kill(pid, signal.SIGCONT)


def test_a_version_that_ends_two_gateways_runs_in_none_and_one_that_was_idle_is_not_blamed(tmp_path: Path) -> None:
    with SeawayServer(gateways=1) as one:
        for name, factor in (("deadly", 3.0), ("innocent", 2.0)):
            scale(one, name, tmp_path, factor)
            one.deploy(name)
        page = ActivityPage(Path((one.home / "run").read_text().strip()) / ACTIVITY_PAGE)
        deadly = published(one, "deadly")["revision"]

        def ask(model: str) -> httpx.Response | None:
            try:
                return httpx.post(f"{one.url}/predict/{model}", json={"inputs": [1, 2, 3]}, timeout=20)
            except httpx.TransportError:
                return None  # the gateway has just died, or is not back yet

        def inline(model: str) -> bool:
            found = ask(model)
            return found is not None and ran_inline(found)

        def killed(kill: Callable[[int], None]) -> None:
            before = one.pids["gateway-0"]
            wait_until(lambda: inline("deadly") and inline("innocent"), 20, one.stderr)
            kill(before)
            wait_until(lambda: ask("innocent") and one.pids["gateway-0"] != before, 20, one.stderr)

        for _ in range(3):
            killed(lambda pid: os.kill(pid, signal.SIGKILL))
        for _ in range(2):
            with over_and_over(lambda: ask("deadly")):
                killed(lambda pid: kill_in_a_run(pid, page, deadly))

        def demoted() -> Any:
            return one.http.get("/api/deployments/deadly").json()["demoted"]

        wait_until(demoted, 20, one.stderr)
        assert "2 gateways ended while they ran it" in demoted()
        assert published(one, "deadly")["inline"] is None
        assert published(one, "innocent")["inline"] is not None
        wait_until(lambda: inline("innocent"), 20, one.stderr)
        assert not inline("deadly")


def test_an_inline_version_leaves_large_bodies_and_many_rows_to_its_worker(
    server: SeawayServer, tmp_path: Path
) -> None:
    scale(server, "sized", tmp_path, 4.0)
    server.deploy("sized")
    one = json.dumps({"inputs": [1, 2, 3]}).encode()
    wait_until(lambda: ran_inline(server.http.post("/predict/sized", content=one)), 10)

    assert not ran_inline(server.http.post("/predict/sized", content=one + b" " * 16_384))
    many = server.http.post("/predict/sized", json={"inputs": [[1, 2, 3]] * 100})
    assert not ran_inline(many)
    assert many.json()["outputs"] == [[4, 8, 12]] * 100
    assert ran_inline(server.http.post("/predict/sized", content=one))


def test_a_hundred_thousand_rows_for_an_inline_version_hinder_no_other_model(
    server: SeawayServer, tmp_path: Path
) -> None:
    for model in ("flooded", "bystander"):
        scale(server, model, tmp_path / model, 2.0)
        server.deploy(model)
    flood = json.dumps({"inputs": [[1, 2, 3]] * 65_000}).encode()
    before = {name: pid for name, pid in server.pids.items() if name.startswith("gateway")}
    assert len(server.http.post("/predict/flooded", content=flood).json()["outputs"]) == 65_000
    assert server.http.post("/predict/flooded", json={"inputs": [[1, 2, 3]] * 100_000}).status_code == 400
    assert answer(server, "bystander", [1, 2, 3]) == [2, 4, 6]
    assert {name: server.pids[name] for name in before} == before


def test_both_placements_give_the_same_answers_and_refusals(server: SeawayServer, tmp_path: Path) -> None:
    for model, placement in (("ashore", "inline"), ("afloat", "worker")):
        scale(server, model, tmp_path / model, 3.0)
        server.deploy(model, placement=placement)
    wait_until(lambda: ran_inline(server.http.post("/predict/ashore", json={"inputs": [1, 2, 3]})), 10)
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    for path, body in (
        ("/predict/{}", {"inputs": [1, 2, 3]}),
        ("/predict/{}", {"inputs": [[1, 2, 3], [4, 5, 6]]}),
        ("/predict/{}", {"inputs": [1, 2]}),
        ("/predict/{}", {"inputs": [1, 2, "3"]}),
        ("/predict/{}", {"inputs": [1, 2, 3], "more": 1}),
        ("/predict/{}", {"inputs": [1, 2, 1e39]}),
        ("/v2/models/{}/infer", {"inputs": [tensor], "id": "mine"}),
        ("/v2/models/{}/infer", {"inputs": [tensor], "parameters": {"timeout": 1_000_000}}),
        ("/v2/models/{}/infer", {"inputs": [tensor], "parameters": {"timeout": -1}}),
        ("/v2/models/{}/infer", {"inputs": [{**tensor, "datatype": "INT32"}]}),
        ("/v2/models/{}/infer", {"inputs": []}),
    ):
        told = []
        for model in ("ashore", "afloat"):
            answered = server.http.post(path.format(model), json=body)
            content = answered.json()
            content.pop("prediction_id", None)
            told.append((answered.status_code, json.loads(json.dumps(content).replace(model, "MODEL"))))
        assert told[0] == told[1], (path, body)


def test_the_cpu_time_that_gateways_spend_is_the_model_s(server: SeawayServer, tmp_path: Path) -> None:
    scale(server, "costly", tmp_path, 5.0)
    server.deploy("costly")
    wait_until(lambda: ran_inline(server.http.post("/predict/costly", json={"inputs": [1, 2, 3]})), 10)

    def spent() -> float:
        series = 'seaway_worker_cpu_seconds_total{model="costly"'
        lines = server.http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))

    before = spent()
    for _ in range(64):
        server.http.post("/predict/costly", json={"inputs": [1, 2, 3]})
    wait_until(lambda: spent() > before, 10)


def test_without_metrics_predictions_are_answered_and_not_counted(tmp_path: Path) -> None:
    with SeawayServer(metrics="false") as one:
        scale(one, "tiny", tmp_path, 2.0)
        one.deploy("tiny")
        assert answer(one, "tiny", [1, 2, 3]) == [2, 4, 6]
        metrics = one.http.get("/metrics").raise_for_status().text
        assert "seaway_" in metrics
        assert 'model="tiny"' not in "".join(line for line in metrics.splitlines() if "seaway_requests" in line)
