"""ONNX models through ONNX Runtime, on the CPU or, where its package for GPUs is installed, on a CUDA device."""

from __future__ import annotations

import functools
import re
import resource
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

from seaway.errors import Cancelled, ConfigurationError, InferenceFailed, InvalidPackage, InvalidRequest, OutOfMemory
from seaway.packages import PackageSpec
from seaway.runtimes.base import Array, RunHandle
from seaway.types import LeftOut, Signature, TensorSpec

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
_CUDA = "CUDAExecutionProvider"
_DEVICE = re.compile(r"auto|cpu|cuda(:(?P<number>\d{1,3}))?")
_RUN_ERRORS = (native.Fail, native.RuntimeException, native.NotImplemented, native.EPFail, RuntimeError, ValueError)

# ONNX Runtime also logs what it raises, partly outside any session's settings; the raised form is reported.
ort.set_default_logger_severity(4)


class OnnxRuntime:
    """Loads `*.onnx` files. The file is opened by its path, so that external data is looked for beside it only."""

    def load(
        self, package: Path, spec: PackageSpec, *, threads: int, device: str = "auto", dtype: str = "auto"
    ) -> OnnxSession:
        if spec.model is None:
            raise InvalidPackage("The package names no model file.")
        if dtype not in {"auto", "fp32"}:
            raise ConfigurationError(f"dtype: {dtype!r} can't be chosen for ONNX; the graph fixes it. Write auto.")
        chosen, providers = choose_providers(device)
        session = open_session(package, spec.model, session_options(threads), providers)
        if chosen != "cpu" and _CUDA not in session.get_providers():
            if device == "auto":
                return OnnxSession(session, read_signature(session))  # ONNX Runtime took the CPU by itself
            raise ConfigurationError(
                f"device: ONNX Runtime could not use {chosen!r}; its CUDA libraries are missing or don't fit. "
                "Write cpu, or install what its package for GPUs asks for."
            )
        return OnnxSession(session, read_signature(session), device=chosen)


class OnnxSession:
    """One `InferenceSession`, which ONNX Runtime lets any number of threads run at once."""

    platform = "onnxruntime_onnx"

    def __init__(self, session: Any, signature: Signature, *, device: str = "cpu") -> None:
        self.signature = signature
        self.device = device
        self.dtype = "fp16" if {spec.datatype for spec in signature.outputs} == {"FP16"} else "fp32"
        self._session = session
        # What the wrapper looks at before each run is known to be right here, and costs a tenth of a small model.
        self._run = session._sess.run  # noqa: SLF001
        self._options = _Options()

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], handle: RunHandle | None) -> list[Array]:
        options = self._options
        if handle is not None:
            handle.begin(options.stop)
        try:
            return self._run(outputs, inputs, options.current)  # type: ignore[no-any-return]
        except native.InvalidArgument as error:
            raise InvalidRequest(f"The model refuses this input: {_clean(str(error))}") from error
        except _RUN_ERRORS as error:
            if handle is not None and handle.terminated:
                raise Cancelled("The run was stopped.") from error
            if "bad_alloc" in str(error) or "Failed to allocate" in str(error):
                raise OutOfMemory("The model asked for more memory than there is for it.") from error
            if "Non-zero status code returned while running" in str(error):
                # It ran on its warm-up inputs: what a node can't compute is this input, dimensions that don't fit say.
                raise InvalidRequest(f"The model can't compute this input: {_clean(str(error))}") from error
            raise InferenceFailed(f"The model failed: {_clean(str(error))}") from error
        except MemoryError as error:
            raise OutOfMemory("The model asked for more memory than there is for it.") from error
        finally:
            if handle is not None and handle.end():
                options.renew()

    # As a `DeviceSession`: ONNX Runtime copies by itself and waits, so that a run is all in `launch`.

    def check(self, feeds: Mapping[str, Array]) -> None:
        """The graph's own checks are made when it runs, and refuse one input without harm to the next."""

    def peak_bytes(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def memory_bytes(self) -> int:
        return 0

    def usage(self) -> None:
        return None  # ONNX Runtime doesn't say

    def stage(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return feeds

    def launch(
        self, staged: Mapping[str, Array], outputs: Sequence[str], handle: RunHandle | None = None
    ) -> list[Array]:
        return self.run(staged, outputs, handle)

    def collect(self, launched: list[Array]) -> list[Array]:
        return launched


class _Options(threading.local):
    """Each thread's RunOptions: used for one run after another, until one is stopped."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.current = ort.RunOptions()
        self.stop = functools.partial(setattr, self.current, "terminate", True)


def choose_providers(asked: str) -> tuple[str, list[Any]]:
    """The device that a setting means, and what ONNX Runtime calls it. Raises ConfigurationError.

    `auto` takes the GPU where the installed package of ONNX Runtime is the one for GPUs.
    """
    matched = _DEVICE.fullmatch(asked)
    if matched is None:
        raise ConfigurationError(f"device: {asked!r} is none; write auto, cpu, cuda, or cuda:0 with another number.")
    installed = _CUDA in ort.get_available_providers()
    if asked == "cpu" or (asked == "auto" and not installed):
        return "cpu", ["CPUExecutionProvider"]
    if not installed:
        raise ConfigurationError(
            f"device: {asked!r} was asked for, and the ONNX Runtime that is installed has no CUDA; install "
            "onnxruntime-gpu in its place, or write cpu."
        )
    number = int(matched["number"] or 0)
    return f"cuda:{number}", [(_CUDA, {"device_id": number}), "CPUExecutionProvider"]


def open_session(
    package: Path,
    model: str,
    options: Any,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    *,
    graph: bytes | None = None,
    disabled: Sequence[str] = (),
) -> Any:
    """An `InferenceSession` of a file of `package`, or of `graph` in its place, without these of ONNX Runtime's rules.

    Raises InvalidPackage.
    """
    source = str(package / model) if graph is None else graph
    try:
        session = ort.InferenceSession(source, options, providers=list(providers), disabled_optimizers=list(disabled))
    except (*_LOAD_ERRORS, MemoryError) as error:
        if isinstance(error, MemoryError) or "bad_alloc" in str(error):
            raise InvalidPackage(f"{model!r} needs more memory to load than is allowed.") from error
        raise InvalidPackage(_explain_load(str(error), package, model)) from error
    if graph is not None:
        # It is kept for a second try with other providers, which there are none of; weights may be in it.
        session._model_bytes = b""  # noqa: SLF001
    return session


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
    left_out = [
        LeftOut(node.name, _why_left_out(node.type))
        for node in session.get_outputs()
        if not node.type.startswith("tensor(")
    ]
    return Signature(inputs, outputs, tuple(left_out))


def _why_left_out(kind: str) -> str:
    """
    >>> _why_left_out("seq(map(int64,tensor(float)))")
    'no tensor; export with zipmap=False to have it'
    >>> _why_left_out("seq(tensor(float))")
    'no tensor, but seq(tensor(float))'
    """
    return "no tensor; export with zipmap=False to have it" if "map(" in kind else f"no tensor, but {kind}"


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
