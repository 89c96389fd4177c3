"""Deployments over HTTP: desired state is written, the server is woken, the caller is told what comes of it."""

from __future__ import annotations

from dataclasses import fields

import httpx
import pytest

from seaway.registry import Registry
from seaway.serving import ids
from seaway.serving.ids import PredictionId
from seaway.testing import FakeOperations
from seaway.types import ServingSettings

PATH = "/api/deployments/scale"


async def test_a_deployment_is_asked_for_and_the_server_woken(
    http: httpx.AsyncClient, filled: Registry, operations: FakeOperations
) -> None:
    body = {"version": 1, "engines": 2, "timeout_seconds": 1, "placement": "inline", "reason": "first"}
    answer = await http.put(PATH, json=body, headers={"Seaway-Actor": "ada"})

    assert answer.status_code == 200
    revision = answer.json()
    assert (revision["number"], revision["state"], revision["created_by"]) == (1, "pending", "ada")
    assert revision["arms"] == [{"name": "stable", "version": 1, "weight_bp": 10_000}]
    assert revision["settings"] == {
        **dict.fromkeys(field.name for field in fields(ServingSettings)),
        "engines": 2, "timeout_seconds": 1.0, "placement": "inline",
    }  # fmt: skip
    assert "once it is ready requests go to it" in revision["message"]
    assert (operations.wakes, operations.waited) == (1, [])


@pytest.mark.parametrize(
    ("wanted", "version"),
    [(None, 2), (1, 1), ("1", 1), ("champion", 1)],
    ids=["newest", "number", "number as text", "alias"],
)
async def test_a_version_is_wanted_by_number_by_alias_or_as_the_newest(
    wanted: int | str | None, version: int, http: httpx.AsyncClient, filled: Registry
) -> None:
    filled.set_alias("scale", "champion", 1, actor="ada")
    answer = await http.put(PATH, json={"version": wanted})
    assert answer.json()["arms"][0]["version"] == version


async def test_an_empty_body_deploys_the_newest(http: httpx.AsyncClient, filled: Registry) -> None:
    assert (await http.put(PATH)).json()["arms"][0]["version"] == 2


@pytest.mark.parametrize("wait", [0, 1])
async def test_what_was_ready_once_and_cannot_be_served_now_is_no_success(
    wait: int, http: httpx.AsyncClient, filled: Registry, operations: FakeOperations
) -> None:
    await http.put(PATH, params={"wait": 1}, json={"version": 1})
    operations.down["scale"] = "The runtime needs a package that is not installed."

    answer = await http.put(PATH, params={"wait": wait}, json={"version": 1})

    assert answer.status_code == 503
    assert "deployed already, and can't be served now: The runtime needs a package" in answer.json()["error"]
    assert filled.get_deployment("scale").number == 1


async def test_who_waits_gets_the_state_that_it_settles_in(
    http: httpx.AsyncClient, filled: Registry, operations: FakeOperations
) -> None:
    answer = await http.put(PATH, params={"wait": 2.5}, json={"version": 1})
    assert (answer.json()["state"], answer.json()["message"]) == ("ready", "Version 1 of scale serves.")
    assert operations.waited == [(answer.json()["id"], 2.5)]


async def test_a_failure_that_was_waited_for_is_an_answer_with_its_reason(
    http: httpx.AsyncClient, filled: Registry, operations: FakeOperations
) -> None:
    operations.becomes, operations.reason = "failed", "No memory."
    answer = await http.put(PATH, params={"wait": 1}, json={})
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["state_reason"]) == ("failed", "No memory.")
    assert answer.json()["message"].startswith("Version 2 of scale did not get ready: No memory.")


async def test_who_waits_too_short_learns_that_it_is_pending(
    http: httpx.AsyncClient, filled: Registry, operations: FakeOperations
) -> None:
    operations.becomes = "pending"
    assert (await http.put(PATH, params={"wait": 0.01}, json={})).json()["state"] == "pending"


@pytest.mark.parametrize("wait", ["-1", "601", "nan", "inf", "x"])
async def test_a_wait_without_sense_is_refused(wait: str, http: httpx.AsyncClient, filled: Registry) -> None:
    answer = await http.put(PATH, params={"wait": wait}, json={})
    assert (answer.status_code, '"wait"' in answer.json()["error"]) == (400, True)
    assert filled.desired() == ()


async def test_the_same_deployment_twice_is_one_revision(http: httpx.AsyncClient, filled: Registry) -> None:
    first = (await http.put(PATH, params={"wait": 1}, json={"version": 1})).json()
    again = (await http.put(PATH, json={"version": 1})).json()
    assert again == first


@pytest.mark.parametrize(
    ("model", "version"), [("nobody", None), ("scale", 3), ("scale", "nobody"), ("scale", "9" * 100)]
)
async def test_what_is_not_registered_is_not_deployed(
    model: str, version: int | str | None, http: httpx.AsyncClient, filled: Registry
) -> None:
    answer = await http.put(f"/api/deployments/{model}", json={"version": version})
    assert answer.status_code == 404, answer.text
    assert filled.desired() == ()


async def test_undeploying_is_a_revision_without_arms(http: httpx.AsyncClient, filled: Registry) -> None:
    await http.put(PATH, params={"wait": 1}, json={})
    answer = (await http.delete(PATH, params={"reason": "unused", "wait": 1})).json()
    assert (answer["arms"], answer["state"], answer["reason"]) == ([], "undeployed", "unused")
    assert answer["message"] == "scale is not served any more."
    assert (await http.delete("/api/deployments/nobody")).status_code == 404


async def test_rolling_back_goes_to_what_was_ready_before(http: httpx.AsyncClient, filled: Registry) -> None:
    for version in (1, 2):
        await http.put(PATH, params={"wait": 1}, json={"version": version})
    answer = (await http.post(f"{PATH}/rollback", json={"reason": "worse"}, params={"wait": 1})).json()
    assert (answer["action"], answer["arms"][0]["version"], answer["reason"]) == ("rollback", 1, "worse")
    history = (await http.get(f"{PATH}/history")).json()["items"]
    assert [(one["number"], one["action"]) for one in history] == [(1, "deploy"), (2, "deploy"), (3, "rollback")]
    assert (await http.post(f"{PATH}/rollback")).status_code == 409


async def test_a_deployment_says_what_runs_of_it(http: httpx.AsyncClient, filled: Registry) -> None:
    await http.put(PATH, params={"wait": 1}, json={"version": 1})
    one = (await http.get(PATH)).json()
    assert (one["live"]["state"], one["live"]["version"], len(one["live"]["workers"])) == ("READY", 1, 1)
    (listed,) = (await http.get("/api/deployments")).json()["items"]
    assert listed["id"] == one["id"]
    status = (await http.get("/api/status")).json()
    assert status["models"]["scale"] == one["live"]


async def test_a_prediction_s_id_leads_to_the_bytes(http: httpx.AsyncClient, filled: Registry) -> None:
    revision = (await http.put(PATH, params={"wait": 1}, json={"version": 1})).json()
    prediction_id = ids.encode(PredictionId(1_700_000_000_000, revision["id"], 0, 3, 1))
    lineage = (await http.get(f"/api/predictions/{prediction_id.lower()}")).json()
    assert (lineage["prediction_id"], lineage["gateway"], lineage["version"]) == (prediction_id, 3, 1)
    assert lineage["artifact_digest"] == filled.get_model_version("scale", 1).digest
    assert lineage["at"].startswith("2023-11-14T22:13:20")
