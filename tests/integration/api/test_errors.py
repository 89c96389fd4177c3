"""Every error of every route has one shape."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from seaway import errors
from seaway.api.errors import error_response, install_error_handlers, status_of
from seaway.errors import Overloaded, SeawayError
from seaway.registry import Registry
from seaway.testing import FakeOperations


def tree(kind: type[SeawayError] = SeawayError) -> Iterator[type[SeawayError]]:
    if kind.__module__ == errors.__name__:  # a room's own never reach a caller
        yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


# What an error's status is decides who is told to act: the caller (4xx) or the operator (5xx).
SERVER_SIDE = {
    SeawayError, errors.Unavailable, errors.WorkerLost, errors.ServerNotReached, errors.DeadlineExceeded,
    errors.NotSupported, errors.ArtifactCorrupt, errors.InferenceFailed, errors.OutOfMemory, errors.DeviceLost,
    errors.ConfigurationError,
}  # fmt: skip


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_of_the_side_that_can_act(kind: type[SeawayError]) -> None:
    status = status_of(kind("what is wrong"))
    assert status // 100 == (5 if kind in SERVER_SIDE else 4)


@pytest.mark.parametrize("kind", list(tree()), ids=lambda kind: kind.__name__)
async def test_a_raised_error_is_its_message_as_plain_json(kind: type[SeawayError]) -> None:
    async with raising(kind("what is wrong")) as client:
        answer = await client.get("/")
    assert answer.status_code == status_of(kind(""))
    assert answer.json() == {"error": "what is wrong"}
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("seconds", "header"), [(0.2, "1"), (1.0, "1"), (3.2, "4")])
def test_who_is_refused_for_load_learns_when_to_come_back(seconds: float, header: str) -> None:
    refused = error_response(Overloaded("full", retry_after_seconds=seconds))
    assert (refused.status_code, refused.headers["retry-after"]) == (429, header)


def test_who_finds_it_unavailable_learns_when_to_come_back() -> None:
    assert error_response(errors.WorkerLost("gone")).headers["retry-after"] == "1"


async def test_an_unexpected_error_says_nothing_of_the_inside() -> None:
    async with raising(ValueError("/secret/path")) as client:
        answer = await client.get("/")
    assert answer.status_code == 500
    assert answer.json() == {"error": "Something went wrong in the server; its log says what."}


async def test_the_framework_s_own_errors_have_the_same_shape() -> None:
    async with raising(HTTPException(418, "a teapot", {"x-kind": "pot"})) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.json()) == (418, {"error": "a teapot"})
    assert answer.headers["x-kind"] == "pot"


def raising(error: Exception) -> httpx.AsyncClient:
    """A client of an application whose only route raises `error`."""
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/")
    async def route() -> None:
        raise error

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://app")


@pytest.mark.parametrize("path", ["/nowhere", "/api", "/api/models/", "/api/models/a/b", "/api/../etc", "/%00"])
async def test_an_unknown_path_is_an_error_like_any_other(path: str, http: httpx.AsyncClient) -> None:
    answer = await http.get(path)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/models", "GET"),
        ("HEAD", "/api/models", "GET"),
        ("POST", "/api/deployments/m", "GET, PUT, DELETE"),
        ("PATCH", "/api/models/m/aliases/a", "GET, PUT, DELETE"),
        ("GET", "/api/deployments/m/rollback", "POST"),
        ("PUT", "/api/experiments", "GET, POST"),
        ("DELETE", "/api/models/m/versions/1", "GET"),
        ("GET", "/v2/repository/index", "POST"),
        ("POST", "/metrics", "GET"),
    ],
)
async def test_a_wrong_method_learns_every_right_one(
    method: str, path: str, allowed: str, http: httpx.AsyncClient
) -> None:
    answer = await http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert allowed in answer.json()["error"]


async def test_a_crash_behind_a_route_is_answered_and_the_next_request_too(
    http: httpx.AsyncClient, operations: FakeOperations, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash() -> bytes:
        raise RuntimeError(str(registry.artifacts.path("aa")))

    with monkeypatch.context() as patch:
        patch.setattr(operations, "render_metrics", crash)
        answer = await http.get("/metrics")
    assert (answer.status_code, list(answer.json())) == (500, ["error"])
    assert "sha256" not in answer.text
    assert (await http.get("/metrics")).status_code == 200
