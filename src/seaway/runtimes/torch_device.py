"""What the runtimes on torch share: the choice of device and dtype, and a session that copies, runs and copies back.

The same code runs with `cpu` and `cuda`. On CUDA nothing waits but `collect`: inputs go through pinned memory on a
stream of their own, outputs come back on another one, and the order is kept by events.
"""

from __future__ import annotations

import re
import resource
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from seaway.errors import (
    Cancelled,
    ConfigurationError,
    DeviceLost,
    InferenceFailed,
    InvalidRequest,
    OutOfMemory,
    SeawayError,
)  # fmt: skip
from seaway.runtimes.base import Array, RunHandle
from seaway.types import Signature

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DATATYPES = {
    "BOOL": torch.bool, "UINT8": torch.uint8, "INT8": torch.int8, "INT16": torch.int16, "INT32": torch.int32,
    "INT64": torch.int64, "FP16": torch.float16, "FP32": torch.float32, "FP64": torch.float64,
}  # fmt: skip
"""What the Open Inference Protocol calls a type, and what torch does."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_NUMPY = {"BOOL": "b", "UINT8": "u", "INT8": "i", "INT16": "i", "INT32": "i", "INT64": "i"}
_DEVICE = re.compile(r"auto|cpu|cuda(:(?P<number>\d{1,3}))?")
_NO_MEMORY = re.compile(
    "out of memory|not enough memory|can't allocate memory|Cannot allocate memory|bad allocation|bad_alloc|ALLOC_FAILED"
    # oneDNN says no more when it gets none; of what it can't compute at all, it couldn't create a "descriptor".
    "|could not (create|execute) a primitive(?! descriptor)|could not create a memory object"
)
_LOST = (
    "device-side assert", "illegal memory access", "unspecified launch failure", "misaligned address", "CUDA error",
    "an illegal instruction",
)  # fmt: skip

Forward = Callable[[Mapping[str, Tensor], Sequence[str]], Sequence[Tensor]]
"""The named outputs for tensors that are on the device."""


def choose_device(asked: str) -> torch.device:
    """The device that a setting means. Raises ConfigurationError when there is none like that."""
    matched = _DEVICE.fullmatch(asked)
    if matched is None:
        raise ConfigurationError(f"device: {asked!r} is none; write auto, cpu, cuda, or cuda:0 with another number.")
    found = torch.cuda.device_count() if asked != "cpu" and torch.cuda.is_available() else 0
    if asked == "cpu" or (asked == "auto" and not found):
        return torch.device("cpu")
    number = int(matched["number"] or 0)
    if number >= found:
        raise ConfigurationError(
            f"device: {asked!r} was asked for, and torch finds {found} CUDA devices here; write auto to use the CPU "
            "where there is none."
        )
    return torch.device("cuda", number)


def choose_dtype(asked: str, device: torch.device) -> torch.dtype:
    """What to compute in: fp32 on a CPU; on a GPU bf16 where it has that in hardware, else fp16."""
    if asked != "auto" and asked not in DTYPES:
        raise ConfigurationError(f"dtype: {asked!r} is none; write auto, {', '.join(DTYPES)}.")
    if asked != "auto":
        return DTYPES[asked]
    if device.type == "cpu":
        return torch.float32
    with torch.cuda.device(device):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class Stop(threading.local):
    """The handle of the run that this thread is in. A model asks `check` between its parts, which can't be stopped."""

    handle: RunHandle | None = None

    def check(self, *_: Any) -> None:
        """Raises Cancelled once the run was told to end. May serve as a hook of a module."""
        if self.handle is not None and self.handle.terminated:
            raise Cancelled("The run was stopped.")


class _Threads(threading.local):
    """How many threads an operator of this thread uses; torch keeps that for each thread."""

    count = 0


_threads = _Threads()


def use_threads(count: int) -> None:
    """Let the operators that this thread calls use so many threads of OpenMP; cheap when they do already."""
    if _threads.count != count:
        torch.set_num_threads(count)
        _threads.count = count


@dataclass(frozen=True, slots=True)
class Staged:
    """Inputs on the device, or on their way to it."""

    tensors: dict[str, Tensor]
    ready: torch.cuda.Event | None


@dataclass(frozen=True, slots=True)
class Launched:
    """Outputs in the memory of the host, or on their way to it."""

    tensors: list[Tensor]
    ready: torch.cuda.Event | None


class TorchSession:
    """A model on a device, as `DeviceSession` promises it."""

    def __init__(
        self,
        forward: Forward,
        signature: Signature,
        *,
        platform: str,
        place: tuple[torch.device, torch.dtype],
        threads: int,
        stop: Stop,
    ) -> None:
        self.signature = signature
        self.platform = platform
        self._device, self._dtype = place
        self.device = str(self._device)
        self.dtype = NAMES[self._dtype]
        self._forward = forward
        self._threads = threads
        self._stop = stop
        cuda = self._device.type == "cuda"
        self._inward = torch.cuda.Stream(self._device) if cuda else None  # type: ignore[no-untyped-call]
        self._outward = torch.cuda.Stream(self._device) if cuda else None  # type: ignore[no-untyped-call]

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], handle: RunHandle | None) -> list[Array]:
        self.check(inputs)
        return self.collect(self.launch(self.stage(inputs), outputs, handle))

    def check(self, feeds: Mapping[str, Array]) -> None:
        """Names, types and shapes, as far as the signature fixes them. A runtime adds what it knows of the values."""
        for spec in self.signature.inputs:
            array = feeds.get(spec.name)
            if array is None:
                raise InvalidRequest(f"The input {spec.name!r} is missing.")
            fits = len(array.shape) == len(spec.shape) and all(
                wanted in {-1, size} for wanted, size in zip(spec.shape, array.shape, strict=True)
            )
            if not fits:
                found = list(array.shape)
                raise InvalidRequest(f"The input {spec.name!r} has shape {found}; {list(spec.shape)} is expected.")
            if array.dtype.kind != _NUMPY.get(spec.datatype, "f"):
                raise InvalidRequest(f"The input {spec.name!r} is {array.dtype}; {spec.datatype} is expected.")

    def stage(self, feeds: Mapping[str, Array]) -> Staged:
        with _translated():
            tensors = {name: _from_numpy(array) for name, array in feeds.items()}
            if self._inward is None:
                return Staged({name: self._cast(tensor) for name, tensor in tensors.items()}, None)
            with torch.cuda.stream(self._inward):
                # torch keeps a pinned block until the copy that reads it is over.
                moved = {
                    name: self._cast(tensor.pin_memory().to(self._device, non_blocking=True))
                    for name, tensor in tensors.items()
                }
                ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
                ready.record(self._inward)
            return Staged(moved, ready)

    def launch(self, staged: Staged, outputs: Sequence[str], handle: RunHandle | None = None) -> Launched:
        use_threads(self._threads)
        self._stop.handle = handle
        try:
            with _translated(), self._on_device(), torch.inference_mode():
                self._stop.check()
                if staged.ready is not None:
                    current = torch.cuda.current_stream(self._device)
                    current.wait_event(staged.ready)
                    for tensor in staged.tensors.values():
                        tensor.record_stream(current)  # made on another stream: not to be reused while this one reads
                found = [_plain(tensor) for tensor in self._forward(staged.tensors, outputs)]
                return self._homeward(found)
        finally:
            self._stop.handle = None

    def collect(self, launched: Launched) -> list[Array]:
        with _translated():
            if launched.ready is not None:
                launched.ready.synchronize()
            return [tensor.numpy() for tensor in launched.tensors]

    def peak_bytes(self) -> int:
        if self._inward is None:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return int(torch.cuda.max_memory_reserved(self._device))

    def memory_bytes(self) -> int:
        return 0 if self._inward is None else int(torch.cuda.mem_get_info(self._device)[1])

    def usage(self) -> tuple[int, int, float | None] | None:
        if self._inward is None:
            return None
        free, total = torch.cuda.mem_get_info(self._device)
        try:
            utilisation = torch.cuda.utilization(self._device) / 100
        except (ModuleNotFoundError, RuntimeError):  # nvidia-ml-py, or the driver's library, is missing
            utilisation = None
        return total - free, total, utilisation

    def _on_device(self) -> AbstractContextManager[Any]:
        return torch.cuda.device(self._device) if self._inward is not None else nullcontext()

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._dtype) if tensor.dtype == torch.float32 else tensor

    def _homeward(self, tensors: list[Tensor]) -> Launched:
        """The outputs on the way into pinned memory, while the device goes on with the next batch."""
        if self._outward is None:
            return Launched(tensors, None)
        self._outward.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._outward):
            copies = []
            for tensor in tensors:
                tensor.record_stream(self._outward)
                copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                copies.append(copy.copy_(tensor, non_blocking=True))
            # Whoever waits sleeps instead of using a core.
            ready = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            ready.record(self._outward)
        return Launched(copies, ready)


def check_range(array: Array, name: str, limit: int) -> None:
    """Numbers that index a table must be in it: on a GPU, one that isn't ends every later run of the process."""
    if array.size and (array.min() < 0 or array.max() >= limit):
        wrong = array[(array < 0) | (array >= limit)].flat[0]
        raise InvalidRequest(f"{name!r} holds {wrong}; 0 to {limit - 1} are known to the model.")


def _from_numpy(array: Array) -> Tensor:
    # A view of a request's bytes can't be written to, which torch has no notion of.
    if not array.flags.writeable or not array.flags.c_contiguous:
        array = np.array(array, order="C")
    return torch.from_numpy(array)


def _plain(tensor: Tensor) -> Tensor:
    """What numpy has a type for, on the device, so that it alone is copied."""
    tensor = tensor.float() if tensor.dtype in {torch.bfloat16, torch.float16} else tensor
    return tensor.contiguous()


class _translated:
    """torch's exceptions in ours."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, SeawayError):
            _raise(error)


def _raise(error: Exception) -> NoReturn:
    message = _clean(str(error))
    if is_out_of_memory(error):
        raise OutOfMemory("The model asked for more memory than there is for it.") from error
    if isinstance(error, torch.AcceleratorError) or any(word in message for word in _LOST):
        raise DeviceLost(f"The device failed: {message}") from error
    if isinstance(error, RuntimeError | IndexError | ValueError) and not isinstance(error, NotImplementedError):
        # It ran on its warm-up inputs: what an operator can't compute is this input, sizes that don't fit say.
        raise InvalidRequest(f"The model can't compute this input: {message}") from error
    raise InferenceFailed(f"The model failed: {type(error).__name__}: {message}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """True for what torch and its libraries raise when they get no memory; most of it are plain RuntimeErrors."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and _NO_MEMORY.search(str(error)) is not None


def _clean(message: str) -> str:
    """The first line, without paths."""
    line = next((line.strip() for line in message.splitlines() if line.strip()), "no reason given")
    line = re.sub(r"(?<![\w.])/\S+", "...", line)
    return line if len(line) <= 300 else f"{line[:297]}..."
