"""Aliases: what a name means now, what it meant then."""

from __future__ import annotations

import httpx

from seaway.registry import Registry

PATH = "/api/models/scale/aliases"


async def test_an_alias_is_set_moved_and_taken_away_and_remembers(http: httpx.AsyncClient, filled: Registry) -> None:
    for version in (1, 2):
        answer = await http.put(f"{PATH}/champion", json={"version": version, "reason": f"v{version}"})
        assert (answer.status_code, answer.json()["version"]) == (200, version)
    assert [alias["name"] for alias in (await http.get(PATH)).json()["items"]] == ["champion"]
    removed = await http.delete(f"{PATH}/champion")
    assert removed.json() == {"model": "scale", "name": "champion", "version": None}

    history = (await http.get(f"{PATH}/champion/history")).json()["items"]

    assert [(event["from_version"], event["to_version"]) for event in history] == [(None, 1), (1, 2), (2, None)]
    assert (await http.get(f"{PATH}/champion")).status_code == 404
    assert (await http.delete(f"{PATH}/champion")).status_code == 404
    then = history[1]["at"]
    meant = await http.get(f"{PATH}/champion", params={"at": then})
    assert meant.json() == {"model": "scale", "name": "champion", "version": 2}
    before = await http.get(f"{PATH}/champion", params={"at": "2001-01-01"})
    assert before.status_code == 404


async def test_an_alias_needs_a_version_that_exists(http: httpx.AsyncClient, filled: Registry) -> None:
    assert (await http.put(f"{PATH}/champion", json={"version": 3})).status_code == 404
    assert (await http.get(PATH)).json()["items"] == []
