"""Operators that torch calls behind checks of its own are called behind checks here, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seaway.runtimes import torch_operators

aten: Any = torch.ops.aten
X = torch.randn(1, 8, 4)
ONES, ZEROS = torch.ones(8), torch.zeros(8)
Q = torch.randn(1, 2, 5, 4)


@pytest.mark.parametrize(
    ("call", "args"),
    [
        (aten.native_batch_norm.default, (X, ONES, ZEROS, ZEROS, ONES, False, 0.1, 1e-5)),
        (aten._native_batch_norm_legit_no_training.default, (X, ONES, None, ZEROS, ONES, 0.1, 1e-5)),
        (aten.native_group_norm.default, (X, ONES, ZEROS, 1, 8, 4, 2, 1e-5)),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, (Q, Q, Q)),
        (aten.add.Tensor, (X, X)),
    ],
    ids=["batch norm", "batch norm, not training", "group norm", "attention", "addition"],
)
def test_fitting_tensors_are_computed_with_as_torch_does(call: Any, args: tuple[Any, ...]) -> None:
    found, expected = torch_operators.guarded(call)(*args), call(*args)
    first = found[0] if isinstance(found, tuple) else found
    torch.testing.assert_close(first, expected[0] if isinstance(expected, tuple) else expected)


@pytest.mark.parametrize(
    ("call", "args"),
    [
        (aten.native_batch_norm.default, (X, ONES, ZEROS, torch.zeros(1), ONES, False, 0.1, 1e-5)),
        (aten.native_batch_norm.default, (X, ONES[:3], ZEROS, ZEROS, ONES, False, 0.1, 1e-5)),
        (aten._native_batch_norm_legit_no_training.default, (X, ONES, ZEROS, ZEROS, ONES[:7], 0.1, 1e-5)),
        (aten.native_group_norm.default, (X, ONES, ZEROS, 2, 8, 4, 2, 1e-5)),
        (aten.native_group_norm.default, (X, ONES[:2], ZEROS, 1, 8, 4, 2, 1e-5)),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, (Q, torch.randn(1, 2, 64, 4), Q[:, :, :1])),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, (Q, Q[:, :1], Q)),
    ],
    ids=["mean", "weight", "variance", "rows", "group weight", "values", "heads"],
)
def test_tensors_that_do_not_fit_are_refused_before_memory_of_others_is_read(call: Any, args: tuple[Any, ...]) -> None:
    with pytest.raises(RuntimeError, match="don't fit"):
        torch_operators.guarded(call)(*args)


def test_arguments_given_by_name_are_looked_at_as_well() -> None:
    run = torch_operators.guarded(aten.native_batch_norm.default)
    with pytest.raises(RuntimeError, match="don't fit"):
        run(X, ONES, ZEROS, running_mean=ZEROS[:1], running_var=ONES, training=False, momentum=0.1, eps=1e-5)


IDS = torch.tensor([[0, 7], [3, 1]])


@pytest.mark.parametrize(
    ("call", "args"),
    [
        (aten.embedding.default, (X[0], IDS)),
        (aten.index_select.default, (X, 1, IDS[0])),
        (aten.gather.default, (X, 1, IDS[None, :, :].expand(1, 2, 2))),
        (aten.index.Tensor, (X, [None, IDS - 8, None])),
        (aten.index.Tensor, (ONES, [ONES > 0])),
    ],
    ids=["embedding", "index_select", "gather", "from the end", "mask"],
)
def test_indices_that_are_in_range_pass_on_any_device(
    call: Any, args: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_operators, "_is_unchecked", lambda tensor: True)
    torch.testing.assert_close(torch_operators.in_range(call)(*args), call(*args))


@pytest.mark.parametrize(
    ("call", "args"),
    [
        (aten.embedding.default, (X[0], IDS + 1)),
        (aten.embedding.default, (X[0], IDS - 1)),
        (aten.index_select.default, (X, 1, IDS[0] + 1)),
        (aten.gather.default, (X, 1, IDS[None, :, :].expand(1, 2, 2) + 1)),
        (aten.index.Tensor, (X, [None, IDS + 1, None])),
        (aten.index.Tensor, (X, [None, IDS - 9, None])),
    ],
    ids=["embedding", "below", "index_select", "gather", "index", "before the first"],
)
def test_indices_out_of_range_are_refused_before_a_gpu_meets_them(
    call: Any, args: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_operators, "_is_unchecked", lambda tensor: True)
    with pytest.raises(IndexError, match="out of range"):
        torch_operators.in_range(call)(*args)


def test_on_a_cpu_torch_looks_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "aminmax", None)
    run = torch_operators.in_range(aten.embedding.default)
    assert run(X[0], IDS).shape == (2, 2, 4)
    with pytest.raises(IndexError):
        run(X[0], IDS + 1)
