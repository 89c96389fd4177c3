"""What connections may do to a gateway: leave, say nothing, come in masses, announce much and send little."""

from __future__ import annotations

import gzip
import json
import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.rawhttp import RawConnection
from support.server import SeawayServer, wait_until
from support.tiny import scale_model, slow_model, write_package

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeawayServer]:
    directory = tmp_path_factory.mktemp("packages")
    with SeawayServer(gateways=1) as one:
        for model, graph, settings in (
            ("fast", scale_model(2.0), {}),
            ("hop", scale_model(3.0), {"placement": "worker"}),
            ("slow", slow_model(), {}),
        ):
            one.register(model, write_package(directory / model, graph))
            one.deploy(model, **settings)
        yield one


def gateway(server: SeawayServer) -> int:
    return server.pids["gateway-0"]


def connect(server: SeawayServer) -> RawConnection:
    address = urlsplit(server.url)
    return RawConnection((address.hostname or "", address.port or 0))


def status(client: RawConnection) -> int | None:
    answer = client.read()
    return answer.status if answer else None


def predict(model: str, inputs: object, more: str = "") -> bytes:
    body = json.dumps({"inputs": inputs}).encode()
    return f"POST /predict/{model} HTTP/1.1\r\nHost: x\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


FAST, HOP, SLOW = predict("fast", [1, 2, 3]), predict("hop", [1, 2, 3]), predict("slow", [1.0])
NOBODY = predict("nobody", [1, 2, 3])
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
ORDINARY = predict("slow", [1.0], "TE: trailers\r\n")


@pytest.mark.parametrize(
    ("requests", "statuses"),
    [
        ([SLOW, FAST, FAST], [200, 200, 200]),
        ([SLOW, NOBODY, NOBODY], [200, 404, 404]),
        ([SLOW, FAST, SLOW, FAST], [200, 200, 200, 200]),
        ([HOP, LIVE, LIVE], [200, 200, 200]),
        ([LIVE, SLOW, FAST, FAST], [200, 200, 200, 200]),
        ([FAST] * 20, [200] * 20),
    ],
)
def test_everything_that_was_sent_before_the_client_closed_its_side_is_answered(
    server: SeawayServer, requests: list[bytes], statuses: list[int]
) -> None:
    with connect(server) as client:
        client.send(b"".join(requests))
        client.half_close()
        assert [answer.status for answer in client.read_to_the_end()] == statuses


def test_a_head_alone_takes_no_memory_whatever_it_announces(server: SeawayServer) -> None:
    def private_mib() -> float:
        _, resident, shared, *_ = map(int, Path(f"/proc/{gateway(server)}/statm").read_text().split())
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    before = private_mib()
    with ExitStack() as stack:
        for model in ("nobody", "hop") * 6:
            client = stack.enter_context(connect(server))
            client.send(f"POST /predict/{model} HTTP/1.1\r\nHost: x\r\nContent-Length: 67108864\r\n\r\n".encode())
        server.http.get("/v2/health/live").raise_for_status()
        assert private_mib() - before < 100


@pytest.mark.parametrize("products", [1, 8], ids=["fast enough for the main thread", "slow"])
def test_who_stays_need_not_wait_for_the_many_who_gave_up(server: SeawayServer, tmp_path: Path, products: int) -> None:
    model = f"waited-for-{products}"
    server.register(model, write_package(tmp_path / "model", slow_model(products)))
    server.deploy(model, placement="worker", engines=1, processes=1)
    one = predict(model, [1.0])
    with ExitStack() as stack:
        leavers = [stack.enter_context(connect(server)) for _ in range(100)]
        for client in leavers:
            client.send(one)
        for client in leavers:
            client.half_close()
        server.http.get("/v2/health/live").raise_for_status()
        server.http.post(f"/predict/{model}", json={"inputs": [1.0]}).raise_for_status()
        (stats,) = server.http.get(f"/v2/models/{model}/stats").json()["model_stats"]
    assert stats["inference_count"] < 50


def test_resets_of_clients_with_pipelined_requests_are_no_errors_of_the_server(server: SeawayServer) -> None:
    for _ in range(10):
        client = connect(server)
        client.send(ORDINARY * 4)
        client.reset()
    with connect(server) as client:
        client.send(ORDINARY)
        assert status(client) == 200
    assert "request.crashed" not in server.stderr()
    assert "Exception in ASGI" not in server.stderr()


def test_a_gateway_without_descriptors_says_so_serves_who_is_there_and_recovers() -> None:
    with SeawayServer(gateways=1) as server, ExitStack() as stack:
        there = stack.enter_context(connect(server))
        pid = gateway(server)
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 4, most))
        crowd = [connect(server) for _ in range(40)]
        wait_until(lambda: "gateway.cannot_accept" in server.stderr(), 20)
        there.send(LIVE)
        assert status(there) == 200
        for client in crowd:
            client.close()
        newcomer = stack.enter_context(connect(server))
        newcomer.send(LIVE)
        assert status(newcomer) == 200
        assert server.stderr().count("gateway.cannot_accept") == 1, "once, and not for each try"
        assert "Traceback" not in server.stderr()


@pytest.mark.parametrize("model", ["fast", "hop"])
@pytest.mark.parametrize("seconds", ["1e-9", "0.000001"])
def test_a_deadline_that_is_over_before_the_run_is_kept_wherever_the_version_runs(
    server: SeawayServer, model: str, seconds: str
) -> None:
    answer = server.http.post(
        f"/predict/{model}", json={"inputs": [1, 2, 3]}, headers={"X-Request-Timeout-Seconds": seconds}
    )
    assert answer.status_code == 504


@pytest.mark.parametrize("model", ["fast", "hop"])
@pytest.mark.parametrize("padding", [0, 70_000])
def test_the_protocol_s_timeout_is_kept_however_long_the_json_is(
    server: SeawayServer, model: str, padding: int
) -> None:
    body = {
        "parameters": {"timeout": 1},
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}],
        "x": "x" * padding,
    }
    assert server.http.post(f"/v2/models/{model}/infer", json=body).status_code == 504


def test_a_small_packed_body_that_unpacks_to_much_keeps_nobody_waiting(server: SeawayServer) -> None:
    body = gzip.compress(b'{"inputs":[' + b"[1,2,3]," * 1_000_000 + b"[1,2,3]]}", 9)
    assert len(body) < 16_384, "small enough to run inline, were it not packed"
    head = f"POST /predict/fast HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    with connect(server) as client, connect(server) as other:
        client.send(head.encode() + body)
        other.send(FAST)
        assert status(other) == 200
        assert not client.arrived(0), "the other was answered while this one was being read"
