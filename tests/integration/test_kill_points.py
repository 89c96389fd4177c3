"""Death at the worst moment: each named point of a register and a deploy, whichever process reaches it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from seaway.faults import POINTS
from support.server import SeawayServer, wait_until
from support.tiny import scale_model, write_package

pytestmark = pytest.mark.timeout(120)


def ask(server: SeawayServer, method: str, path: str, **arguments: Any) -> Any:
    """The JSON of a 200 or 201; None when the process that should answer is dead or being replaced."""
    try:
        answer = server.http.request(method, path, timeout=60, **arguments)
    except httpx.TransportError:
        return None
    return answer.json() if answer.is_success else None


def keep_asking(server: SeawayServer, method: str, path: str, **arguments: Any) -> Any:
    """What a caller does whose server dies: the same again, until there is an answer."""
    found: list[Any] = []
    wait_until(lambda: found.append(ask(server, method, path, **arguments)) or found[-1] is not None, 30, server.stderr)
    return found[-1]


def upload(directory: Path) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (path.name, path.read_bytes())) for path in sorted(directory.iterdir())]


def settled(server: SeawayServer, version: int) -> bool:
    body = ask(server, "GET", "/api/deployments/scale")
    return body is not None and body["state"] == "ready" and body["arms"][0]["version"] == version


@pytest.mark.parametrize("point", POINTS)
def test_after_a_kill_at_this_point_the_registry_is_consistent_and_the_deployment_converges(
    point: str, tmp_path: Path
) -> None:
    bomb = tmp_path / "point"
    with SeawayServer(home=tmp_path / "home", kill_point_file=bomb) as server:
        server.register("scale", write_package(tmp_path / "one", scale_model(2.0)))
        server.deploy("scale", 1)
        second = write_package(tmp_path / "two", scale_model(5.0))
        bomb.write_text(point)

        # The same bytes are the same version, wherever the first try got to.
        version = keep_asking(server, "POST", "/api/models/scale/versions", files=upload(second))
        assert version["version"] == 2
        keep_asking(server, "PUT", "/api/deployments/scale", json={"version": 2})
        wait_until(lambda: settled(server, 2), 30, server.stderr)
        wait_until(lambda: not bomb.exists(), 30, lambda: f"The point {point} was never reached.\n{server.stderr()}")

        answer = keep_asking(server, "POST", "/predict/scale", json={"inputs": [1, 2, 3]})
        assert (answer["version"], answer["outputs"]) == (2, [5.0, 10.0, 15.0])
        known = keep_asking(server, "GET", "/api/models/scale")["versions"]
        assert [one["version"] for one in known] == [1, 2]

        server.restart()
        assert keep_asking(server, "POST", "/predict/scale", json={"inputs": [1, 2, 3]})["version"] == 2
        artifacts = tmp_path / "home" / "artifacts"
        assert len(list(artifacts.glob("sha256/*/*"))) == 2
        assert not list((artifacts / "staging").iterdir())
