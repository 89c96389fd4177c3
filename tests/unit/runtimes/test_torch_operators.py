"""Operators that torch calls behind checks of its own are called behind checks here, too."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from seaway.runtimes import torch_operators

aten: Any = torch.ops.aten
X = torch.randn(1, 8, 4)
ONES, ZEROS = torch.ones(8), torch.zeros(8)
Q = torch.randn(1, 2, 5, 4)
TABLE, WORDS, BAGS = torch.randn(10, 4), torch.tensor([1, 2, 3]), torch.tensor([0, 2])
REPEATS = torch.tensor([2, 0, 3])


@pytest.mark.parametrize(
    ("call", "args"),
    [
        (aten.native_batch_norm.default, (X, ONES, ZEROS, ZEROS, ONES, False, 0.1, 1e-5)),
        (aten._native_batch_norm_legit_no_training.default, (X, ONES, None, ZEROS, ONES, 0.1, 1e-5)),
        (aten.native_group_norm.default, (X, ONES, ZEROS, 1, 8, 4, 2, 1e-5)),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, (Q, Q, Q)),
        (aten._embedding_bag.default, (TABLE, WORDS, BAGS)),
        (aten.embedding_bag.default, (TABLE, WORDS, BAGS.int(), False, 2)),
        (aten.repeat_interleave.Tensor, (REPEATS,)),
        (aten.repeat_interleave.self_Tensor, (X, REPEATS[:1], 1)),
        (aten.repeat_interleave.self_int, (X, 3)),
        (aten.add.Tensor, (X, X)),
    ],
    ids=[
        "batch norm", "batch norm, not training", "group norm", "attention", "bags", "bags' maximum", "repeats",
        "one for all", "a number of repeats", "addition",
    ],
)  # fmt: skip
def test_fitting_tensors_are_computed_with_as_torch_does(call: Any, args: tuple[Any, ...]) -> None:
    found, expected = torch_operators.guarded(call)(*args), call(*args)
    first = found[0] if isinstance(found, tuple) else found
    torch.testing.assert_close(first, expected[0] if isinstance(expected, tuple) else expected)


@pytest.mark.parametrize(
    ("call", "args"),
    [
        (aten.native_batch_norm.default, (X, ONES, ZEROS, torch.zeros(1), ONES, False, 0.1, 1e-5)),
        (aten.native_batch_norm.default, (X, ONES[:3], ZEROS, ZEROS, ONES, False, 0.1, 1e-5)),
        (aten.native_batch_norm.default, (X, ONES, ZEROS, None, None, False, 0.1, 1e-5)),
        (aten._native_batch_norm_legit_no_training.default, (X, ONES, ZEROS, ZEROS, ONES[:7], 0.1, 1e-5)),
        (aten.native_group_norm.default, (X, ONES, ZEROS, 2, 8, 4, 2, 1e-5)),
        (aten.native_group_norm.default, (X, ONES[:2], ZEROS, 1, 8, 4, 2, 1e-5)),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, (Q, torch.randn(1, 2, 64, 4), Q[:, :, :1])),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, (Q, Q[:, :1], Q)),
    ],
    ids=["mean", "weight", "no statistics", "variance", "rows", "group weight", "values", "heads"],
)
def test_tensors_that_do_not_fit_are_refused_before_memory_of_others_is_read(call: Any, args: tuple[Any, ...]) -> None:
    with pytest.raises(RuntimeError, match="don't fit"):
        torch_operators.guarded(call)(*args)


@pytest.mark.parametrize("offsets", [[0, -1, 2], [0, 3, 2], [0, 4], [1, 2], [-1, 2], []], ids=str)
@pytest.mark.parametrize("mode", [0, 1, 2], ids=["sum", "mean", "max"])
@pytest.mark.parametrize("call", [aten._embedding_bag.default, aten.embedding_bag.default], ids=["inner", "outer"])
def test_offsets_outside_the_words_are_refused_and_nothing_is_read_there(
    call: Any, mode: int, offsets: list[int]
) -> None:
    with pytest.raises(RuntimeError, match="offsets must begin with 0") as caught:
        torch_operators.guarded(call)(TABLE, WORDS, torch.tensor(offsets, dtype=torch.int64), False, mode)
    assert "takes value" not in str(caught.value)


@pytest.mark.parametrize("words", [[1, 10], [-1, 2]], ids=str)
def test_words_that_a_table_of_bags_lacks_are_refused(words: list[int]) -> None:
    with pytest.raises(RuntimeError, match="within the table"):
        torch_operators.guarded(aten._embedding_bag.default)(TABLE, torch.tensor(words), torch.tensor([0]))


def test_a_last_offset_ends_with_the_words() -> None:
    run = torch_operators.guarded(aten._embedding_bag.default)
    assert run(TABLE, WORDS, torch.tensor([0, 2, 3]), include_last_offset=True)[0].shape == (2, 4)
    with pytest.raises(RuntimeError, match="offsets must"):
        run(TABLE, WORDS, torch.tensor([0, 2]), include_last_offset=True)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize(
    ("repeats", "more"),
    [([1, -1, 3], {}), ([30_000, -29_997], {"output_size": 3}), ([1, 2], {"output_size": 4})],
    ids=["negative", "negative with a sum", "another sum"],
)
def test_repeats_that_make_no_sum_are_refused(dtype: torch.dtype, repeats: list[int], more: dict[str, int]) -> None:
    with pytest.raises(RuntimeError, match="repeats don't fit"):
        torch_operators.guarded(aten.repeat_interleave.Tensor)(torch.tensor(repeats, dtype=dtype), **more)


def test_repeats_whose_sum_no_number_holds_are_refused() -> None:
    huge = torch.tensor([1 << 62] * 3 + [(1 << 62) + 3])
    run = torch_operators.guarded(aten.repeat_interleave.Tensor)
    with pytest.raises(RuntimeError, match="repeats don't fit"):
        run(huge)
    with pytest.raises(RuntimeError, match="repeats don't fit"):
        torch_operators.guarded(aten.repeat_interleave.self_Tensor)(huge, huge)
    with pytest.raises(RuntimeError, match="repeats don't fit"):
        torch_operators.guarded(aten.repeat_interleave.self_Tensor)(huge, huge[:1])


def quotients() -> Iterator[Any]:
    """Each operator that divides whole numbers, and what it takes besides the two of them."""
    for name in ("div", "divide"):
        for rounding in ("trunc", "floor"):
            yield pytest.param(name, "Tensor_mode", {"rounding_mode": rounding}, id=f"{name} {rounding}")
            yield pytest.param(name, "Scalar_mode", {"rounding_mode": rounding}, id=f"{name} {rounding}, a number")
    yield pytest.param("div_", "Tensor_mode", {"rounding_mode": "trunc"}, id="div_")
    yield pytest.param("floor_divide", "default", {}, id="floor_divide")
    for name in ("remainder", "fmod"):
        yield pytest.param(name, "Tensor", {}, id=name)
        yield pytest.param(name, "Scalar", {}, id=f"{name}, a number")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize(("name", "overload", "more"), [*quotients()])
def test_the_smallest_number_divided_by_minus_one_is_refused(
    name: str, overload: str, more: dict[str, str], dtype: torch.dtype
) -> None:
    """A processor has no answer to that, and ends the process."""
    run = torch_operators.guarded(getattr(getattr(aten, name), overload))
    least = torch.tensor([[7], [torch.iinfo(dtype).min]], dtype=dtype)
    by: Any = -1 if overload.startswith("Scalar") else torch.tensor([2, -1], dtype=dtype)
    with pytest.raises(RuntimeError, match="divided by -1"):
        run(least.expand(2, 2).clone(), by, **more)

    assert run(torch.tensor([8, -8], dtype=dtype), by, **more).dtype == dtype
    assert run(torch.tensor([8.0, -8.0]), by, **more).dtype == torch.float32


def test_what_has_room_for_the_quotient_is_divided() -> None:
    run = torch_operators.guarded(aten.div.Tensor_mode)
    least = torch.tensor([-(1 << 31)], dtype=torch.int32)
    assert run(least, torch.tensor([-1]), rounding_mode="trunc").tolist() == [1 << 31]
    assert run(least, torch.tensor([-1], dtype=torch.int32), rounding_mode=None).tolist() == [2.0**31]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_sums_of_whole_numbers_are_divided_by_no_negative_number(dimensions: int) -> None:
    """As above: of pools too, the smallest number divided by -1 would end the process."""
    run = torch_operators.guarded(getattr(aten, f"avg_pool{dimensions}d").default)
    of = torch.full((1, 1) + (2,) * dimensions, -(1 << 63))
    kernel = [1] * dimensions
    with pytest.raises(RuntimeError, match="no negative number"):
        run(of, kernel, divisor_override=-1)
    with pytest.raises(RuntimeError, match="no negative number"):
        run(of, kernel, kernel, [0], False, True, -1)

    assert run(of, kernel, divisor_override=2).flatten()[0] == -(1 << 62)
    assert run(of, kernel).equal(of)
    assert run(of.double(), kernel, divisor_override=-1).equal(-of.double())


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
        (aten.index.Tensor, (X, [X[:, :, 0] > 9, torch.tensor([3])])),
        (aten.index_add.default, (X[0], 0, IDS[1], X[0, :2])),
        (aten.index_copy.default, (X[0], 0, IDS[0], X[0, :2])),
        (aten.index_put.default, (X, [None, IDS - 8, None], torch.ones(1))),
        (aten.scatter.value, (ONES, 0, IDS[0], 2.0)),
        (aten.scatter_add.default, (ONES, 0, IDS[0], ONES)),
        (aten.scatter_reduce.two, (ONES, 0, IDS[0], ONES, "sum")),
        (aten.scatter.value, (torch.tensor(1.0), 0, torch.tensor(0), 2.0)),
        (aten.take.default, (X, IDS - 32)),
        (aten.take_along_dim.default, (ONES, IDS[0], 0)),
        (aten.take_along_dim.default, (X, IDS)),
        (aten.take_along_dim.default, (ONES, IDS[0] - 8, 0)),
        (aten.one_hot.default, (IDS,)),
        (aten.one_hot.default, (IDS, 8)),
        (aten.masked_scatter.default, (X, ONES[:4] > 0, X)),
    ],
    ids=[
        "embedding", "index_select", "gather", "from the end", "mask", "mask and index", "index_add", "index_copy",
        "index_put", "scatter", "scatter_add", "scatter_reduce", "scalar", "take", "take_along_dim", "flat",
        "along from the end", "one_hot", "one_hot of 8", "masked_scatter",
    ],
)  # fmt: skip
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
        (aten.index.Tensor, (X, [X[:, :, 0] > 9, torch.tensor([4])])),
        (aten.index_add.default, (X[0], 0, IDS[0] + 1, X[0, :2])),
        (aten.index_copy.default, (X[0], 0, IDS[0] - 1, X[0, :2])),
        (aten.index_put.default, (X, [None, IDS + 1, None], torch.ones(1))),
        (aten.scatter.value, (ONES, 0, IDS[0] + 1, 2.0)),
        (aten.scatter_add.default, (ONES, 0, IDS[0] - 1, ONES)),
        (aten.scatter_reduce.two, (ONES, 0, IDS[0] + 1, ONES, "sum")),
        (aten.take.default, (X, IDS - 33)),
        (aten.take_along_dim.default, (ONES, IDS[0] + 1, 0)),
        (aten.take_along_dim.default, (X, IDS - 1)),
        (aten.one_hot.default, (IDS - 1,)),
        (aten.one_hot.default, (IDS, 7)),
        (aten.masked_scatter.default, (X, ONES[:4] > 0, X[:, :7])),
    ],
    ids=[
        "embedding", "below", "index_select", "gather", "index", "before the first", "beside a mask", "index_add",
        "index_copy", "index_put", "scatter", "scatter_add", "scatter_reduce", "take", "take_along_dim", "flat",
        "one_hot below", "one_hot", "masked_scatter",
    ],
)  # fmt: skip
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


# --------------------------------------------------------------------------- memory of their own

SHAPES = (
    (1,), (2,), (1, 1), (2, 2), (1, 1, 2), (1, 2, 2), (1, 1, 1, 1), (1, 2, 2, 2), (1, 1, 1, 1, 1), (1, 1, 2, 2, 2),
)  # fmt: skip
FEW, SQUARE, BATCH, PICTURE = (torch.ones((1,) * axes) for axes in (1, 2, 3, 4))
BY_HAND: dict[str, tuple[Any, ...]] = {
    "_native_batch_norm_legit_no_training": (BATCH, FEW, FEW, FEW, FEW, 0.1, 1e-5),
    "addbmm": (SQUARE, BATCH, BATCH),
    "addmv": (FEW, SQUARE, FEW),
    "batch_norm": (BATCH, FEW, FEW, FEW, FEW, False, 0.1, 1e-5, True),
    "bilinear": (SQUARE, SQUARE, BATCH),
    "col2im": (BATCH, [1, 1], [1, 1], [1, 1], [0, 0], [1, 1]),
    "conv1d": (BATCH, BATCH),
    "conv_transpose1d": (BATCH, BATCH),
    "conv_transpose2d": (PICTURE, PICTURE),
    "convolution": (BATCH, BATCH, None, [1], [0], [1], False, [0], 1),
    "cross": (torch.ones(3), torch.ones(3), 0),
    "im2col": (PICTURE, [1, 1], [1, 1], [0, 0], [1, 1]),
    "instance_norm": (BATCH, FEW, FEW, FEW, FEW, False, 0.1, 1e-5, True),
    "mv": (SQUARE, FEW),
    "native_batch_norm": (BATCH, FEW, FEW, FEW, FEW, False, 0.1, 1e-5),
    "native_group_norm": (BATCH, FEW, FEW, 1, 1, 1, 1, 1e-5),
    "reflection_pad2d": (PICTURE, [0, 0, 0, 0]),
    "select_scatter": (SQUARE, FEW, 0, 0),
    "upsample_nearest3d": (torch.ones(1, 1, 1, 1, 1), [1, 1, 1]),
    "upsample_trilinear3d": (torch.ones(1, 1, 1, 1, 1), [1, 1, 1], False),
}
"""Arguments for operators that chance finds none for."""


def by_chance(dice: random.Random, argument: Any, shape: tuple[int, ...]) -> Any:
    """What changes as little as may be, as that is when an operator gives back what it got: ones, zeros, no padding."""
    kind = str(argument.type).removeprefix("Optional[")
    kind = kind.removesuffix("]") if kind != str(argument.type) else kind
    if argument.has_default_value() and dice.random() < 0.5:
        return argument.default_value
    tensor = torch.ones(shape if dice.random() < 0.8 else dice.choice(SHAPES))
    if argument.name in {"mask", "condition"}:
        return tensor.bool()
    if argument.name in {"index", "indices"} and kind == "Tensor":
        return tensor.long() * 0
    chosen: dict[str, Any] = {
        "Tensor": tensor if dice.random() < 0.8 else tensor.long(),
        "List[Tensor]": [torch.ones(shape) for _ in range(dice.randint(1, 2))],
        "List[Optional[Tensor]]": [torch.zeros(1, dtype=torch.int64)],
        "int": {"dtype": torch.float32, "layout": None, "memory_format": None}.get(
            argument.name, dice.choice([0, 1, 2])
        ),
        "number": dice.choice([0, 1, 2]),
        "float": dice.choice([0.0, 1.0]),
        "bool": False,
        "List[int]": dice.choice([[*shape], [*shape[-2:]], [1] * dice.randint(0, 3), [0] * dice.randint(0, 6)]),
        "List[float]": [1.0] * (len(shape) - 2),
        "str": dice.choice(["i->i", "ij", "constant", "reflect", "trunc", "sum", "none", "same"]),
    }
    return chosen.get(kind)


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.numel() else []
    return [tensor for one in value for tensor in tensors_in(one)] if isinstance(value, list | tuple) else []


def calls(call: Any, name: str) -> Iterator[tuple[list[Any], Any]]:
    """What an operator was given and what it made of it, for up to 20 arguments that it takes."""
    dice, found = random.Random(name), 0
    for attempt in range(300):
        shape = dice.choice(SHAPES)
        values = {one.name: by_chance(dice, one, shape) for one in call._schema.arguments}
        named = {one.name: values.pop(one.name) for one in call._schema.arguments if one.kwarg_only}
        args = [*values.values()]
        if name in BY_HAND and attempt == 0:
            args, named = [*BY_HAND[name]], {}
        try:
            made = torch_operators.guarded(call)(*args, **named)
        except (RuntimeError, IndexError, ValueError, TypeError):
            continue
        yield [*args, *named.values()], made
        found += 1
        if found == 20:
            return


def shares(given: list[Any], made: Any) -> bool:
    places = {tensor.untyped_storage().data_ptr() for tensor in tensors_in(given)}
    return any(tensor.untyped_storage().data_ptr() in places for tensor in tensors_in(made))


def overloads(name: str) -> list[Any]:
    packet = getattr(aten, name)
    return [getattr(packet, overload) for overload in packet.overloads()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(4))
def test_what_is_said_to_be_memory_of_their_own_never_is_that_of_an_argument(part: int) -> None:
    """Or a graph could write into its weights, and show one caller what another has sent."""
    sharing, unseen = [], []
    for name in sorted(torch_operators.OPERATORS - torch_operators.IN_PLACE)[part::4]:
        new = [call for call in overloads(name) if torch_operators.makes_new(call)]
        seen = [shares(given, made) for call in new for given, made in calls(call, name)]
        if any(seen):
            sharing.append(name)
        if new and not seen:
            unseen.append(name)

    assert (sharing, unseen) == ([], [])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        "_unsafe_view", "broadcast_tensors", "dropout", "einsum", "meshgrid", "reshape", "type_as", "unsafe_chunk",
        "unsafe_split", "view",
    ],
)  # fmt: skip
def test_what_may_be_a_view_is_told_from_what_is_new(name: str) -> None:
    found = overloads(name)
    assert any(shares(given, made) for call in found for given, made in calls(call, name))
    assert not any(torch_operators.makes_new(call) for call in found)


def test_a_list_put_together_from_what_was_given_is_not_new() -> None:
    assert not torch_operators.makes_new(aten.add.t)
    assert torch_operators.makes_new(aten.add.Tensor)
    assert torch_operators.makes_new(aten.add_.Tensor)
