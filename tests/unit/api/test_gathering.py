"""Connections that move between gateways: who decides what, and that none is lost on the way."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seaway.api.gathering import FEW, FULL, MANY, MAX_GATHERED, ROOM, Census, Gathering, Told, next_move

SECOND = 1_000_000_000
IDLE = (0.1, 500.0)
TOLD = st.builds(Told, st.integers(0, 400), st.floats(0, 1), st.booleans(), st.integers(0, 500), st.floats(0, 9000))


@given(st.lists(TOLD, min_size=1, max_size=5), st.integers(0, 4))
def test_connections_only_go_to_another_gateway_that_is_there_and_has_room(told: list[Told], own: int) -> None:
    own %= len(told)
    move = next_move(own, told)
    if move is None:
        return
    target = told[move.target]
    assert move.target != own
    assert target.alive
    assert 0 < move.count <= min(told[own].connections, target.room)
    if move.spreads:
        assert target.load < told[own].load
    else:
        assert target.connections + move.count <= MAX_GATHERED


@given(st.lists(TOLD, min_size=2, max_size=5))
def test_nobody_gathers_in_a_gateway_that_would_have_too_much_to_do(told: list[Told]) -> None:
    total = sum(one.load for one in told if one.alive)
    gathering = [own for own in range(len(told)) if (move := next_move(own, told)) and not move.spreads]
    if gathering:
        assert total <= ROOM * sum(one.alive for one in told[: min(gathering)])


@given(st.lists(TOLD, min_size=2, max_size=5))
def test_what_all_others_give_to_a_gateway_at_once_has_room_there(told: list[Told]) -> None:
    moves = [move for own, one in enumerate(told) if one.alive and (move := next_move(own, told))]
    for gateway, one in enumerate(told):
        assert sum(move.count for move in moves if move.target == gateway) <= one.room


@given(st.floats(0, 1), st.integers(1, 50), st.integers(2, 5))
def test_what_was_gathered_is_not_spread_at_once_nor_the_other_way_round(load: float, n: int, gateways: int) -> None:
    together = [Told(n, load), *[Told(0, 0.0)] * (gateways - 1)]
    apart = [Told(n, load / gateways)] * gateways
    gathers = all(next_move(own, apart) for own in range(1, gateways))
    assert not (gathers and next_move(0, together))


def test_the_first_gateway_keeps_what_it_has_while_there_is_room() -> None:
    assert next_move(0, [Told(8, 0.2), Told(8, 0.2)]) is None
    assert next_move(0, [Told(8, 0.2), Told(8, 0.0, alive=False)]) is None


def test_a_single_connection_is_not_given_away_however_busy() -> None:
    assert next_move(0, [Told(1, 1.0), Told(0, 0.0)]) is None


class Line:
    """A connection as far as it matters here: something with a descriptor, on which a request may be under way."""

    def __init__(self, home: list[Line], sock: socket.socket) -> None:
        self.home = home
        self.sock = sock
        self.busy = False
        home.append(self)

    def hand_over(self, send: Callable[[int], bool]) -> bool:
        if self.busy or not send(self.sock.fileno()):
            return False
        self.home.remove(self)
        self.sock.close()
        return True


class House:
    """Two gateways in one process, each with connections."""

    def __init__(self, directory: Path) -> None:
        self.lines: list[list[Line]] = [[], []]
        self.clients: list[socket.socket] = []
        self.now = 10 * SECOND
        self.gatherings = [
            Gathering(
                Census(directory / "page", index=index, gateways=2), directory, index=index,
                connections=lambda index=index: list(self.lines[index]),  # type: ignore[misc]
                answered=lambda: 0,
                arrived=lambda sock, index=index: Line(self.lines[index], sock) and None,  # type: ignore[misc]
            )
            for index in range(2)
        ]  # fmt: skip
        for gathering in self.gatherings:
            gathering._timer.cancel()

    def connect(self, gateway: int, n: int) -> None:
        for _ in range(n):
            client, end = socket.socketpair()
            self.clients.append(client)
            Line(self.lines[gateway], end)

    async def look(self, does: Sequence[tuple[float, float]], times: int) -> None:
        """Have each gateway look around so often while it uses this part of a core and answers so many a second."""
        for _ in range(times):
            self.now += SECOND // 10
            for gathering, (load, rate) in zip(self.gatherings, does, strict=True):
                gathering.look(load, rate, self.now)
            for _ in range(2 * len(self.clients)):  # each turn of the loop takes one from the socket
                await asyncio.sleep(0)

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.lines[0]), len(self.lines[1])

    def close(self) -> None:
        for gathering in self.gatherings:
            gathering.leave()
            gathering.close()
        for line in [*self.lines[0], *self.lines[1]]:
            # Each client still talks to whoever has its connection.
            line.sock.send(b"x")
        assert [client.recv(1) for client in self.clients] == [b"x"] * len(self.clients)
        for sock in [*self.clients, *(line.sock for line in [*self.lines[0], *self.lines[1]])]:
            sock.close()


@pytest.mark.parametrize(
    ("little", "some", "much"),
    [
        pytest.param((0.2, 100.0), (0.5, 100.0), (FULL + 0.1, 100.0), id="work"),
        pytest.param((0.2, 0.4 * FEW), (0.2, FEW), (0.5, MANY + 1), id="requests that cost little"),
    ],
)
async def test_connections_gather_where_little_is_to_be_done_and_spread_when_there_is_more(
    tmp_path: Path, little: tuple[float, float], some: tuple[float, float], much: tuple[float, float]
) -> None:
    house = House(tmp_path)
    house.connect(0, 3)
    house.connect(1, 5)
    await house.look([some, some], 9)
    assert house.counts == (3, 5)
    await house.look([little, little], 2)
    assert house.counts == (3, 5)  # a moment proves nothing
    await house.look([little, little], 3)
    assert house.counts == (8, 0)
    await house.look([much, (0.0, 0.0)], 5)
    assert house.counts == (4, 4)
    await house.look([much, much], 20)
    assert house.counts == (4, 4)
    house.close()


async def test_a_connection_is_handed_over_between_two_requests(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.connect(1, 2)
    quiet, busy = house.lines[1]
    busy.busy = True
    await house.look([IDLE, IDLE], 5)
    assert house.lines[1] == [busy]
    assert quiet.sock.fileno() == -1

    busy.busy = False
    house.gatherings[1].offer(busy)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await house.look([IDLE, IDLE], 1)
    assert house.counts == (2, 0)
    house.close()


async def test_who_leaves_gets_no_more_connections_and_those_on_their_way_arrive(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.connect(1, 4)
    first, second = house.gatherings
    for _ in range(3):
        house.now += SECOND // 10
        first.look(0.1, 0.0, house.now)
        second.look(0.1, 0.0, house.now)
    assert house.counts == (0, 0)  # on their way
    house.connect(1, 1)
    first.leave()
    await house.look([IDLE, IDLE], 0)
    second.look(0.1, 0.0, house.now)
    assert house.counts[1] == 1
    first.close()
    assert house.counts == (4, 1)
    house.gatherings = [second]
    house.close()


async def test_a_gateway_that_says_nothing_any_more_gets_no_connections(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.connect(1, 4)
    house.gatherings[0].look(0.1, 0.0, house.now)
    house.now += 3 * SECOND
    for _ in range(9):
        house.gatherings[1].look(0.1, 0.0, house.now)
    assert house.counts == (0, 4)
    house.close()
