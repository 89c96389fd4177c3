"""What a request costs beside its model: thread CPU time of decode, run and encode, next to the least they can cost.

    python benchmarks/micro/codec.py [--json] [--rounds N] [CASE ...]

The floor is measured in the same rounds: msgspec into a typed structure and np.array (or np.frombuffer) for decode,
the bare session for run, msgspec of `tolist` for encode. `total` is `Predictor.answer`, all three in one call. `best`
is the wall time of the quietest of many short rounds, `median` the thread CPU time of the middle one: on a machine that
does other things too, compare the best (a virtual machine's CPU clock may even run slow while its host is busy).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import yaml
from onnx import TensorProto, helper, numpy_helper

from seaway.runtimes.base import RunHandle
from seaway.runtimes.onnx import session_options
from seaway.serving.predictor import Payload, Predictor

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"
PREDICTION_ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
ROUND_NS = 1_000_000
Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A request to a model, and the same work done by hand."""

    predictor: Predictor
    payload: Payload
    decode: Call
    run: Call
    encode: Call


# --------------------------------------------------------------------------- models


def graph(node: str, given: list[Any], gives: list[Any], weights: dict[str, Any] | None = None) -> bytes:
    """One operator on `x`, giving `y`."""
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    made = helper.make_graph(
        [helper.make_node(node, ["x", *(weights or {})], ["y"])],
        node,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, gives)],
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return bytes(model.SerializeToString())


def linear(width: int, height: int) -> bytes:
    weights = np.random.default_rng(1).standard_normal((width, height)).astype(np.float32)
    return graph("MatMul", ["n", width], ["n", height], {"w": weights})


def first_eight(shape: list[Any]) -> bytes:
    """Takes everything and computes next to nothing."""
    starts, ends, axes = (np.array([value], np.int64) for value in (0, 8, len(shape) - 1))
    return graph("Slice", shape, [*shape[:-1], 8], {"starts": starts, "ends": ends, "axes": axes})


def identity(shape: list[Any]) -> bytes:
    return graph("Identity", shape, shape)


def open_model(directory: Path, model: bytes, spec: Any = None) -> tuple[Predictor, ort.InferenceSession]:
    directory.mkdir()
    (directory / "model.onnx").write_bytes(model)
    if spec is not None:
        (directory / "seaway.yaml").write_text(yaml.safe_dump(spec))
    return open_package(directory), bare_session(directory)


def open_package(directory: Path) -> Predictor:
    return Predictor.open(directory, model="bench", version=3, max_body_bytes=1 << 26)


def bare_session(directory: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(directory / "model.onnx"), session_options(1), providers=["CPUExecutionProvider"])


def numbers(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(2).standard_normal(shape).astype(np.float32)


# --------------------------------------------------------------------------- cases


class _Predict(msgspec.Struct):
    inputs: list[float]


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class _Infer(msgspec.Struct):
    inputs: list[_Tensor]


_decode_predict = msgspec.json.Decoder(_Predict).decode
_decode_infer = msgspec.json.Decoder(_Infer).decode
_encode = msgspec.json.Encoder().encode


def tabular(directory: Path, *, named: bool) -> Case:
    names = [f"feature_{number:02}" for number in range(30)]
    spec = {"input": {"type": "tabular", "features": [{"name": name} for name in names]}}
    predictor, session = open_model(directory, linear(30, 2), spec)
    row = [round(random.Random(3).uniform(-9, 9), 4) for _ in names]
    body = json.dumps({"inputs": dict(zip(names, row, strict=True)) if named else row}).encode()
    feeds = {"x": np.array([row], np.float32)}
    outputs = session.run(["y"], feeds)
    structure = msgspec.defstruct("Row", [(name, float) for name in names])
    decode_named = msgspec.json.Decoder(msgspec.defstruct("Body", [("inputs", structure)])).decode

    def decode() -> Any:
        if named:
            return np.array([msgspec.structs.astuple(decode_named(body).inputs)], np.float32)
        return np.array([_decode_predict(body).inputs], np.float32)

    return Case(
        predictor, Payload("predict", body), decode, lambda: session.run(["y"], feeds),
        lambda: _encode({"prediction_id": PREDICTION_ID, "outputs": outputs[0][0].tolist()}),
    )  # fmt: skip


def flights() -> Case:
    """Named features with categories, absent ones and labels; the floor takes them as the numbers they become."""
    predictor, session = open_package(FLIGHTS / "package"), bare_session(FLIGHTS / "package")
    body = (FLIGHTS / "one_flight.json").read_bytes()
    sample = json.loads(body)["inputs"]
    structure = msgspec.defstruct("Row", [(name, str if isinstance(sample[name], str) else float) for name in sample])
    decode = msgspec.json.Decoder(msgspec.defstruct("Body", [("inputs", structure)])).decode
    [feeds] = predictor.prepare(Payload("predict", body)).samples.feeds
    outputs = session.run(["probabilities"], feeds)
    row = feeds[next(iter(feeds))][0].tolist()

    def floor() -> Any:
        decode(body)
        return np.array([row], np.float32)

    return Case(
        predictor, Payload("predict", body), floor, lambda: session.run(["probabilities"], feeds),
        lambda: _encode({"prediction_id": PREDICTION_ID, "outputs": outputs[0][0].tolist()}),
    )  # fmt: skip


def predict_tensor(directory: Path, model: bytes, shape: tuple[int, ...]) -> Case:
    predictor, session = open_model(directory, model)
    array = numbers(shape)
    body = _encode({"inputs": array[0].tolist()})
    outputs = session.run(["y"], {"x": array})
    return Case(
        predictor, Payload("predict", body), lambda: np.array([_decode_predict(body).inputs], np.float32),
        lambda: session.run(["y"], {"x": array}),
        lambda: _encode({"prediction_id": PREDICTION_ID, "outputs": outputs[0][0].tolist()}),
    )  # fmt: skip


def infer_json(directory: Path, model: bytes, shape: tuple[int, ...]) -> Case:
    predictor, session = open_model(directory, model)
    array = numbers(shape)
    tensor = {"name": "x", "shape": shape, "datatype": "FP32", "data": array.ravel().tolist()}
    body = _encode({"inputs": [tensor]})
    outputs = session.run(["y"], {"x": array})
    return Case(
        predictor, Payload("infer", body),
        lambda: np.array(_decode_infer(body).inputs[0].data, np.float32).reshape(shape),
        lambda: session.run(["y"], {"x": array}),
        lambda: _encode({"outputs": [{"name": "y", "data": outputs[0].ravel().tolist()}]}),
    )  # fmt: skip


def infer_binary(directory: Path, model: bytes, shape: tuple[int, ...], *, aligned: bool = True) -> Case:
    predictor, session = open_model(directory, model)
    array = numbers(shape)
    described = {"name": "x", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": array.nbytes}}
    head = _encode({"inputs": [described], "parameters": {"binary_data_output": True}})
    head += b" " * (-len(head) % 4 + (not aligned))
    view = memoryview(head + array.tobytes())
    outputs = session.run(["y"], {"x": array})
    return Case(
        predictor, Payload("infer", view, len(head)),
        lambda: np.frombuffer(view[len(head) :], np.float32).reshape(shape),
        lambda: session.run(["y"], {"x": array}),
        lambda: outputs[0].reshape(-1).view(np.uint8).data,
    )  # fmt: skip


CASES: dict[str, Callable[[Path], Case]] = {
    "predict 30 positional": lambda at: tabular(at, named=False),
    "predict 30 named": lambda at: tabular(at, named=True),
    "predict flights": lambda _: flights(),
    "infer json [1,30]": lambda at: infer_json(at, linear(30, 2), (1, 30)),
    "infer binary [1,30]": lambda at: infer_binary(at, linear(30, 2), (1, 30)),
    "infer binary 110 kB": lambda at: infer_binary(at, first_eight(["n", 3, 96, 96]), (1, 3, 96, 96)),
    "infer binary 600 kB": lambda at: infer_binary(at, first_eight(["n", 3, 224, 224]), (1, 3, 224, 224)),
    "infer binary 600 kB, odd": lambda at: infer_binary(
        at, first_eight(["n", 3, 224, 224]), (1, 3, 224, 224), aligned=False
    ),
    "infer binary 600 kB both ways": lambda at: infer_binary(at, identity(["n", 3, 224, 224]), (1, 3, 224, 224)),
    "infer json 27648 in": lambda at: infer_json(at, first_eight(["n", 27648]), (1, 27648)),
    "predict json 27648 in": lambda at: predict_tensor(at, first_eight(["n", 27648]), (1, 27648)),
    "predict 30 in 384 out": lambda at: predict_tensor(at, linear(30, 384), (1, 30)),
    "infer json 30 in 384 out": lambda at: infer_json(at, linear(30, 384), (1, 30)),
    "predict json 27648 both ways": lambda at: predict_tensor(at, identity(["n", 27648]), (1, 27648)),
    "infer json 27648 both ways": lambda at: infer_json(at, identity(["n", 27648]), (1, 27648)),
}


# --------------------------------------------------------------------------- measuring


def steps(case: Case) -> dict[str, Call]:
    """What is measured of a case, each beside its floor."""
    predictor, payload, handle = case.predictor, case.payload, RunHandle()
    prepared = predictor.prepare(payload)
    [outputs] = predictor.run([prepared])

    def total() -> Any:
        if hasattr(predictor, "answer"):
            return predictor.answer(payload, PREDICTION_ID, handle)
        one = predictor.prepare(payload)
        [arrays] = predictor.run([one], handle)
        return predictor.encode(one, arrays, PREDICTION_ID)

    return {
        "decode": lambda: predictor.prepare(payload), "decode floor": case.decode,
        "run": lambda: predictor.run([prepared], handle), "run floor": case.run,
        "encode": lambda: predictor.encode(prepared, outputs, PREDICTION_ID), "encode floor": case.encode,
        "total": total, "total floor": lambda: (case.decode(), case.run(), case.encode()),
    }  # fmt: skip


def measure(case: Case, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of one call, for each step: wall time of the best round, thread CPU time of the middle one."""
    calls = steps(case)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    repeats = {name: max(1, int(ROUND_NS / 1000 / _cost(call, 3)[0])) for name, call in calls.items()}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(_cost(call, repeats[name]))
    return {
        name: {
            "best": round(min(wall for wall, _ in costs), 2),
            "median": round(statistics.median(cpu for _, cpu in costs), 2),
        }
        for name, costs in times.items()
    }


def _cost(call: Call, number: int) -> tuple[float, float]:
    """Wall and thread CPU time of one of `number` calls, in microseconds."""
    cpu, started = time.thread_time_ns(), time.perf_counter_ns()
    for _ in range(number):
        call()
    wall = time.perf_counter_ns() - started
    return wall / number / 1000, (time.thread_time_ns() - cpu) / number / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="parts of the names of cases; default: all")
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args()
    chosen = [name for name in CASES if not given.cases or any(part in name for part in given.cases)]
    results = {}
    with tempfile.TemporaryDirectory() as directory:
        for number, name in enumerate(chosen):
            results[name] = measure(CASES[name](Path(directory, str(number))), given.rounds)
    if given.json:
        print(json.dumps({"unit": "microseconds", "results": results}, indent=2))
        return
    for kind in ("best", "median"):
        print(f"\n{'us a call, ' + kind:<32}" + "".join(f"{step + ' (floor)':>20}" for step in STEPS))
        for name, result in results.items():
            print(f"{name:<32}" + "".join(_cell(result, step, kind) for step in STEPS))


STEPS = ("decode", "run", "encode", "total")


def _cell(result: dict[str, dict[str, float]], step: str, kind: str) -> str:
    return f"{result[step][kind]:>11.2f} ({result[step + ' floor'][kind]:.2f})".ljust(20).rjust(20)


if __name__ == "__main__":
    main()
