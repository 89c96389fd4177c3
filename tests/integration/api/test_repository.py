"""Triton's model repository extension."""

from __future__ import annotations

import httpx
import pytest

from seaway.registry import Registry
from seaway.testing import FakeOperations

REPOSITORY = "/v2/repository"


async def test_the_index_lists_what_is_registered_and_what_is_ready(http: httpx.AsyncClient, filled: Registry) -> None:
    async def index(**body: bool) -> list[dict[str, str]]:
        answer = await http.post(f"{REPOSITORY}/index", json=body)
        assert answer.status_code == 200
        return list(answer.json())

    assert await index() == [{"name": "scale", "version": "2", "state": "UNAVAILABLE", "reason": "not deployed"}]
    assert await index(ready=True) == []
    await http.post(f"{REPOSITORY}/models/scale/load", json={"parameters": {"version": "1"}})
    assert await index(ready=True) == [{"name": "scale", "version": "1", "state": "READY", "reason": ""}]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"parameters": {}}', b'{"id": "x", "parameters": {"version": null}}'])
async def test_loading_deploys_the_newest_and_answers_when_it_is_ready(
    body: bytes, http: httpx.AsyncClient, filled: Registry
) -> None:
    answer = await http.post(f"{REPOSITORY}/models/scale/load", content=body)
    # Triton's clients take nothing but 200 for success.
    assert (answer.status_code, answer.json()) == (200, {})
    (deployed,) = filled.desired()
    assert (deployed.arms[0].version, deployed.state) == (2, "ready")


async def test_a_load_that_fails_says_why(
    http: httpx.AsyncClient, filled: Registry, operations: FakeOperations
) -> None:
    operations.becomes, operations.reason = "failed", "No memory."
    answer = await http.post(f"{REPOSITORY}/models/scale/load", json={})
    assert answer.status_code == 503
    assert answer.json() == {"error": "Version 2 of 'scale' did not get ready: No memory."}


async def test_unloading_undeploys(http: httpx.AsyncClient, filled: Registry) -> None:
    await http.post(f"{REPOSITORY}/models/scale/load")
    answer = await http.post(f"{REPOSITORY}/models/scale/unload", json={"parameters": {"unload_dependents": False}})
    assert (answer.status_code, answer.json()) == (200, {})
    assert filled.desired()[0].arms == ()
    listed = await http.post(f"{REPOSITORY}/index", json={})
    assert [entry["state"] for entry in listed.json()] == ["UNAVAILABLE"]


async def test_dependents_are_not_offered(http: httpx.AsyncClient, filled: Registry) -> None:
    body = {"parameters": {"unload_dependents": True}}
    assert (await http.post(f"{REPOSITORY}/models/scale/unload", json=body)).status_code == 501


@pytest.mark.parametrize("verb", ["load", "unload"])
async def test_an_unknown_model_is_not_found(verb: str, http: httpx.AsyncClient) -> None:
    assert (await http.post(f"{REPOSITORY}/models/nobody/{verb}")).status_code == 404
