"""Archives of torch.export: what they compute, and that none of them makes anything run but operators of the list."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support import torches
from torch import Tensor, nn

from seaway.errors import InvalidPackage, InvalidRequest, PayloadTooLarge
from seaway.packages import read_spec
from seaway.runtimes import identify, runtime
from seaway.runtimes.base import DeviceSession
from seaway.runtimes.torch_operators import IN_PLACE, OPERATORS

SCALE = torches.scale_archive()


def load(package: Path, content: bytes, spec: str = "", **options: Any) -> DeviceSession:
    package.mkdir(exist_ok=True)
    (package / "model.pt2").write_bytes(content)
    if spec:
        (package / "seaway.yaml").write_text(spec)
    found = identify(package, read_spec(package))
    return runtime("torch").load(package, found, threads=1, **options)


def run(session: DeviceSession, **feeds: Any) -> list[Any]:
    return session.run(feeds, [output.name for output in session.signature.outputs], None)


# --------------------------------------------------------------------------- what they compute


class Vision(nn.Module):
    """What vision models are made of, in place where they do that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.relu(self.norm(self.conv(x)))
        y += x
        best, where = y.flatten(2).max(2)
        first, second = torch.chunk(best, 2, 1)
        return self.head(nn.functional.dropout(torch.cat([second, first], 1), training=False)), where


class Sequence(nn.Module):
    """Attention, sizes that are computed with, dtypes and devices that are written down."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(11, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        where = torch.arange(ids.shape[1], device=ids.device).to(torch.float32) / (ids.shape[1] + 1)
        states = self.layer(self.table(ids) + where[None, :, None])
        return torch.einsum("btd,btd->bt", states, states).masked_fill(ids == 0, -1.0)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_vision_model_gives_torchs_own_answers(tmp_path: Path, rows: int) -> None:
    torch.manual_seed(0)
    model = Vision().eval()
    session = load(tmp_path, torches.archive(model, torch.rand(3, 1, 6, 6)))
    pictures = torch.rand(rows, 1, 6, 6)

    with torch.inference_mode():
        expected = [tensor.numpy() for tensor in model(pictures.clone())]

    given = pictures.numpy().copy()
    for one, other in zip(run(session, x=given), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_array_equal(given, pictures.numpy())
    assert [output.name for output in session.signature.outputs] == ["output_0", "output_1"]
    assert [output.datatype for output in session.signature.outputs] == ["FP32", "INT64"]


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (1, 9), (4, 3)])
def test_a_sequence_model_gives_torchs_own_answers(tmp_path: Path, rows: int, tokens: int) -> None:
    torch.manual_seed(0)
    model = Sequence().eval()
    more = {1: torch.export.Dim("tokens", max=9)}
    session = load(tmp_path, torches.archive(model, torch.ones(2, 5, dtype=torch.int64), more=more))
    ids = torch.randint(0, 11, (rows, tokens))

    with torch.inference_mode():
        expected = model(ids).numpy()

    np.testing.assert_allclose(run(session, ids=ids.numpy())[0], expected, atol=1e-5)


def test_what_a_table_lacks_and_too_long_a_sequence_are_refused(tmp_path: Path) -> None:
    more = {1: torch.export.Dim("tokens", max=9)}
    session = load(tmp_path, torches.archive(Sequence(), torch.ones(2, 5, dtype=torch.int64), more=more))

    with pytest.raises(InvalidRequest, match="'ids' holds 11; 0 to 10 are known"):
        session.check({"ids": np.array([[1, 11]])})
    with pytest.raises(PayloadTooLarge, match="'ids' has 10 in dimension 1; the model takes 9"):
        session.check({"ids": np.ones((1, 10), np.int64)})


def test_axes_that_belong_together_must_be_equal(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    session = load(tmp_path, torches.archive(Sum(), torch.zeros(2, 3), torch.zeros(2, 3)))

    with pytest.raises(InvalidRequest, match="'b' has 3 in dimension 0; 'a' has 2 of them"):
        run(session, a=np.zeros((2, 3), np.float32), b=np.zeros((3, 3), np.float32))


def test_outputs_have_the_models_names_or_those_that_are_declared(tmp_path: Path) -> None:
    assert [output.name for output in load(tmp_path, SCALE).signature.outputs] == ["y"]

    renamed = load(tmp_path, SCALE, "signature: {outputs: [{name: doubled}]}")

    assert renamed.signature.outputs[0].name == "doubled"
    assert run(renamed, x=np.ones((1, 3), np.float32))[0].tolist() == [[2, 2, 2]]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("signature: {outputs: [{name: a}, {name: b}]}", "signature.outputs: the model has 1; name each, or none"),
        ("signature: {inputs: [{name: a}]}", "signature.inputs: 'model.pt2' has its own"),
        ("signature: {output: []}", "unknown key 'signature.output'"),
        ("architecture: [{type: ReLU}]", "architecture: 'model.pt2' holds its own"),
    ],
)
def test_a_declaration_that_contradicts_the_archive_is_refused(tmp_path: Path, spec: str, why: str) -> None:
    with pytest.raises(InvalidPackage, match=why):
        load(tmp_path, SCALE, spec)


def test_bf16_is_computed_in_and_fp32_answered(tmp_path: Path) -> None:
    torch.manual_seed(0)
    content = torches.archive(Vision(), torch.rand(3, 1, 6, 6))
    pictures = np.random.default_rng(0).random((4, 1, 6, 6), np.float32)

    exact, rough = (load(tmp_path, content, dtype=dtype) for dtype in ("fp32", "bf16"))
    one, other = run(exact, x=pictures)[0], run(rough, x=pictures)[0]

    assert (rough.dtype, other.dtype) == ("bf16", np.float32)
    assert 0 < np.abs(one - other).max() < 0.05


def test_the_lists_of_operators_name_such_as_torch_has() -> None:
    unknown = [name for name in OPERATORS | IN_PLACE if not hasattr(torch.ops.aten, name)]
    assert unknown == []


# --------------------------------------------------------------------------- what they must not do


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    return tmp_path / "trap"


def refused(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(InvalidPackage) as caught:
        load(tmp_path / "package", content)
    assert str(tmp_path) not in str(caught.value)
    return str(caught.value)


def test_the_traps_of_these_tests_do_snap(trap: Path) -> None:
    torch.load(io.BytesIO(torches.pickled(trap)), weights_only=False)

    assert trap.exists()


def test_sample_inputs_that_run_code_are_refused(tmp_path: Path, trap: Path) -> None:
    for content in (torches.pickled(trap), torches.plain_pickle(trap), b"\x80\x02.", b"PK\x03\x04"):
        changed = torches.rewritten(
            SCALE, lambda name, data, content=content: (name, content if "sample_inputs" in name else data)
        )
        assert "could run code" in refused(tmp_path, changed)
    assert not trap.exists()


def test_a_script_among_the_sample_inputs_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as inner:
        inner.writestr("archive/data.pkl", b"\x80\x02]q\x00.")
        inner.writestr("archive/constants.pkl", b"\x80\x02].")
    changed = torches.rewritten(SCALE, lambda name, data: (name, file.getvalue() if "sample_inputs" in name else data))

    assert "holds more than tensors" in refused(tmp_path, changed)


def test_a_pickled_weight_is_refused(tmp_path: Path, trap: Path) -> None:
    content = torches.rewritten(
        SCALE, lambda name, data: (name, torches.pickled(trap) if name == "data/weights/weight_0" else data)
    )
    content = torches.with_json(
        content, "weights_config.json", lambda value: value["config"]["factor"].update(use_pickle=True)
    )

    assert "its tensor 'factor' is pickled, which could run code" in refused(tmp_path, content)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("data__weights__model.pt", "is a pickle, as older versions of torch wrote them"),
        ("data__constants__model.pt", "is a pickle, as older versions of torch wrote them"),
        ("data__constants__custom_obj_0", "is a pickled object"),
        ("data__constants__opaque_obj_0", "is a pickled object"),
        ("data__aotinductor__model__model.so", "is compiled machine code"),
        ("data.pkl", "is unknown"),
        ("code__model.py", "is unknown"),
    ],
)
def test_entries_that_run_code_are_refused_by_name(tmp_path: Path, trap: Path, name: str, why: str) -> None:
    content = torches.rewritten(SCALE, lambda name, data: (name, data), **{name: torches.plain_pickle(trap)})

    assert why in refused(tmp_path, content)
    assert not trap.exists()


def _all_expressions(value: Any, text: str) -> None:
    """Put `text` where an archive has an expression for a size."""
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            if "expr_str" in value:
                value["expr_str"] = text
            todo += value.values()
        elif isinstance(value, list):
            todo += value


def test_expressions_are_never_evaluated(tmp_path: Path, trap: Path) -> None:
    """torch.export.load itself does, by sympy: that is why it isn't called."""
    text = f"__import__('os').mkdir('{trap}') or 2"
    content = torches.with_json(SCALE, "models/model.json", lambda value: _all_expressions(value, text))

    session = load(tmp_path / "package", content)

    assert run(session, x=np.ones((2, 3), np.float32))[0].tolist() == [[2, 2, 2]] * 2
    assert not trap.exists()


def test_guards_are_never_compiled(tmp_path: Path, trap: Path) -> None:
    guard = f"__import__('os').mkdir('{trap}')"
    content = torches.with_json(SCALE, "models/model.json", lambda value: value.update(guards_code=[guard]))

    run(load(tmp_path / "package", content), x=np.ones((2, 3), np.float32))

    assert not trap.exists()


def _node(**changes: Any) -> bytes:
    def change(value: Any) -> None:
        value["graph_module"]["graph"]["nodes"][0].update(changes)

    return torches.with_json(SCALE, "models/model.json", change)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("os.system", "no plain operator"),
        ("builtins.eval", "no plain operator"),
        ("torch.load", "no plain operator"),
        ("torch.ops.aten.__class__.__base__", "'__class__', which is not among"),
        ("torch.ops.aten.from_file.default", "'from_file', which is not among"),
        ("torch.ops.aten.mul.Nonsense", "'mul.Nonsense', which this version of torch doesn't have"),
        ("torch.ops.aten.mul.out", "which writes to what it is given"),
        ("torch.ops.aten.mul_.Tensor", "'mul_' on what may be a weight or an input"),
        ("torch.ops.aten.bernoulli.default", "not among those"),
        ("torch.ops.aten.lstm.data", "'lstm', which is not among those"),
        ("torch.ops.profiler._record_function_enter.default", "no plain operator"),
        ("torch.ops.higher_order.cond", "no plain operator"),
        ("_operator.attrgetter", "no plain operator"),
    ],
)
def test_only_operators_of_the_list_are_called(tmp_path: Path, target: str, why: str) -> None:
    assert why in refused(tmp_path, _node(target=target))


@pytest.mark.parametrize(
    "changes",
    [
        {"target": 7},
        {"inputs": [{"name": "self", "arg": {"as_tensor": {"name": "nobody"}}, "kind": 1}]},
        {"inputs": [{"name": "self", "arg": {}, "kind": 1}]},
        {"inputs": "x"},
        {"outputs": [{"as_tensor": {"name": "x"}}]},
        {"outputs": [{"as_custom_obj": {"name": "y"}}]},
        {"inputs": [{"name": "self", "arg": {"as_graph": {}}, "kind": 1}]},
        {"inputs": [{"name": "self", "arg": {"as_operator": "os.system"}, "kind": 1}]},
    ],
)
def test_a_damaged_graph_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert "refused" in (text := refused(tmp_path, _node(**changes))) or "damaged" in text


def test_a_graph_that_learns_is_refused(tmp_path: Path) -> None:
    class Drops(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x, 0.5, training=True)

    assert "for training" in refused(tmp_path, torches.archive(Drops(), torch.zeros(2, 3)))


def test_a_graph_with_a_state_is_refused(tmp_path: Path) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x + self.count

    text = refused(tmp_path, torches.archive(Counts(), torch.zeros(2, 3)))
    assert "writes to its own state" in text or "what may be a weight" in text


class Remembers(nn.Module):
    """Adds what it is given to a weight, through an operator that may give a view of it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        views = {
            "einsum": lambda: torch.einsum("i->i", self.seen),
            "broadcast_tensors": lambda: torch.broadcast_tensors(self.seen, x[0])[0],
            "meshgrid": lambda: torch.meshgrid(self.seen, torch.zeros(1), indexing="ij")[0],
            "_unsafe_view": lambda: torch.ops.aten._unsafe_view(self.seen, [3]),
            "unsafe_chunk": lambda: torch.unsafe_chunk(self.seen, 1)[0],
        }
        view = views[self.how]()
        view.add_(x.sum(0).reshape(view.shape))
        return x * 0 + view.reshape(3)


@pytest.mark.parametrize("how", ["einsum", "broadcast_tensors", "meshgrid", "_unsafe_view", "unsafe_chunk"])
def test_a_graph_that_writes_to_a_view_of_its_weights_is_refused(tmp_path: Path, how: str) -> None:
    content = torches.archive(Remembers(how), torch.ones(2, 3))

    assert "'add_' on what may be a weight or an input" in refused(tmp_path, content)


# --------------------------------------------------------------------------- zip files


def _zip(**options: Any) -> bytes:
    """The archive again, compressed or with other names."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(SCALE)) as old, zipfile.ZipFile(file, "w", options.get("how", 0)) as new:
        for name in old.namelist():
            new.writestr(options.get("rename", lambda one: one)(name), old.read(name))
        for name in options.get("more", ()):
            new.writestr(name, b"x")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (_zip(how=zipfile.ZIP_DEFLATED), "compressed or encrypted"),
        (_zip(rename=lambda name: f"../{name}"), "must be relative|outside"),
        (_zip(more=["/etc/passwd"]), "must be relative|outside"),
        (_zip(more=["elsewhere/data/weights/weight_0"]), "twice there, or outside"),
        (_zip(rename=lambda name: name.replace("archive_format", "format")), "unknown|lacks"),
        (_zip(rename=lambda name: name.replace("weight_0", "weight_1")), "which isn't there"),
        (_zip(rename=lambda name: name.replace("weights_config", "weights_confid")), "unknown|lacks"),
        (SCALE[: len(SCALE) // 2], "no sound zip file"),
        (SCALE[:-3], "no sound zip file"),
        (b"PK\x05\x06" + bytes(18), "has 0 entries"),
    ],
)
def test_zip_files_that_torch_would_not_write_are_refused(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(InvalidPackage, match=why):
        load(tmp_path, content)


@pytest.mark.parametrize(
    "meta",
    [
        {"sizes": [{"as_int": 1 << 40}], "strides": [{"as_int": 1}]},
        {"sizes": [{"as_int": 1 << 40}], "strides": [{"as_int": 0}]},
        {"sizes": [{"as_int": -1}], "strides": [{"as_int": 1}]},
        {"sizes": [{"as_expr": {"expr_str": "2"}}]},
        {"storage_offset": {"as_int": 1 << 20}},
        {"dtype": 99},
        {"sizes": None},
    ],
)
def test_tensors_stay_inside_their_entries(tmp_path: Path, meta: dict[str, Any]) -> None:
    content = torches.with_json(
        SCALE, "weights_config.json", lambda value: value["config"]["factor"]["tensor_meta"].update(meta)
    )

    assert "no sound description" in refused(tmp_path, content)


def test_a_flipped_byte_never_does_more_than_fail(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    with zipfile.ZipFile(io.BytesIO(SCALE)) as file:
        model = json.dumps(json.loads(file.read(next(name for name in file.namelist() if "models/" in name)))).encode()
    for _ in range(200):
        broken = bytearray(model)
        for position in dice.integers(0, len(broken), 2):
            broken[position] = dice.integers(32, 127)
        content = torches.rewritten(
            SCALE, lambda name, data, new=bytes(broken): (name, new if name.startswith("models/") else data)
        )
        try:
            load(tmp_path, content)
        except InvalidPackage:
            continue
