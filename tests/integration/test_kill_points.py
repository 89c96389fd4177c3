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


def attempt(server: SeawayServer, method: str, path: str, **arguments: Any) -> None:
    """A request whose answer may be lost, as the caller of a dying process sees it."""
    try:
        server.http.request(method, path, timeout=60, **arguments)
    except httpx.TransportError:
        return


def upload(directory: Path) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (path.name, path.read_bytes())) for path in sorted(directory.iterdir())]


def answers(server: SeawayServer, path: str) -> bool:
    """Whether `path` answers 200 now; a connection that dies with a gateway says no."""
    try:
        return server.http.get(path).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def settled(server: SeawayServer, version: int) -> bool:
    if not answers(server, "/api/deployments/scale"):
        return False
    body = server.http.get("/api/deployments/scale").json()
    return body["state"] == "ready" and body["arms"][0]["version"] == version


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

        attempt(server, "POST", "/api/models/scale/versions", files=upload(second))
        wait_until(lambda: answers(server, "/api/status"), 20, server.stderr)
        # The caller tries again, as it would; the same bytes are the same version, wherever the first try got to.
        assert server.register("scale", second)["version"] == 2
        attempt(server, "PUT", "/api/deployments/scale", json={"version": 2})
        wait_until(lambda: answers(server, "/api/status"), 20, server.stderr)
        attempt(server, "PUT", "/api/deployments/scale", json={"version": 2})
        wait_until(lambda: settled(server, 2), 30, server.stderr)
        wait_until(lambda: not bomb.exists(), 30, lambda: f"The point {point} was never reached.\n{server.stderr()}")

        wait_until(lambda: answers(server, "/v2/models/scale/ready"), 20, server.stderr)
        answer = server.http.post("/predict/scale", json={"inputs": [1, 2, 3]}).json()
        assert (answer["version"], answer["outputs"]) == (2, [5.0, 10.0, 15.0])
        assert [v["version"] for v in server.http.get("/api/models/scale").json()["versions"]] == [1, 2]

        server.restart()
        assert server.http.post("/predict/scale", json={"inputs": [1, 2, 3]}).json()["version"] == 2
        artifacts = tmp_path / "home" / "artifacts"
        assert len(list(artifacts.glob("sha256/*/*"))) == 2
        assert not list((artifacts / "staging").iterdir())
