"""Experiments over HTTP: made once, listed by model, found by id."""

from __future__ import annotations

import httpx
import pytest

from seaway.api.objects import MAX_LEVELS
from seaway.registry import Registry

PARTS = {"dataset": "rows", "model": "scale", "architecture": "linear", "hyper_parameters": {"rate": 0.1}}


async def test_experiments_are_listed_newest_first_and_by_model(http: httpx.AsyncClient, filled: Registry) -> None:
    first = await http.post("/api/experiments", json=PARTS)
    other = await http.post("/api/experiments", json=PARTS | {"model": "other"})
    assert (first.status_code, other.status_code) == (201, 201)
    listed = (await http.get("/api/experiments")).json()
    assert listed == {"items": [other.json(), first.json()], "next_cursor": None}
    assert (await http.get("/api/experiments", params={"model": "other"})).json()["items"] == [other.json()]
    assert (await http.get("/api/experiments", params={"limit": 1})).json()["items"] == [other.json()]
    assert (await http.get(f"/api/experiments/{first.json()['experiment_id']}")).json() == first.json()


async def test_the_same_parts_are_the_same_experiment(http: httpx.AsyncClient, filled: Registry) -> None:
    first = await http.post("/api/experiments", json=PARTS)
    again = await http.post("/api/experiments", json=dict(reversed(PARTS.items())) | {"dataset_version": 1})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert first.json()["dataset_digest"] == filled.get_dataset_version("rows").digest


async def test_parameters_as_deep_as_allowed_are_read_again(http: httpx.AsyncClient, filled: Registry) -> None:
    deep: object = 0.1
    for _ in range(MAX_LEVELS):
        deep = {"a": deep}
    made = await http.post("/api/experiments", json=PARTS | {"hyper_parameters": deep})
    assert (made.status_code, made.json()["spec"]["hyper_parameters"]) == (201, deep)
    assert (await http.get("/api/experiments")).json()["items"] == [made.json()]


@pytest.mark.parametrize(
    ("change", "says"),
    [({"dataset": "nothing"}, "nothing"), ({"dataset_version": 2}, "no version 2")],
    ids=["set", "version"],
)
async def test_an_experiment_on_data_that_is_not_there_is_not_found_and_makes_no_model(
    change: dict[str, object], says: str, http: httpx.AsyncClient, filled: Registry
) -> None:
    answer = await http.post("/api/experiments", json=PARTS | {"model": "new"} | change)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])
    assert says in answer.json()["error"]
    assert [item["name"] for item in filled.list_models().items] == ["scale"]
