"""ONNX models through ONNX Runtime on the CPU."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

from seaway.errors import Cancelled, InferenceFailed, InvalidPackage, InvalidRequest
from seaway.packages import PackageSpec
from seaway.runtimes.base import Array, RunHandle
from seaway.types import Signature, TensorSpec

DATATYPES = {
    "tensor(bool)": "BOOL", "tensor(string)": "BYTES",
    "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32", "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32", "tensor(int64)": "INT64",
    "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
}  # fmt: skip
"""What ONNX Runtime calls a type, and what the Open Inference Protocol does."""

_LOAD_ERRORS = (
    native.Fail, native.InvalidArgument, native.InvalidGraph, native.InvalidProtobuf, native.NoSuchFile, native.NoModel,
    native.NotImplemented, native.RuntimeException, native.EPFail, RuntimeError, ValueError,
)  # fmt: skip
_RUN_ERRORS = (native.Fail, native.RuntimeException, native.NotImplemented, native.EPFail, RuntimeError, ValueError)

# ONNX Runtime also logs what it raises, partly outside any session's settings; the raised form is reported.
ort.set_default_logger_severity(4)


class OnnxRuntime:
    """Loads `*.onnx` files. The file is opened by its path, so that external data is looked for beside it only."""

    def load(self, package: Path, spec: PackageSpec, *, threads: int) -> OnnxSession:
        if spec.model is None:
            raise InvalidPackage("The package names no model file.")
        try:
            session = ort.InferenceSession(
                str(package / spec.model), session_options(threads), providers=["CPUExecutionProvider"]
            )
        except _LOAD_ERRORS as error:
            raise InvalidPackage(_explain_load(str(error), package, spec.model)) from error
        except MemoryError as error:
            raise InvalidPackage(f"{spec.model!r} needs more memory to load than is allowed.") from error
        return OnnxSession(session, read_signature(session))


class OnnxSession:
    """One `InferenceSession`, which ONNX Runtime lets any number of threads run at once."""

    platform = "onnxruntime_onnx"

    def __init__(self, session: Any, signature: Signature) -> None:
        self.signature = signature
        self._session = session
        self._options = _Options()

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], handle: RunHandle | None) -> list[Array]:
        options = self._options
        if handle is not None:
            handle.begin(options.stop)
        try:
            return self._session.run(outputs, inputs, options.current)  # type: ignore[no-any-return]
        except native.InvalidArgument as error:
            raise InvalidRequest(f"The model refuses this input: {_clean(str(error))}") from error
        except _RUN_ERRORS as error:
            if handle is not None and handle.terminated:
                raise Cancelled("The run was stopped.") from error
            if "bad_alloc" in str(error) or "Failed to allocate" in str(error):
                raise InferenceFailed("The model asked for more memory than there is for it.") from error
            if "Non-zero status code returned while running" in str(error):
                # It ran on its warm-up inputs: what a node can't compute is this input, dimensions that don't fit say.
                raise InvalidRequest(f"The model can't compute this input: {_clean(str(error))}") from error
            raise InferenceFailed(f"The model failed: {_clean(str(error))}") from error
        except MemoryError as error:
            raise InferenceFailed("The model asked for more memory than there is for it.") from error
        finally:
            if handle is not None and handle.end():
                options.renew()


class _Options(threading.local):
    """Each thread's RunOptions: used for one run after another, until one is stopped."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.current = ort.RunOptions()
        self.stop = functools.partial(setattr, self.current, "terminate", True)


def session_options(threads: int) -> Any:
    """How every session runs: as many requests at once as there are engines, each on one core."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without the arena, memory goes back after each run. Measured with MiniLM, one batch of 64 texts of 256 tokens: the
    # process holds 103 MB afterwards instead of 697 MB, at the same latency. And an arena whose first request is
    # absurdly large stays broken ("Integer overflow") for every later request of the session.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    return options


def read_signature(session: Any) -> Signature:
    """Inputs and outputs as the graph declares them. Raises InvalidPackage for what has no place in the protocol.

    Outputs that are no tensors (scikit-learn's ZipMap makes a sequence of maps) are left out if another remains.
    ONNX Runtime reports a scalar and an undeclared shape alike, as `()`.
    """
    inputs = tuple(_tensor(node) for node in session.get_inputs())
    outputs = tuple(_tensor(node) for node in session.get_outputs() if node.type.startswith("tensor("))
    if not outputs:
        kinds = ", ".join(f"{node.name!r} is {node.type}" for node in session.get_outputs())
        raise InvalidPackage(f"No output of the graph is a tensor: {kinds}. Export it without ZipMap (zipmap=False).")
    return Signature(inputs, outputs)


def _tensor(node: Any) -> TensorSpec:
    if node.type not in DATATYPES:
        raise InvalidPackage(f"{node.name!r} is of type {node.type}, which can't be sent; add a Cast to the graph.")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(node.name, DATATYPES[node.type], shape)


# --------------------------------------------------------------------------- ONNX Runtime's messages, for callers


def _explain_load(message: str, package: Path, model: str) -> str:
    """Why `model` can't be loaded, in a sentence that says nothing about this machine."""
    if "External data" in message or "External initializer" in message or "external data" in message:
        return f"{model!r}: {_explain_external_data(message, package)}"
    if operator := re.search(r"No Op registered for (\S+) with domain_version of (\d+)", message):
        return f"{model!r} uses the operator {operator[1]!r} (opset {operator[2]}), which ONNX Runtime doesn't have."
    if operator := re.search(r"(\S+?)\(-?\d+\) is not a registered function/op", message):
        return f"{model!r} uses the operator {operator[1]!r}, which ONNX Runtime doesn't have; it is a custom one."
    if operator := re.search(r"Could not find an implementation for (\S+) node", message):
        return f"{model!r} uses the operator {operator[1]!r} with types that ONNX Runtime doesn't implement."
    if "INVALID_PROTOBUF" in message or "No graph was found" in message:
        return f"{model!r} is not an ONNX model; export the model to ONNX."
    return f"{model!r} can't be loaded: {_clean(message.replace(f'{package}/', ''))}"


def _explain_external_data(message: str, package: Path) -> str:
    if escape := re.search(r'External data path: "([^"]*)" resolved', message):
        return f"its external data {escape[1]!r} is outside the package; put the file beside the model and no link."
    if "Absolute path" in message:
        return "its external data has an absolute path; it must be relative to the model file."
    if missing := re.search(r'does not exist: "([^"]*)"', message):
        path = missing[1].removeprefix(str(package)).lstrip("/")
        return f"its external data file {path!r} is not in the package; add it."
    if "out of bounds" in message:
        return "its external data file is shorter than the graph says; upload it again."
    return "its external data can't be read."


def _clean(message: str) -> str:
    """Without the library's codes, source files and C++ signatures."""
    message = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", message)
    message = re.sub(r"/onnxruntime_src/\S+:\d+ .*?\)(?: const)? ", "", message)
    message = re.sub(r"\S*onnxruntime\S*/\S+|\b\w+\.(?:cc|h):\d+ \w+ ", "", message)
    message = " ".join(message.split())
    return message if len(message) <= 300 else f"{message[:297]}..."
