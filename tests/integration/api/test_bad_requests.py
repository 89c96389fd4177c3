"""Whatever a caller puts into a path, a query, a header or a JSON body gets a sentence and changes nothing."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from seaway.registry import Registry
from seaway.serving import ids
from seaway.serving.ids import PredictionId

DEPLOY, ALIAS, EXPERIMENT = "/api/deployments/scale", "/api/models/scale/aliases/champion", "/api/experiments"
PARTS = {"dataset": "rows", "model": "scale", "architecture": "linear"}


def deep(levels: int) -> Any:
    return {"a": deep(levels - 1)} if levels else 1


HOSTILE_NAMES = [
    "..", ".", "...", "a/../b", "%2e%2e", " ", "a b", "-a", "_a", "a\x00b", "a\nb", "a\r\nb", "ä", "\uff41", "a" * 129,
    "a;b", "$(id)", "`id`", "{{7*7}}", "a'b", 'a"b', "a\\b", "a*", "<b>", "%s%n", "a:b", "a@b", "a+b", "a,b",
]  # fmt: skip
BODIES: list[tuple[str, str, str, Any, str]] = [
    ("an unknown key", "PUT", DEPLOY, {"version": 1, "replicas": 2}, '"replicas" is not known'),
    ("a key of the registry's own", "PUT", DEPLOY, {"created_by": "eve"}, '"created_by" is not known'),
    ("a version that is true", "PUT", DEPLOY, {"version": True}, '"version": expected a version number'),
    ("a version in parts", "PUT", DEPLOY, {"version": 1.5},
     '"version": expected a version number, an alias, or null for the newest, got 1.5'),
    ("a version of zero", "PUT", DEPLOY, {"version": 0}, '"version": expected a version number'),
    ("a negative version", "PUT", DEPLOY, {"version": -1}, '"version": expected a version number'),
    ("a version beyond any database", "PUT", DEPLOY, {"version": 10**30}, '"version": expected a version number'),
    ("a version that is a list", "PUT", DEPLOY, {"version": [1]}, '"version": expected a version number'),
    ("an alias that is a path", "PUT", DEPLOY, {"version": "../1"}, '"version": expected a version number'),
    ("a key with a slip", "PUT", DEPLOY, {"versoin": 1}, "\"versoin\" is not known here; did you mean 'version'?"),
    ("a device that is none", "PUT", DEPLOY, {"device": "gpu"},
     "\"device\": expected auto, cpu, cuda or cuda:N, got 'gpu'."),
    ("no engines", "PUT", DEPLOY, {"engines": 0}, '"engines": expected at least 1, got 0'),
    ("too many engines", "PUT", DEPLOY, {"engines": 5000}, '"engines": expected at most 1024'),
    ("no placement", "PUT", DEPLOY, {"placement": "moon"}, "expected 'auto', 'inline' or 'worker', got 'moon'"),
    ("engines in words", "PUT", DEPLOY, {"engines": "2"}, "\"engines\": expected an integer, got '2'"),
    ("no time", "PUT", DEPLOY, {"timeout_seconds": 0}, '"timeout_seconds": expected more than 0, got 0'),
    ("time without end", "PUT", DEPLOY, b'{"timeout_seconds": Infinity}',
     '"timeout_seconds": expected a finite number'),
    ("a number out of range", "PUT", DEPLOY, b'{"timeout_seconds": 1e999}',
     '"timeout_seconds": expected a finite number'),
    ("a queue of nothing", "PUT", DEPLOY, {"max_queue_size": 0}, '"max_queue_size": expected at least 1'),
    ("a long reason", "PUT", DEPLOY, {"reason": "x" * 2001},
     '"reason": expected at most 2000 characters, got 2001 characters'),
    ("a reason that is none", "PUT", DEPLOY, {"reason": None}, '"reason": expected text, got null'),
    ("NUL", "PUT", DEPLOY, {"reason": "a\x00b"}, '"reason" holds a NUL'),
    ("half a surrogate pair", "PUT", DEPLOY, b'{"reason": "\\ud800"}',
     '"reason" holds a NUL or half of a surrogate pair'),
    ("half a pair in a key", "POST", EXPERIMENT, b'{"hyper_parameters": {"\\udc00": 1}}',
     '"hyper_parameters": a key holds a NUL or half of a surrogate pair'),
    ("bytes that are no UTF-8", "PUT", DEPLOY, b'{"reason": "\xff"}', "not valid JSON"),
    ("a key twice", "PUT", DEPLOY, b'{"version": 1, "version": 2}', "'version' is there twice"),
    ("a list", "PUT", DEPLOY, [1], "The body: expected an object, got a list"),
    ("text", "PUT", DEPLOY, b"hello", "not valid JSON"),
    ("half a body", "PUT", DEPLOY, b'{"version":', "not valid JSON"),
    ("two bodies", "PUT", DEPLOY, b"{}{}", "not valid JSON"),
    ("deep nesting", "PUT", DEPLOY, b'{"version":' + b"[" * 100_000, "at most 32 levels"),
    ("deep parameters", "POST", EXPERIMENT, PARTS | {"hyper_parameters": deep(33)},
     '"hyper_parameters" is nested too deeply: expected at most 32 levels'),
    ("parameters too deep for any reader", "POST", EXPERIMENT, b'{"hyper_parameters": ' + b"[" * 9999, "32 levels"),
    ("no version for an alias", "PUT", ALIAS, {}, '"version" is missing'),
    ("an alias for an alias", "PUT", ALIAS, {"version": "other"}, '"version": expected an integer'),
    ("an alias for no version", "PUT", ALIAS, {"version": 2**63}, '"version": expected at most'),
    ("an alias in digits", "PUT", "/api/models/scale/aliases/12", {"version": 1}, "alias"),
    ("an experiment of nothing", "POST", EXPERIMENT, {}, '"dataset" is missing'),
    ("no architecture", "POST", EXPERIMENT, PARTS | {"architecture": ""}, '"architecture": expected at least 1'),
    ("parameters that are a list", "POST", EXPERIMENT, PARTS | {"hyper_parameters": []}, "expected an object"),
    ("NaN among parameters", "POST", EXPERIMENT, b'{"hyper_parameters": {"rate": [1, NaN]}}',
     '"hyper_parameters.rate.1": expected a finite number'),
    ("a dataset that is a path", "POST", EXPERIMENT, PARTS | {"dataset": "../rows"}, '"dataset": expected 1 to 128'),
    ("a dataset that is a number", "POST", EXPERIMENT, PARTS | {"dataset": 3}, '"dataset": expected text, got 3'),
    ("an id of one's own", "POST", EXPERIMENT, PARTS | {"experiment_id": "x"}, '"experiment_id" is not known'),
    ("a model sent with load", "POST", "/v2/repository/models/scale/load",
     {"parameters": {"config": "{}", "file:1/model.onnx": "AAAA"}}, "register it"),
    ("an unknown parameter of load", "POST", "/v2/repository/models/scale/load", {"parameters": {"x": 1}}, "x"),
    ("a version of load in parts", "POST", "/v2/repository/models/scale/load",
     {"parameters": {"version": 1.5}}, '"parameters.version": expected a version number'),
    ("ready in words", "POST", "/v2/repository/index", {"ready": "yes"}, '"ready": expected true or false'),
]  # fmt: skip
QUERIES = [
    ("/api/models?limit=0", '"limit": expected at least 1'),
    ("/api/models?limit=1001", '"limit": expected at most 1000'),
    ("/api/models?limit=x", '"limit": expected an integer'),
    ("/api/models?cursor=%00", '"cursor"'),
    ("/api/audit?cursor=x", '"cursor"'),
    ("/api/audit?cursor=%C2%B2", '"cursor"'),
    ("/api/audit?cursor=99999999999999999999999", '"cursor"'),
    ("/api/logs?lines=0", '"lines": expected at least 1'),
    ("/api/logs?lines=99999999999", '"lines": expected at most'),
    ("/api/logs?model=a%0Ab", '"model"'),
    ("/api/experiments?model=..", '"model"'),
    ("/api/datasets/rows/versions/0", '"version": expected at least 1'),
    ("/api/datasets/rows/versions/one", '"version": expected an integer'),
    ("/api/datasets/rows/versions/99999999999999999999", '"version": expected at most'),
    (
        "/api/models/scale/aliases/champion?at=yesterday",
        "\"at\": expected a time such as 2026-01-31T12:00:00Z, got 'yesterday'",
    ),
    ("/api/models/scale/aliases/champion?at=0001-01-01T00:00:00%2B23:59", '"at"'),
    ("/api/predictions/short", "prediction id"),
    ("/api/predictions/" + "U" * 26, "prediction id"),
    ("/api/predictions/" + "Z" * 26, "prediction id"),
    ("/api/predictions/" + ids.encode(PredictionId(2**48 - 1, 1, 0, 0, 0)), "prediction id"),
]
UNKNOWN = [
    "/api/models/nobody", "/api/models/nobody/versions/1", "/api/models/scale/versions/3",
    "/api/models/scale/versions/nobody", "/api/models/scale/versions/" + "9" * 100, "/api/models/nobody/aliases",
    "/api/models/scale/aliases/nobody", "/api/models/scale/aliases/nobody/history", "/api/datasets/nobody",
    "/api/datasets/rows/versions/2", "/api/experiments/0123456789abcdef", "/api/deployments/nobody",
    "/api/deployments/scale", "/api/deployments/nobody/history",
    "/api/predictions/" + ids.encode(PredictionId(1, 2**32 - 1, 0, 0, 0)),
]  # fmt: skip


def everything(registry: Registry) -> Any:
    return (
        registry.list_models(), registry.list_datasets(), registry.list_experiments(), registry.desired(),
        registry.list_aliases("scale"), registry.audit(),
    )  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "says"), [case[1:] for case in BODIES], ids=[c[0] for c in BODIES])
async def test_a_bad_body_is_refused_by_name_and_changes_nothing(
    method: str, path: str, body: Any, says: str, http: httpx.AsyncClient, filled: Registry
) -> None:
    before = everything(filled)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    answer = await http.request(method, path, content=content)

    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]
    assert everything(filled) == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/models/{}"), ("GET", "/api/datasets/{}"), ("GET", "/api/deployments/{}"),
        ("GET", "/api/models/scale/versions/{}"), ("PUT", "/api/models/scale/aliases/{}"),
        ("PUT", "/api/deployments/{}"), ("POST", "/api/models/{}/versions"), ("POST", "/api/datasets/{}/versions"),
        ("POST", "/v2/repository/models/{}/load"), ("GET", "/api/experiments/{}"),
    ],
)  # fmt: skip
async def test_a_hostile_name_is_refused_wherever_it_stands(method: str, path: str, http: httpx.AsyncClient) -> None:
    for name in HOSTILE_NAMES:
        quoted = "".join(f"%{byte:02X}" for byte in name.encode())
        answer = await http.request(method, path.format(quoted), files={"files": ("model.onnx", b"x")})
        # A slash, however it is written, is between parts of the path: no route has them.
        assert (name, answer.status_code) == (name, 404 if "/" in name else 400)
        assert list(answer.json()) == ["error"]
        assert answer.json()["error"].isprintable()


@pytest.mark.parametrize(("path", "says"), QUERIES)
async def test_a_bad_parameter_is_refused_by_name(
    path: str, says: str, http: httpx.AsyncClient, filled: Registry
) -> None:
    answer = await http.get(path)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]


@pytest.mark.parametrize("path", UNKNOWN)
async def test_what_is_not_there_is_not_found(path: str, http: httpx.AsyncClient, filled: Registry) -> None:
    answer = await http.get(path)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


async def test_a_json_body_has_a_limit(http: httpx.AsyncClient) -> None:
    answer = await http.put(DEPLOY, content=b" " * ((1 << 20) + 1))
    assert (answer.status_code, "1048576" in answer.json()["error"]) == (413, True)


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_a_json_body_needs_no_content_type(
    content_type: str | None, http: httpx.AsyncClient, filled: Registry
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = await http.put(DEPLOY, content=b'{"version": 1}', headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("given", "kept"),
    [("ada", "ada"), (None, "anonymous"), ("  ", "anonymous"), ("a\tb", "ab"), ("x" * 999, "x" * 128)],
)
async def test_the_audit_log_has_a_clean_actor(
    given: str | None, kept: str, http: httpx.AsyncClient, filled: Registry
) -> None:
    headers = {} if given is None else {"Seaway-Actor": given}
    await http.put(ALIAS, json={"version": 1}, headers=headers)
    assert filled.audit(1).items[0].actor == kept
