"""Profiles over HTTP: begun, followed, kept."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest

from seaway.api import profiles
from seaway.errors import InferenceFailed
from seaway.registry import Registry
from seaway.serving.profile import Progress
from seaway.testing import FakeOperations
from seaway.types import Calibration

PATH = "/api/models/scale/versions/1/profile"
CURVES = {
    "load_seconds": 0.1, "memory_bytes": 1, "peak_memory_bytes": 2,
    "rows": [{"rows": 1, "prepare_us": 1.0, "run_us": 2.0, "encode_us": 3.0}],
    "lengths": [], "engines": [{"engines": 1, "requests_per_second": 9.0}], "threads": [{"threads": 1, "run_us": 2.0}],
    "rewritten": False,
}  # fmt: skip


class Measuring:
    """Stands in for the throw-away process: holds still until told how it ends."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.outcome: Any = CURVES
        self.asked: list[dict[str, Any]] = []

    def __call__(self, directory: object, *, progress: Progress, **limits: Any) -> Any:
        self.asked.append(limits)
        progress.step, progress.done = "4 rows", 0.25
        self.begun.set()
        assert self.go_on.wait(30)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Measuring:
    one = Measuring()
    monkeypatch.setattr(profiles, "profile_package", one)
    return one


async def ended(http: httpx.AsyncClient, path: str = PATH) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            found: dict[str, Any] = (await http.get(path)).json()
            if found["state"] != "running":
                return found
            await asyncio.sleep(0.005)


async def test_a_profile_is_begun_followed_and_kept(
    http: httpx.AsyncClient, filled: Registry, measuring: Measuring
) -> None:
    assert (await http.get(PATH)).status_code == 404
    begun = (await http.post(PATH, headers={"Seaway-Actor": "ada"})).json()
    assert (begun["state"], begun["model"], begun["version"], begun["result"]) == ("running", "scale", 1, None)
    assert await asyncio.to_thread(measuring.begun.wait, 30)
    running = (await http.get(PATH)).json()
    assert (running["state"], running["step"], running["progress"]) == ("running", "4 rows", 0.25)
    assert (await http.post(PATH)).json()["state"] == "running"

    measuring.go_on.set()

    done = await ended(http)
    assert (done["state"], done["progress"], done["result"]["curves"]) == ("done", 1.0, CURVES)
    assert done["result"]["created_by"] == "ada"
    assert filled.find_profile(done["digest"]) is not None
    assert len(measuring.asked) == 1
    assert measuring.asked[0]["memory_bytes"] == 2 << 30


async def test_another_version_waits_its_turn(http: httpx.AsyncClient, filled: Registry, measuring: Measuring) -> None:
    await http.post(PATH)
    refused = await http.post("/api/models/scale/versions/2/profile")
    assert (refused.status_code, "Version 1 of scale is being profiled" in refused.json()["error"]) == (409, True)
    measuring.go_on.set()
    await ended(http)
    assert (await http.post("/api/models/scale/versions/2/profile")).status_code == 200
    await ended(http, "/api/models/scale/versions/2/profile")


async def test_a_failure_is_told_and_an_older_result_stays(
    http: httpx.AsyncClient, filled: Registry, measuring: Measuring
) -> None:
    measuring.go_on.set()
    await http.post(PATH)
    before = (await ended(http))["result"]
    measuring.outcome = InferenceFailed("It fell over.")
    await http.post(PATH)
    failed = await ended(http)
    assert (failed["state"], failed["reason"], failed["result"]) == ("failed", "It fell over.", before)


async def test_what_was_not_foreseen_ends_it_too(
    http: httpx.AsyncClient, filled: Registry, measuring: Measuring
) -> None:
    measuring.outcome = OSError("no more processes")
    measuring.go_on.set()
    await http.post(PATH)
    assert (await ended(http))["reason"] == "Profiling failed: OSError."


async def test_a_changed_artifact_is_not_opened(
    http: httpx.AsyncClient, filled: Registry, measuring: Measuring
) -> None:
    package = filled.artifacts.path(filled.get_model_version("scale", 1).digest)
    (package / "model.onnx").write_bytes(b"two")
    await http.post(PATH)
    assert "model.onnx" in (await ended(http))["reason"]
    assert measuring.asked == []


@pytest.mark.parametrize("path", ["nobody/versions/1", "scale/versions/9", "scale/versions/champion"])
async def test_what_is_not_registered_is_not_profiled(path: str, http: httpx.AsyncClient, filled: Registry) -> None:
    for method in ("POST", "GET"):
        assert (await http.request(method, f"/api/models/{path}/profile")).status_code == 404


async def test_what_batches_cost_is_shown_of_a_version_that_was_never_profiled(
    http: httpx.AsyncClient, filled: Registry
) -> None:
    digest = filled.get_model_version("scale", 1).digest
    curve = ((1, 8, 0.002, 10), (32, 8, -1.0, 20))
    filled.add_calibration(
        digest, Calibration(1, 2, 3, 0.1, 5, (), True, "there", curve=curve, device="cpu"), actor="control"
    )

    found = (await http.get(PATH)).json()

    assert (found["state"], found["result"]) == ("done", None)
    assert found["batches"] == {
        "machine": "there", "device": "cpu", "dtype": "fp32", "max_difference": None, "min_cosine": None,
        "points": [
            {"rows": 1, "tokens": 8, "run_us": 2000.0, "memory_bytes": 10},
            {"rows": 32, "tokens": 8, "run_us": None, "memory_bytes": 20},
        ],
    }  # fmt: skip


async def test_of_several_measurements_of_batches_the_deployed_one_is_shown(
    http: httpx.AsyncClient, filled: Registry, operations: FakeOperations
) -> None:
    digest = filled.get_model_version("scale", 1).digest
    for dtype in ("fp16", "fp32"):
        measured = Calibration(1, 2, 3, 0.1, 5, (), True, f"here, {dtype}", curve=((1, 8, 0.002, 10),), dtype=dtype)
        filled.add_calibration(digest, measured, actor="control")

    assert (await http.get(PATH)).json()["batches"]["dtype"] == "fp32"
    operations.measured["scale"] = (digest, "here, fp16")
    assert (await http.get(PATH)).json()["batches"]["dtype"] == "fp16"
