"""Registering models: tried before they are kept, kept once, or not at all."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from seaway.api.pickles import is_pickle, refuse_pickles
from seaway.errors import InvalidPackage
from seaway.registry import Registry
from support.graphs import zipmap
from support.registering import add_dataset
from support.tiny import endless_model, external_data_model, scale_model, unknown_operator_model

LeftBehind = Callable[[], list[Path]]
PATH = "/api/models/scale/versions"


class Runs:
    """What an attacker pickles."""

    def __reduce__(self) -> Any:
        return print, ("run",)


async def register(
    http: httpx.AsyncClient, *files: tuple[str, bytes], path: str = PATH, **fields: str
) -> httpx.Response:
    return await http.post(
        path, files=[("files", file) for file in files], data=fields, headers={"Seaway-Actor": "ada"}
    )


def zipped(*files: tuple[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return packed.getvalue()


def tarred(*files: tuple[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


async def test_a_model_is_registered_with_what_was_found_in_it(http: httpx.AsyncClient, registry: Registry) -> None:
    answer = await register(http, ("model.onnx", scale_model(2)), description="doubles")

    assert answer.status_code == 201, answer.text
    version = answer.json()
    assert (version["model"], version["version"], version["created_by"]) == ("scale", 1, "ada")
    assert version["signature"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert version["spec"]["runtime"] == version["runtime"] == "onnx"
    assert [file["path"] for file in version["files"]] == ["model.onnx"]
    for known_as in ("1", "champion"):
        await http.put("/api/models/scale/aliases/champion", json={"version": 1})
        assert (await http.get(f"{PATH}/{known_as}")).json() == version
    (listed,) = (await http.get("/api/models")).json()["items"]
    assert listed == {
        "name": "scale", "description": "doubles", "newest": 1, "n_versions": 1, "aliases": {"champion": 1},
    }  # fmt: skip


async def test_an_output_that_is_no_tensor_is_said_to_be_left_out(http: httpx.AsyncClient) -> None:
    answer = await register(http, ("model.onnx", zipmap()))

    version = answer.json()
    assert answer.status_code == 201, answer.text
    assert version["signature"]["left_out"] == [
        {"name": "output_probability", "why": "no tensor; export with zipmap=False to have it"}
    ]
    assert (await register(http, ("model.onnx", zipmap()))).json() == version
    assert (await http.get(f"{PATH}/1")).json() == version


@pytest.mark.parametrize("name", ["seaway.yml", "Seaway.yaml", "SEAWAY.YML"])
async def test_a_description_that_nobody_would_read_is_refused(
    http: httpx.AsyncClient, left_behind: LeftBehind, name: str
) -> None:
    answer = await register(http, ("model.onnx", scale_model(2)), (name, b"description: doubles\n"))

    assert answer.status_code == 400
    assert answer.json()["error"] == (f"The package has {name}; its description is read from seaway.yaml: rename it.")
    assert left_behind() == []


async def test_the_same_bytes_are_the_same_version_however_they_come(http: httpx.AsyncClient) -> None:
    files = [("model.onnx", scale_model(2)), ("seaway.yaml", b"description: doubles\n")]
    first = await register(http, *files)
    folder = [(f"package/{name}", content) for name, content in files]
    again = [
        await register(http, *reversed(files)),
        await register(http, ("package.zip", zipped(*files))),
        await register(http, ("package.zip", zipped(*folder))),
        await register(http, ("package.tar.gz", tarred(*folder))),
    ]
    assert (first.status_code, [answer.status_code for answer in again]) == (201, [200] * 4)
    assert all(answer.json() == first.json() for answer in again)


async def test_known_bytes_are_not_tried_again(
    http: httpx.AsyncClient, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(http, ("model.onnx", scale_model(2)))

    def try_it(*_: object, **__: object) -> None:
        raise AssertionError("these bytes are known")

    monkeypatch.setattr("seaway.api.models.inspect_package", try_it)
    assert (await register(http, ("model.onnx", scale_model(2)))).status_code == 200


async def test_a_version_is_linked_to_the_experiment_that_gave_it(http: httpx.AsyncClient, registry: Registry) -> None:
    add_dataset(registry, b"rows")
    parts = {"dataset": "rows", "model": "scale", "architecture": "linear", "hyper_parameters": {"factor": 2}}
    made = await http.post("/api/experiments", json=parts)
    again = await http.post("/api/experiments", json=parts)
    assert (made.status_code, again.status_code, again.json()) == (201, 200, made.json())
    experiment_id = made.json()["experiment_id"]

    about = {"experiment_id": experiment_id, "metrics": json.dumps({"error": 0.25})}
    answer = await register(http, ("model.onnx", scale_model(2)), **about)

    assert (answer.status_code, answer.json()["experiment_id"]) == (201, experiment_id)
    (trained,) = (await http.get(f"/api/experiments/{experiment_id}")).json()["trained"]
    assert (trained["version"], trained["metrics"]) == (1, {"error": 0.25})


async def test_known_bytes_may_still_get_an_experiment(http: httpx.AsyncClient, registry: Registry) -> None:
    add_dataset(registry, b"rows")
    await register(http, ("model.onnx", scale_model(2)))
    parts = {"dataset": "rows", "model": "scale", "architecture": "linear"}
    experiment_id = (await http.post("/api/experiments", json=parts)).json()["experiment_id"]
    answer = await register(http, ("model.onnx", scale_model(2)), experiment_id=experiment_id)
    assert (answer.status_code, answer.json()["experiment_id"]) == (200, experiment_id)


async def test_metrics_of_known_bytes_need_their_experiment_too(http: httpx.AsyncClient) -> None:
    await register(http, ("model.onnx", scale_model(2)))
    answer = await register(http, ("model.onnx", scale_model(2)), metrics='{"error": 0.25}')
    assert (answer.status_code, "send experiment_id too" in answer.json()["error"]) == (400, True)


BAD = [
    ("no model", [("notes.txt", b"hello")], {}, 400, "onnx"),
    ("no ONNX", [("model.onnx", b"hello")], {}, 400, "ONNX"),
    ("an empty file", [("model.onnx", b"")], {}, 400, "model.onnx"),
    ("an unknown operator", [("model.onnx", unknown_operator_model())], {}, 400, "Teleport"),
    ("weights elsewhere", [("model.onnx", external_data_model("../secret"))], {}, 400, "model.onnx"),
    ("two models", [("a.onnx", scale_model(2)), ("b.onnx", scale_model(3))], {}, 400, "onnx"),
    ("a wrong seaway.yaml", [("model.onnx", scale_model(2)), ("seaway.yaml", b"color: red\n")], {}, 400, "color"),
    ("wrong known answers",
     [("model.onnx", scale_model(2)), ("seaway.yaml", b"known_answers: k.json\n"),
      ("k.json", b'[{"inputs": [1, 2, 3], "outputs": [9, 9, 9]}]')], {}, 400, "answer"),
    ("an experiment that is none", [("model.onnx", scale_model(2))], {"experiment_id": "f" * 32}, 404, "experiment"),
    ("metrics of no experiment", [("model.onnx", scale_model(2))], {"metrics": '{"a": 1}'}, 400, "experiment_id"),
    ("deep metrics", [("model.onnx", scale_model(2))], {"metrics": '{"a":' * 300 + "1" + "}" * 300}, 400,
     '"metrics" is nested too deeply: expected at most 32 levels'),
    ("a NUL in seaway.yaml", [("model.onnx", scale_model(2)), ("seaway.yaml", b'description: "a\\0b"\n')], {}, 400,
     "seaway.yaml is not valid YAML (line 1): text must be Unicode without NUL"),
    ("engines without number", [("model.onnx", scale_model(2)), ("seaway.yaml", b"serving: {engines: 2000}\n")], {},
     400, "'serving.engines' must be a whole number, at most 1024, not"),
    ("metrics that are no JSON", [("model.onnx", scale_model(2))], {"metrics": "0.9"}, 400, "metrics"),
    ("an archive that is none", [("package.zip", b"hello")], {}, 400, "archive"),
    ("half an archive", [("package.tar.gz", tarred(("model.onnx", scale_model(2)))[:60])], {}, 400, "archive"),
    ("an archive that leads out", [("package.zip", zipped(("../model.onnx", scale_model(2))))], {}, 400, "relative"),
    ("a bomb", [("package.zip", zipped(("model.onnx", b" " * (2 << 20))))], {}, 413, "unpacks"),
]  # fmt: skip
HARMFUL = {
    **{f"protocol {protocol}": pickle.dumps([Runs()], protocol) for protocol in range(6)},
    "zlib": zlib.compress(pickle.dumps(Runs())),
    "gzip": gzip.compress(pickle.dumps(Runs(), 0)),
    "bzip2": bz2.compress(pickle.dumps(Runs())),
    "xz": lzma.compress(pickle.dumps(Runs())),
    "lzma": lzma.compress(pickle.dumps(Runs()), format=lzma.FORMAT_ALONE),
}


@pytest.mark.parametrize(
    ("files", "fields", "status", "says"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
async def test_a_bad_package_is_refused_and_leaves_nothing(
    files: list[tuple[str, bytes]], fields: dict[str, str], status: int, says: str,
    http: httpx.AsyncClient, registry: Registry, left_behind: LeftBehind, tmp_path: Path,
) -> None:  # fmt: skip
    answer = await register(http, *files, **fields)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    assert says in answer.json()["error"]
    assert str(tmp_path) not in answer.text
    assert registry.list_models().items == ()
    assert left_behind() == []


@pytest.mark.parametrize("settings", [{"inspect_seconds": 3}], indirect=True)
async def test_a_model_that_never_ends_is_refused(
    http: httpx.AsyncClient, registry: Registry, left_behind: LeftBehind
) -> None:
    # The known answer sets the loop going; nothing but the time limit ends it.
    answers = b'[{"inputs": {"go": [true], "x": [1.0]}, "outputs": [1.0]}]'
    files = [("model.onnx", endless_model()), ("seaway.yaml", b"known_answers: k.json\n"), ("k.json", answers)]
    answer = await register(http, *files)
    assert answer.status_code == 400, answer.text
    assert "more than 3 s" in answer.json()["error"]
    assert registry.list_models().items == ()
    assert left_behind() == []


@pytest.mark.parametrize("kind", HARMFUL)
def test_what_runs_code_on_load_is_recognised(kind: str) -> None:
    assert is_pickle(HARMFUL[kind])


@pytest.mark.parametrize("protocol", [0, 1])
def test_a_call_late_in_a_file_and_bytes_after_its_end_hide_nothing(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(pickle.dumps([list(range(100_000)), Runs()], protocol) + b"more")
    with pytest.raises(InvalidPackage, match=r"'notes\.txt' is a pickle"):
        refuse_pickles(tmp_path)


def test_more_opcodes_than_are_followed_count_as_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"N0" * 600_000)
    with pytest.raises(InvalidPackage, match=r"'notes\.txt' is a pickle"):
        refuse_pickles(tmp_path)


def test_numpy_s_objects_are_pickles_and_its_numbers_are_not() -> None:
    for array, harmful in ((np.array([Runs()], dtype=object), True), (np.ones(3), False)):
        saved = io.BytesIO()
        np.save(saved, array, allow_pickle=True)
        assert is_pickle(saved.getvalue()) is harmful


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"cat\ndog\n", b"cat\ndog\n" * 9999, b"N.", b"x", b"\x1f\x8b", b"BZh", scale_model(2),
        # These begin with opcodes: an import, an instance, a call of nothing, text, plain values.
        b"country,capital\nFrance,Paris\n.", b"(in short\na note\n.", b"cat\ndog\nRat\n.", b"code\nP1\nP2\n.",
        b"V1\nV2\n.", pickle.dumps({"a": [1, 2.5, None]}, 0), pickle.dumps({"a": [1, 2.5, None]}, 1),
    ],
)  # fmt: skip
def test_what_is_harmless_is_not_taken_for_a_pickle(content: bytes) -> None:
    assert not is_pickle(content)


def test_weights_that_begin_as_a_pickle_does_are_numbers(tmp_path: Path) -> None:
    header = b'{"__metadata__":{"a":"' + b"x" * 615 + b'"}}'
    header += b" " * (0x280 - len(header))
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("model/data/weights/weight_0", b"\x80\x02" + bytes(6))
    assert (tmp_path / "model.safetensors").read_bytes()[:2] == b"\x80\x02"

    refuse_pickles(tmp_path)

    (tmp_path / "model.safetensors").rename(tmp_path / "weights.data")
    with pytest.raises(InvalidPackage, match=r"'weights\.data' is a pickle"):
        refuse_pickles(tmp_path)


def test_a_pickle_that_is_called_safetensors_is_not_told_to_be_there_besides(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(InvalidPackage, match="save the weights as safetensors"):
        refuse_pickles(tmp_path)
    (tmp_path / "old.bin").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(InvalidPackage, match=r"'model\.safetensors' is a pickle.*save the weights"):
        refuse_pickles(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.onnx", HARMFUL["protocol 4"]), ("model.onnx", HARMFUL["protocol 0"]), ("weights.joblib", b"anything"),
        ("weights.bin", HARMFUL["zlib"]), ("extra/model.pt", zipped(("archive/data.pkl", b"x"))),
        ("model.onnx", scale_model(2) + zipped(("x", HARMFUL["protocol 2"]))),
        ("notes.txt", zipped(("innocent.txt", HARMFUL["protocol 5"]))),
    ],
)  # fmt: skip
async def test_a_package_with_a_pickle_anywhere_is_refused_unopened(
    name: str, content: bytes, http: httpx.AsyncClient, left_behind: LeftBehind, monkeypatch: pytest.MonkeyPatch
) -> None:
    def try_it(*_: object, **__: object) -> None:
        raise AssertionError("it must not be opened")

    monkeypatch.setattr("seaway.api.models.inspect_package", try_it)
    answer = await register(http, (name, content), ("other.txt", b"harmless"))
    assert answer.status_code == 400, answer.text
    assert "pickle" in answer.json()["error"]
    assert left_behind() == []


async def test_a_dataset_is_only_bytes(http: httpx.AsyncClient, registry: Registry) -> None:
    path = "/api/datasets/rows/versions"
    files = ("rows.pkl", HARMFUL["protocol 4"]), ("more/rows.zip", zipped(("../x", b"x")))
    answer = await register(http, *files, path=path, source='{"query": "select 1"}')
    assert answer.status_code == 201, answer.text
    version = answer.json()
    assert (version["version"], version["source"]) == (1, {"query": "select 1"})
    assert [file["path"] for file in version["files"]] == ["more/rows.zip", "rows.pkl"]
    assert (await register(http, *files, path=path)).status_code == 200
    assert (await http.get(f"{path}/1")).json() == version
    assert (await http.get("/api/datasets/rows")).json() == {"name": "rows", "versions": [version]}
