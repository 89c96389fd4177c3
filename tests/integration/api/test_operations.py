"""Lists, logs, metrics, audit, and the description of it all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from seaway import __version__
from seaway.registry import Registry
from seaway.testing import FakeOperations
from support.registering import add_dataset, add_model

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "api.md"
CONTROLS = ("/api/", "/v2/repository/", "/metrics")


@pytest.mark.parametrize("path", ["/api/models", "/api/datasets", "/api/audit"])
async def test_pages_follow_each_other_without_gap(path: str, http: httpx.AsyncClient, registry: Registry) -> None:
    for number in range(5):
        add_model(registry, b"x", model=f"m{number}")
        add_dataset(registry, b"x", dataset=f"d{number}")
    whole = (await http.get(path)).json()
    assert whole["next_cursor"] is None
    pages: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await http.get(path, params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        assert len(page["items"]) <= 2
        pages += page["items"]
        cursor = page["next_cursor"]
    assert pages == whole["items"]


async def test_logs_are_the_newest_of_a_model(http: httpx.AsyncClient, operations: FakeOperations) -> None:
    operations.log_lines = [json.dumps({"model": model, "n": n}) for n in range(3) for model in ("a", "b")]
    lines = (await http.get("/api/logs", params={"model": "a", "lines": 2})).json()["lines"]
    assert [json.loads(line) for line in lines] == [{"model": "a", "n": 1}, {"model": "a", "n": 2}]


async def test_metrics_are_prometheus_text(http: httpx.AsyncClient, operations: FakeOperations) -> None:
    operations.metrics = b"seaway_up 1\n"
    answer = await http.get("/metrics")
    assert (answer.status_code, answer.text) == (200, "seaway_up 1\n")
    assert answer.headers["content-type"].startswith("text/plain; version=")


async def test_the_status_names_the_release(http: httpx.AsyncClient) -> None:
    status = (await http.get("/api/status")).json()
    assert (status["version"], status["models"], status["generation"]) == (__version__, {}, 1)


async def test_the_description_says_of_every_route_what_it_answers(http: httpx.AsyncClient) -> None:
    described = (await http.get("/openapi.json")).json()
    assert "/predict/{model}" in described["paths"]
    names = set(described["components"]["schemas"])
    assert set(re.findall(r"#/components/schemas/([\w\-]+)", json.dumps(described))) <= names
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert "422" not in operation["responses"]
            assert operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
            if path.startswith(CONTROLS) and path != "/metrics":
                content = operation["responses"]["201" if "201" in operation["responses"] else "200"]["content"]
                assert content["application/json"]["schema"] != {}, (method, path)


async def test_the_reference_names_every_route_and_no_other(http: httpx.AsyncClient) -> None:
    described = (await http.get("/openapi.json")).json()["paths"]
    routes = {
        f"{method.upper()} {path}"
        for path, operations in described.items()
        for method in operations
        if path.startswith(CONTROLS)
    }
    assert set(re.findall(r"^### `([A-Z]+ /[^`]+)`$", PAGE.read_text(), re.MULTILINE)) == routes


async def test_the_reference_s_answers_have_the_keys_of_the_schemas(http: httpx.AsyncClient) -> None:
    described = (await http.get("/openapi.json")).json()
    checked = 0
    for route, text in re.findall(r"^### `([^`]+)`$(.*?)(?=^##|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        method, path = route.split()
        responses = described["paths"][path][method.lower()]["responses"]
        for block in re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            answer = json.loads(block)
            schema = responses["201" if "201" in responses else "200"]["content"]["application/json"]["schema"]
            _compare(answer, schema, described["components"]["schemas"], route)
            checked += 1
    assert checked > 20


def _compare(value: Any, schema: dict[str, Any], schemas: dict[str, Any], place: str) -> None:
    """Every described key is there, at any depth; extra keys only where a schema allows them."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in schema:
        schema = next(one for one in schema["anyOf"] if (one.get("type") == "null") == (value is None))
        _compare(value, schema, schemas, place)
    elif schema.get("type") == "array":
        for item in value:
            _compare(item, schema["items"], schemas, place)
    elif "properties" in schema:
        assert set(schema.get("required", [])) <= set(value), place
        assert schema.get("additionalProperties") or set(value) <= set(schema["properties"]), place
        for name in schema.get("required", []):
            _compare(value[name], schema["properties"][name], schemas, f"{place} {name}")
