"""The client: what it sends, and what it makes of answers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from python_multipart.multipart import parse_form

from seaway import errors
from seaway.api.errors import STATUSES, status_of
from seaway.client import Client, wait_until_settled
from seaway.client.upload import Multipart, list_files
from seaway.types import ServingSettings
from support.scripted import Asked, ScriptedServer

CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        yield scripted


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with Client(server.url, "the key", actor="ana") as client:
        yield client


def revision(state: str, number: int = 1) -> dict[str, object]:
    return {"model": "m", "number": number, "state": state, "state_reason": "", "arms": [{"version": 1}]}


def parts_of(asked: Asked) -> tuple[dict[str, str], dict[str, bytes]]:
    """Fields and files of an upload, as the server's parser reads them."""
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}

    def on_field(field: object) -> None:
        fields[field.field_name.decode()] = field.value.decode()  # type: ignore[attr-defined]

    def on_file(file: object) -> None:
        file.file_object.seek(0)  # type: ignore[attr-defined]
        files[file.file_name.decode()] = file.file_object.read()  # type: ignore[attr-defined]
        file.close()  # type: ignore[attr-defined]

    class Body:
        def __init__(self) -> None:
            self.left = asked.body

        def read(self, size: int) -> bytes:
            chunk, self.left = self.left[:size], self.left[size:]
            return chunk

    headers = {"Content-Type": asked.headers["content-type"].encode()}
    parse_form(headers, Body(), on_field, on_file)  # type: ignore[arg-type]
    return fields, files


def test_the_key_and_the_user_go_with_every_request(server: ScriptedServer, client: Client) -> None:
    server.answers("GET /api/status", {"models": {}})

    client.status()

    assert server.asked[0].headers["authorization"] == "Bearer the key"
    assert server.asked[0].headers["seaway-actor"] == "ana"


def test_threads_that_share_a_client_never_share_a_connection(server: ScriptedServer, client: Client) -> None:
    server.answers("GET /api/status", {"models": {}})
    everyone = threading.Barrier(8)

    def ask(_: int) -> None:
        everyone.wait(10)
        for _ in range(20):
            client.status()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(8)))

    assert list(Counter(asked.port for asked in server.asked).values()) == [20] * 8


def test_a_connection_ends_with_its_thread_and_all_others_with_the_client(server: ScriptedServer) -> None:
    server.answers("GET /api/status", {"models": {}})
    with Client(server.url) as client:
        client.status()
        thread = threading.Thread(target=client.status)
        thread.start()
        thread.join(10)
        mine, other = (asked.port for asked in server.asked)
        assert server.ended.get(timeout=10) == other
        client.status()
        assert server.asked[-1].port == mine
    assert server.ended.get(timeout=10) == mine


def test_a_directory_is_uploaded_with_the_paths_of_its_files(
    server: ScriptedServer, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "model.onnx").write_bytes(bytes(range(256)) * 10_000)
    (tmp_path / "labels" / "émile.txt").write_text("a\nb")
    server.answers("POST /api/models/m/versions", {"version": 1}, status=201)

    uploaded = client.register("m", tmp_path, experiment_id="e", metrics={"auc": 0.9}, description='the "first"')

    fields, files = parts_of(server.asked[0])
    assert uploaded.new
    assert uploaded.version == {"version": 1}
    assert fields == {"experiment_id": "e", "metrics": '{"auc": 0.9}', "description": 'the "first"'}
    assert files == {"model.onnx": bytes(range(256)) * 10_000, "labels/émile.txt": b"a\nb"}


def test_known_bytes_are_told_from_new_ones(server: ScriptedServer, client: Client, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    server.answers("POST /api/datasets/d/versions", {"version": 3}, status=200)

    uploaded = client.add_dataset_version("d", tmp_path / "data.csv", source={"url": "http://example.test"})

    assert not uploaded.new
    assert parts_of(server.asked[0]) == ({"source": '{"url": "http://example.test"}'}, {"data.csv": b"a,b\n1,2\n"})


def test_progress_is_told_up_to_the_last_byte(server: ScriptedServer, client: Client, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x" * 3_000_000)
    server.answers("POST /api/models/m/versions", {"version": 1}, status=201)
    heard: list[tuple[int, int]] = []

    client.register("m", tmp_path, progress=lambda sent, total: heard.append((sent, total)))

    assert len(heard) == 3
    assert heard[-1] == (3_000_000, 3_000_000)


def test_an_upload_never_holds_more_than_a_chunk(tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(50 << 20)
    body = Multipart(list_files(tmp_path), {"description": "zeros"})

    sizes = [len(chunk) for chunk in body.chunks()]

    assert sum(sizes) == body.n_bytes
    assert max(sizes) <= 1 << 20


def test_a_file_that_shrinks_while_it_is_sent_is_named(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x" * 100)
    body = Multipart(list_files(tmp_path), {})
    model.write_bytes(b"x")

    with pytest.raises(errors.InvalidPackage, match=r"model\.onnx got shorter"):
        list(body.chunks())


def test_an_empty_directory_is_refused_before_anything_is_sent(client: Client, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidPackage, match="has no files"):
        client.register("m", tmp_path)


def test_links_to_files_are_followed_and_links_to_directories_refused(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"weights")
    package = tmp_path / "package"
    package.mkdir()
    (package / "model.onnx").symlink_to(tmp_path / "blob")
    assert [(file.name, file.n_bytes) for file in list_files(package)] == [("model.onnx", 7)]

    (package / "around").symlink_to(package)
    with pytest.raises(errors.InvalidPackage, match="around is a link to a directory"):
        list_files(package)


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "new\nline"])
def test_a_file_name_that_would_break_the_request_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(errors.InvalidPackage, match="rename it"):
        list_files(tmp_path)


@pytest.mark.parametrize("kind", sorted(set(STATUSES) - {errors.WarmUpFailed}, key=lambda kind: kind.__name__))
def test_a_refusal_is_raised_as_the_error_that_the_server_raised(
    server: ScriptedServer, client: Client, kind: type[errors.SeawayError]
) -> None:
    server.answers("GET /api/status", {"error": "Because."}, status=status_of(kind("")))

    with pytest.raises(errors.SeawayError, match=r"^Because\.$") as raised:
        client.status()

    assert type(raised.value) is kind


def test_an_overloaded_server_says_when_to_come_back(server: ScriptedServer, client: Client) -> None:
    server.answers("POST /predict/m", {"error": "Too much waits."}, status=429, headers={"Retry-After": "7"})

    with pytest.raises(errors.Overloaded) as raised:
        client.predict("m", [1.0])

    assert raised.value.retry_after_seconds == 7.0


def test_an_error_of_the_server_itself_is_no_invalid_request(server: ScriptedServer, client: Client) -> None:
    server.answers("GET /api/status", {"error": "Its log says what."}, status=500)

    with pytest.raises(errors.SeawayError) as raised:
        client.status()

    assert type(raised.value) is errors.SeawayError


@pytest.mark.parametrize(("body", "status"), [("<html>", 200), ("[1]", 200), ("<html>", 502), ('{"detail": 1}', 502)])
def test_a_server_that_is_no_seaway_is_suspected(
    server: ScriptedServer, client: Client, body: str, status: int
) -> None:
    server.answers("GET /api/status", body, status=status)

    with pytest.raises(errors.SeawayError, match="is it a Seaway server"):
        client.status()


def test_where_nobody_listens_it_says_how_to_start_a_server() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # taken and not listening: nobody else gets it meanwhile
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with Client(url) as client, pytest.raises(errors.ServerNotReached) as raised:
            client.status()

    assert str(raised.value) == (
        f"No Seaway server answers at {url}; start one with `seaway serve`, or set SEAWAY_URL."
    )


@contextmanager
def answering(*replies: bytes) -> Iterator[str]:
    """The address of something that gives each connection one of these, in turn, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def reply_in_turn() -> None:
            for reply in replies:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(reply)

        thread = threading.Thread(target=reply_in_turn, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(10)


@pytest.mark.parametrize("reply", [b"", b"SSH-2.0-OpenSSH_9.6\r\n"], ids=["nothing", "another protocol"])
def test_what_does_not_speak_http_is_no_server_that_was_reached(reply: bytes) -> None:
    not_reached = pytest.raises(errors.ServerNotReached, match=r"[^.]; is it a Seaway server\?$")
    with answering(reply) as url, Client(url) as client, not_reached:
        client.status()


def test_of_a_change_that_was_sent_and_not_answered_nothing_is_known() -> None:
    unavailable = pytest.raises(errors.Unavailable, match=r"without sending a response\.$")
    with answering(b"") as url, Client(url) as client, unavailable as raised:
        client.predict("m", [1.0])

    assert type(raised.value) is errors.Unavailable


def test_a_server_that_has_answered_is_one_though_it_breaks_off() -> None:
    with (
        answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}", b"") as url,
        Client(url) as client,
    ):
        client.status()
        with pytest.raises(errors.Unavailable) as raised:
            client.status()

    assert type(raised.value) is errors.Unavailable


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", "http://[::1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="is no address"):
        Client(url)


def test_a_key_that_no_header_can_carry_is_refused() -> None:
    with pytest.raises(errors.InvalidRequest, match="API key"):
        Client("http://127.0.0.1:1", "clé\n")


def test_a_prediction_comes_with_its_durations(server: ScriptedServer, client: Client) -> None:
    answer = {"model": "m", "version": 2, "prediction_id": "p", "outputs": [0.5]}
    server.answers("POST /predict/m", answer, headers={"Server-Timing": "queue;dur=0.25, batch;dur=0, run;dur=1.5"})

    prediction = client.predict("m", {"age": 41}, version=2, timeout_seconds=3)

    asked = server.asked[0]
    assert asked.json == {"inputs": {"age": 41}}
    assert asked.query == {"version": "2"}
    assert asked.headers["x-request-timeout-seconds"] == "3"
    assert prediction.outputs == [0.5]
    assert list(prediction.milliseconds.items())[:-1] == [("queue", 0.25), ("batch", 0.0), ("run", 1.5)]
    assert prediction.milliseconds["total"] > 0


def test_a_prediction_says_how_many_texts_were_cut(server: ScriptedServer, client: Client) -> None:
    server.answers("POST /predict/m", {"outputs": [1, 2]}, headers={"Seaway-Truncated": "2"})
    server.answers("POST /predict/m", {"outputs": 1})
    assert client.predict("m", ["long", "longer"]).truncated == 2
    assert client.predict("m", "short").truncated == 0


@pytest.mark.parametrize(
    ("inputs", "sent"),
    [
        (np.array([[1.5, 2.0], [3.0, 4.0]], np.float32), [[1.5, 2.0], [3.0, 4.0]]),
        ([np.array([1, 2]), [np.int64(3), 4]], [[1, 2], [3, 4]]),
        (
            {"age": np.int64(41), "paid": np.bool_(True), "spent": np.float32(0.5)},
            {"age": 41, "paid": True, "spent": 0.5},
        ),
        (list(np.array([[41], [42]])), [[41], [42]]),
        (np.array(["a", None], object), ["a", None]),
        (np.float64(0.5), 0.5),
    ],
    ids=["array", "in lists", "in an object", "rows of an array", "objects", "number"],
)
def test_numpys_arrays_and_numbers_are_sent_as_lists_and_numbers(
    server: ScriptedServer, client: Client, inputs: Any, sent: Any
) -> None:
    server.answers("POST /predict/m", {"outputs": 1})

    client.predict("m", inputs)

    assert server.asked[0].json == {"inputs": sent}


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({1, 2}, "type set"),
        ([datetime(2026, 1, 31, tzinfo=UTC)], "type datetime"),
        (np.array(["2026-01-31"], "datetime64[ns]"), "type ndarray"),
        (np.array([b"a"]), "type bytes"),
        (np.longdouble(1), "type longdouble"),
        ({np.int64(1): 2}, "keys must be str"),
        ([float("nan")], "no NaN"),
        (np.array([np.inf]), "no infinity"),
        (CIRCLE, "contains itself"),
    ],
    ids=["set", "time", "times", "bytes", "long double", "key", "nan", "infinity", "circle"],
)
def test_what_json_has_no_form_for_is_refused_before_anything_is_sent(
    server: ScriptedServer, client: Client, inputs: Any, named: str
) -> None:
    with pytest.raises(errors.InvalidRequest, match=f"^inputs.*{named}"):
        client.predict("m", inputs)

    assert not server.asked


def test_metrics_and_experiments_may_hold_numpys_numbers(
    server: ScriptedServer, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    server.answers("POST /api/models/m/versions", {"version": 1}, status=201)
    server.answers("POST /api/experiments", {"experiment_id": "e"}, status=201)

    client.register("m", tmp_path, experiment_id="e", metrics={"auc": np.float32(0.5)})
    client.create_experiment({"hyper_parameters": {"depth": np.int64(4)}})

    assert parts_of(server.asked[0])[0]["metrics"] == '{"auc": 0.5}'
    assert server.asked[1].json == {"hyper_parameters": {"depth": 4}}
    with pytest.raises(errors.InvalidRequest, match=r"^metrics: a value of type set"):
        client.register("m", tmp_path, experiment_id="e", metrics={"auc": {1}})
    with pytest.raises(errors.InvalidRequest, match="no NaN"):
        client.create_experiment({"hyper_parameters": {"rate": float("nan")}})


def test_the_client_does_not_import_numpy() -> None:
    program = "import sys, seaway.client; sys.exit('numpy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_picture_goes_as_it_is(server: ScriptedServer, client: Client) -> None:
    server.answers("POST /predict/m", {"outputs": 1})

    client.predict_image("m", b"\x89PNG", "image/png")

    assert server.asked[0].body == b"\x89PNG"
    assert server.asked[0].headers["content-type"] == "image/png"


def test_only_what_is_said_about_serving_is_sent(server: ScriptedServer, client: Client) -> None:
    server.answers("PUT /api/deployments/m", revision("pending"))

    client.deploy("m", "champion", settings=ServingSettings(engines=2), reason="why", wait_seconds=5)

    assert server.asked[0].json == {"version": "champion", "reason": "why", "engines": 2}
    assert server.asked[0].query == {"wait": "5"}


def test_names_are_one_part_of_a_path_whatever_they_hold(server: ScriptedServer, client: Client) -> None:
    server.answers("GET /api/models/a%2F..%3Fb", {"name": "a/..?b"})

    assert client.get_model("a/..?b") == {"name": "a/..?b"}


def test_a_list_is_read_to_its_last_page(server: ScriptedServer, client: Client) -> None:
    server.answers("GET /api/models", {"items": [{"name": "a"}], "next_cursor": "a"})
    server.answers("GET /api/models", {"items": [{"name": "b"}], "next_cursor": None})

    assert [model["name"] for model in client.list_models()] == ["a", "b"]
    assert [asked.query for asked in server.asked] == [{}, {"cursor": "a"}]


def test_waiting_ends_when_the_revision_is_ready(server: ScriptedServer, client: Client) -> None:
    for state in ("pending", "pending", "ready"):
        server.answers("GET /api/deployments/m", revision(state))

    settled = wait_until_settled(client, revision("pending"), timeout_seconds=30, poll_seconds=0)

    assert settled["state"] == "ready"
    assert len(server.asked) == 3


def test_waiting_outlives_a_restart_of_control(server: ScriptedServer, client: Client) -> None:
    server.answers("GET /api/deployments/m", {"error": "Control restarts."}, status=503)
    server.answers("GET /api/deployments/m", revision("failed"))

    assert wait_until_settled(client, revision("pending"), timeout_seconds=30, poll_seconds=0)["state"] == "failed"


def test_waiting_ends_when_another_revision_came(server: ScriptedServer, client: Client) -> None:
    server.answers("GET /api/deployments/m", revision("pending", number=2))

    settled = wait_until_settled(client, revision("pending"), timeout_seconds=30, poll_seconds=0)

    assert (settled["number"], settled["state"]) == (1, "superseded")


def test_waiting_ends_when_the_time_is_over(client: Client) -> None:
    assert wait_until_settled(client, revision("pending"), timeout_seconds=0)["state"] == "pending"


def test_every_method_asks_the_path_it_is_for(server: ScriptedServer, client: Client) -> None:
    questions = {
        "GET /api/models/m/versions/2": lambda: client.get_model_version("m", 2),
        "GET /api/models/m/aliases": lambda: client.list_aliases("m"),
        "GET /api/models/m/aliases/a": lambda: client.get_alias("m", "a"),
        "PUT /api/models/m/aliases/a": lambda: client.set_alias("m", "a", 2),
        "DELETE /api/models/m/aliases/a": lambda: client.delete_alias("m", "a"),
        "GET /api/models/m/aliases/a/history": lambda: client.alias_history("m", "a"),
        "GET /api/datasets": client.list_datasets,
        "GET /api/datasets/d": lambda: client.get_dataset("d"),
        "GET /api/experiments": client.list_experiments,
        "GET /api/experiments/e": lambda: client.get_experiment("e"),
        "POST /api/experiments": lambda: client.create_experiment({"dataset": "d"}),
        "GET /api/deployments": client.list_deployments,
        "GET /api/deployments/m/history": lambda: client.deployment_history("m"),
        "DELETE /api/deployments/m": lambda: client.undeploy("m", reason="old"),
        "POST /api/deployments/m/rollback": lambda: client.rollback("m"),
        "GET /api/predictions/p": lambda: client.get_prediction("p"),
        "GET /api/audit": client.list_audit,
        "GET /api/logs": lambda: client.logs("m", lines=3),
    }
    for question, ask in questions.items():
        server.answers(question, {"items": [], "lines": []})
        ask()

    assert [f"{asked.method} {asked.path}" for asked in server.asked] == list(questions)
    assert json.loads(server.asked[3].body) == {"version": 2, "reason": ""}
