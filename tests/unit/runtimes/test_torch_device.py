"""Devices, dtypes, threads and errors, as far as a machine without a GPU can show them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
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
from seaway.runtimes.base import RunHandle
from seaway.runtimes.torch_device import Stop, TorchSession, choose_device, choose_dtype
from seaway.types import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),))
ONES = {"x": np.ones((1, 2), np.float32)}
CPU = torch.device("cpu"), torch.float32


def session(forward: Any, *, threads: int = 1, stop: Stop | None = None) -> TorchSession:
    return TorchSession(forward, SIGNATURE, platform="test", place=CPU, threads=threads, stop=stop or Stop())


def failing(error: Exception) -> TorchSession:
    def forward(tensors: Mapping[str, Tensor], outputs: Sequence[str]) -> list[Tensor]:
        raise error

    return session(forward)


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigurationError, match=r"'cuda' was asked for, and torch finds 0 CUDA devices.* write auto"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("asked", "found"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch, asked: str, found: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    assert str(choose_device(asked)) == found
    with pytest.raises(ConfigurationError, match="finds 2 CUDA devices"):
        choose_device("cuda:2")


def test_a_cpu_computes_in_fp32_unless_told_otherwise() -> None:
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("bf16", torch.device("cpu")) == torch.bfloat16


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), OutOfMemory),
        (RuntimeError("could not create a primitive"), OutOfMemory),
        (RuntimeError("could not execute a primitive"), OutOfMemory),
        (RuntimeError("std::bad_alloc"), OutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("CUDA error: device-side assert triggered\nmore"), DeviceLost),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceLost),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"), InvalidRequest),
        (RuntimeError("could not create a primitive descriptor for the matmul primitive"), InvalidRequest),
        (IndexError("index out of range in self"), InvalidRequest),
        (ValueError("too long"), InvalidRequest),
        (NotImplementedError("no kernel"), InferenceFailed),
        (KeyError("surprise"), InferenceFailed),
        (Cancelled("stopped"), Cancelled),
    ],
)
def test_torchs_errors_become_ours(error: Exception, kind: type[SeawayError]) -> None:
    with pytest.raises(SeawayError) as caught:
        failing(error).run(ONES, ["y"], None)
    assert type(caught.value) is kind


def test_what_really_asks_for_too_much_is_out_of_memory() -> None:
    huge = session(lambda tensors, outputs: [torch.empty(1 << 60, dtype=torch.uint8)])

    with pytest.raises(OutOfMemory):
        huge.run(ONES, ["y"], None)


def test_messages_hold_no_path_of_this_machine() -> None:
    with pytest.raises(InvalidRequest) as caught:
        failing(RuntimeError("bad thing at /usr/lib/python3/torch/x.py:3\nand more")).run(ONES, ["y"], None)

    assert str(caught.value) == "The model can't compute this input: bad thing at ..."


def test_a_run_ends_between_two_parts_of_the_model() -> None:
    stop, handle = Stop(), RunHandle()

    def forward(tensors: Mapping[str, Tensor], outputs: Sequence[str]) -> list[Tensor]:
        for _ in range(1000):
            stop.check()
            handle.terminate()
        return [tensors["x"]]

    with pytest.raises(Cancelled):
        session(forward, stop=stop).run(ONES, ["y"], handle)


def test_a_handle_ends_no_run_of_another_thread() -> None:
    stop, mine = Stop(), RunHandle()
    began, go_on = threading.Event(), threading.Event()

    def forward(tensors: Mapping[str, Tensor], outputs: Sequence[str]) -> list[Tensor]:
        began.set()
        assert go_on.wait(10)
        stop.check()
        return [tensors["x"]]

    one = session(forward, stop=stop)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(one.run(ONES, ["y"], RunHandle())))
    thread.start()
    assert began.wait(10)
    mine.terminate()
    with pytest.raises(Cancelled):
        one.run(ONES, ["y"], mine)
    go_on.set()
    thread.join(10)

    assert len(answers) == 1


def test_each_thread_uses_as_many_cores_as_its_session_says() -> None:
    seen: list[tuple[int, int]] = []

    def counting(wanted: int) -> TorchSession:
        def forward(tensors: Mapping[str, Tensor], outputs: Sequence[str]) -> list[Tensor]:
            seen.append((wanted, torch.get_num_threads()))
            return [tensors["x"]]

        return session(forward, threads=wanted)

    one, two = counting(1), counting(2)
    threads = [threading.Thread(target=each.run, args=(ONES, ["y"], None)) for each in (one, two, one, two)]
    for thread in threads:
        thread.start()
        thread.join(10)
    for each in (two, one, two):
        each.run(ONES, ["y"], None)

    assert len(seen) == 7
    assert all(wanted == found for wanted, found in seen)
