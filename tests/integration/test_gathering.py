"""Connections that move between the gateways of a server, and clients who notice nothing."""

from __future__ import annotations

import itertools
import json
import resource
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from seaway.serving import ids
from support.rawhttp import Answer, RawConnection
from support.server import SeawayServer, wait_until
from support.tiny import scale_model, slow_model, write_package

pytestmark = pytest.mark.timeout(120)
MOVED_SECONDS = 20.0
"""Time for a move, which takes half a second; on a machine with nothing else to do."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeawayServer]:
    directory = tmp_path_factory.mktemp("packages")
    with SeawayServer(gateways=2) as one:
        for model, graph in (("hop", scale_model(3.0)), ("slow", slow_model())):
            one.register(model, write_package(directory / model, graph))
            one.deploy(model, placement="worker")
        yield one


def connect(server: SeawayServer) -> RawConnection:
    address = urlsplit(server.url)
    return RawConnection((address.hostname or "", address.port or 0))


def request(number: float) -> bytes:
    body = json.dumps({"inputs": [number, 0, 0]}).encode()
    return f"POST /predict/hop HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def gateway_of(answer: Answer | None) -> int:
    """The number of the gateway that answered, which each prediction id has in it."""
    assert answer is not None
    assert answer.ok
    return ids.decode(answer.json["prediction_id"]).gateway


def ask(client: RawConnection, number: float = 1.0) -> int:
    client.send(request(number))
    answer = client.read()
    assert answer is not None
    assert answer.json["outputs"][0] == pytest.approx(3 * number)
    return gateway_of(answer)


def connect_to_the_second(server: SeawayServer) -> RawConnection:
    """A connection that the second gateway has accepted."""
    kept: list[RawConnection] = []
    try:
        for _ in range(50):
            client = connect(server)
            if ask(client) == 1:
                return client
            kept.append(client)
    finally:
        for one in kept:
            one.close()
    raise AssertionError("The second gateway accepts no connections.")


def test_connections_of_a_quiet_server_gather_in_its_first_gateway(server: SeawayServer) -> None:
    with connect_to_the_second(server) as client:
        wait_until(lambda: ask(client) == 0, MOVED_SECONDS)
        assert [ask(client, n) for n in range(5)] == [0] * 5


def test_clients_that_always_wait_for_an_answer_are_moved_between_two_and_lose_none(server: SeawayServer) -> None:
    clients = [connect_to_the_second(server) for _ in range(4)]
    seen: list[list[int]] = [[] for _ in clients]

    def work(client: RawConnection, gateways: list[int]) -> None:
        body = b'{"inputs": [1.0]}'
        for _ in range(500):
            client.send(b"POST /predict/slow HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            gateways.append(gateway_of(client.read()))
            if gateways[-20:] == [0] * 20:
                return

    threads = [threading.Thread(target=work, args=pair) for pair in zip(clients, seen, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    assert [gateways[-1] for gateways in seen] == [0] * 4
    # Nobody is sent back and forth.
    assert [sum(a != b for a, b in itertools.pairwise(gateways)) <= 1 for gateways in seen] == [True] * 4


@pytest.mark.parametrize("cut", [1, 40, len(request(7)) - 3])
def test_a_connection_on_which_half_a_request_has_come_stays(server: SeawayServer, cut: int) -> None:
    def finish_after_others_were_moved() -> int:
        with connect_to_the_second(server) as half:
            half.send(request(7)[:cut])
            with connect_to_the_second(server) as whole:
                wait_until(lambda: ask(whole) == 0, MOVED_SECONDS)
            half.send(request(7)[cut:])
            answer = half.read()
            assert answer is not None
            assert answer.json["outputs"][0] == 21
            return gateway_of(answer)

    # It may have been moved before the half was sent.
    wait_until(lambda: finish_after_others_were_moved() == 1, 3 * MOVED_SECONDS)


def test_requests_that_came_together_are_all_answered_wherever_the_connection_goes(server: SeawayServer) -> None:
    with connect_to_the_second(server) as client:

        def last_gateway_of_eight() -> int:
            client.send(b"".join(map(request, range(8))))
            answers = [client.read() for _ in range(8)]
            assert [answer.json["outputs"][0] for answer in answers if answer] == [3.0 * n for n in range(8)]
            return gateway_of(answers[-1])

        wait_until(lambda: last_gateway_of_eight() == 0, MOVED_SECONDS)


def test_connections_stay_where_they_were_accepted_if_they_shall(tmp_path: Path) -> None:
    with SeawayServer(gateways=2, gather_connections=False) as server:
        server.register("hop", write_package(tmp_path / "hop", scale_model(3.0)))
        server.deploy("hop", placement="worker")
        with connect_to_the_second(server) as client:
            assert {ask(client) for _ in range(500)} == {1}
        assert not [*Path((server.home / "run").read_text().strip()).glob("gateway-*.sock")]


def test_a_gateway_with_few_descriptors_loses_no_connection_that_others_would_give_it(tmp_path: Path) -> None:
    with SeawayServer(gateways=2) as server, ExitStack() as stack:
        server.register("hop", write_package(tmp_path / "hop", scale_model(3.0)))
        server.deploy("hop", placement="worker")
        first = server.pids["gateway-0"]
        used = len(list(Path(f"/proc/{first}/fd").iterdir()))
        resource.prlimit(first, resource.RLIMIT_NOFILE, (used + 24, used + 24))
        clients = [stack.enter_context(connect(server)) for _ in range(60)]
        for turn in range(40):
            assert all(ask(client, turn) in {0, 1} for client in clients)
