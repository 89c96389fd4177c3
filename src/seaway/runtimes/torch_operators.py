"""Which of torch's operators a stranger's graph may call."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._ops import OpOverload

from seaway.errors import InvalidPackage

_COMPUTING = """
__and__ __or__ __xor__ _adaptive_avg_pool2d _adaptive_avg_pool3d _cdist_forward _log_softmax
_native_batch_norm_legit_no_training _softmax _to_copy _trilinear _unsafe_index abs acos acosh adaptive_avg_pool1d
adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d add addbmm addcdiv addcmul addmm addmv
all amax amin aminmax any arange arccos arcsin arctan argmax argmin argsort asin asinh atan atan2 atanh avg_pool1d
avg_pool2d avg_pool3d baddbmm batch_norm bilinear bitwise_and bitwise_left_shift bitwise_not bitwise_or
bitwise_right_shift bitwise_xor bmm bucketize cat cdist ceil celu clamp clamp_max clamp_min clip clone col2im concat
constant_pad_nd conv1d conv2d conv3d conv_transpose1d conv_transpose2d convolution copysign cos cosh cosine_similarity
count_nonzero cross cumprod cumsum deg2rad diag diff div divide dot elu embedding eq erf erfc erfinv exp exp2 expm1
eye fill flip fliplr flipud floor floor_divide fmax fmin fmod frac full full_like gather ge gelu glu grid_sampler
grid_sampler_2d group_norm gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot im2col index index_add
index_copy index_put index_select instance_norm isfinite isinf isnan kthvalue layer_norm le leaky_relu lerp
lift_fresh_copy linalg_norm linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid log_softmax logaddexp
logical_and logical_not logical_or logical_xor logit logsumexp lt masked_fill masked_scatter masked_select matmul max
max_pool1d max_pool2d max_pool2d_with_indices max_pool3d maximum mean median min minimum mish mm mul multiply mv
nan_to_num native_batch_norm native_group_norm native_layer_norm ne neg new_full new_ones new_zeros nonzero norm
one_hot ones ones_like outer pad polar pow prelu prod reciprocal reflection_pad1d reflection_pad2d relu relu6
remainder repeat repeat_interleave replication_pad1d replication_pad2d rms_norm roll rot90 round rrelu rsqrt rsub
scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted select_scatter selu sigmoid
sign silu sin sinh slice_scatter softmax softplus softshrink sort sqrt square stack std std_mean sub subtract sum take
take_along_dim tan tanh tile topk triangular_solve tril triu trunc upsample_bicubic2d upsample_bilinear2d
upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean where
zeros zeros_like
"""
_SHARING = """
_embedding_bag _scaled_dot_product_flash_attention_for_cpu _unsafe_view alias alpha_dropout as_strided
broadcast_tensors broadcast_to chunk contiguous detach diagonal dropout einsum embedding_bag expand expand_as
feature_dropout flatten gru lift_fresh lstm meshgrid movedim narrow numpy_T permute pixel_shuffle pixel_unshuffle
reshape resolve_conj resolve_neg select slice split split_with_sizes squeeze swapaxes swapdims sym_numel sym_size
sym_storage_offset sym_stride t tensor_split to transpose type_as unbind unflatten unfold unsafe_chunk unsafe_split
unsqueeze view view_as view_as_complex view_as_real
"""
_CHANGING = """
add_ clamp_ clamp_max_ clamp_min_ div_ elu_ exp_ fill_ gelu_ hardsigmoid_ hardswish_ hardtanh_ leaky_relu_
masked_fill_ mish_ mul_ neg_ relu6_ relu_ sigmoid_ silu_ sub_ tanh_ zero_
"""
_MAKING = frozenset(_COMPUTING.split())
"""What they give is memory of their own, whatever they get: a test calls each of them and looks."""
OPERATORS = _MAKING | frozenset(_SHARING.split())
"""They compute tensors from tensors. None of them reads files, draws lots, keeps a state, or shows memory of others.

Those of `_SHARING` may give back what they got, or a view of it. torch doesn't declare that of all of them: not of
`einsum`, `broadcast_tensors`, `meshgrid`, `_unsafe_view` and `dropout`, say.
"""
PACKED = frozenset({"gru.data", "lstm.data"})
"""Read from memory as many sizes of batches as they think they were given. They need what isn't in the list, anyway."""
IN_PLACE = frozenset(_CHANGING.split())
"""May change what an operator before them has made, and neither weights nor inputs."""
LEFT_OUT = frozenset(
    {
        "_assert_async", "_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range",
        "sym_constrain_range_for_size",
    }
)  # fmt: skip
"""Checks that export adds by itself: of the device and dtype that it happened to have, and of sizes."""
_TRAINING = {
    "batch_norm": "training", "instance_norm": "use_input_stats", "rrelu": "training", "dropout": "train",
    "alpha_dropout": "train", "feature_dropout": "train", "lstm": "train", "gru": "train",
    "native_batch_norm": "training",
}  # fmt: skip
"""Operators that do something else while a model learns, and the argument that says so."""
ARITHMETIC: dict[str, Callable[..., Any]] = {
    "math.ceil": lambda value: -int(-value // 1), "math.floor": lambda value: int(value // 1), "math.trunc": int,
    "torch.sym_max": max, "torch.sym_min": min, "torch.sym_float": float, "torch.sym_not": operator.not_,
}  # fmt: skip
"""What is done with sizes."""
for _name in ("add", "eq", "floordiv", "ge", "gt", "le", "lt", "mod", "mul", "ne", "neg", "sub", "truediv"):
    ARITHMETIC[f"_operator.{_name}"] = getattr(operator, _name)
_TARGET = re.compile(r"torch\.ops\.aten\.(?P<name>\w+)\.(?P<overload>\w+)")
IN_EVAL_MODE = "Export it in eval mode: model.eval() first."
PLAINLY = (
    "Export it in eval mode (model.eval()), under torch.no_grad(), and call .run_decompositions({}) on the result "
    "before saving it."
)


def find(target: str) -> Any:
    """The operator that a target names; None for one that only checks. Raises InvalidPackage for any other."""
    matched = _TARGET.fullmatch(target)
    if matched is None:
        refuse(f"it calls {target[:80]!r}, which is no plain operator of torch. {PLAINLY}")
    name, overload = matched["name"], matched["overload"]
    if name in LEFT_OUT:
        return None
    if (name not in OPERATORS and name not in IN_PLACE) or f"{name}.{overload}" in PACKED:
        refuse(f"it calls the operator {name[:80]!r}, which is not among those that a model may call. {PLAINLY}")
    call = getattr(getattr(torch.ops.aten, name, None), overload, None)
    if not isinstance(call, OpOverload):
        refuse(f"it calls {f'{name}.{overload}'[:80]!r}, which this version of torch doesn't have")
    if name not in IN_PLACE and _schema(call).is_mutable:
        refuse(f"it calls {f'{name}.{overload}'!r}, which writes to what it is given. {PLAINLY}")
    return call


def name_of(call: Any) -> str:
    """Without namespace and overload."""
    return str(_schema(call).name).removeprefix("aten::")


def makes_new(call: Any) -> bool:
    """True when what it gives is memory of its own, or was before it changed that in place."""
    name = name_of(call)
    if name in IN_PLACE:
        return True
    # Overloads that give lists put together what they got: `add.t` joins two lists of tensors.
    tensors = all(str(one.type) == "Tensor" and one.alias_info is None for one in _schema(call).returns)
    return name in _MAKING and tensors


def check_mode(call: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises InvalidPackage for a call that is for training."""
    key = _TRAINING.get(name_of(call))
    if key is None:
        return
    names = [argument.name for argument in _schema(call).arguments]
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    if given.get(key, False) is not False:
        refuse(f"it calls {name_of(call)!r} for training. {IN_EVAL_MODE}")


def guarded(call: Any) -> Callable[..., Any]:
    """The operator, behind a look at what torch itself doesn't look at, or only in the operator around it.

    Without, it would compute with whatever lies behind a tensor in memory, or end the process. Raises RuntimeError as
    torch does.
    """
    if name_of(call) not in _FITS:
        return call  # type: ignore[no-any-return]
    fits, problem = _FITS[name_of(call)]
    names = [argument.name for argument in _schema(call).arguments]

    def run(*args: Any, **kwargs: Any) -> Any:
        if not fits(dict(zip(names, args, strict=False)) | kwargs):
            raise RuntimeError(f"{name_of(call)}: {problem}")
        return call(*args, **kwargs)

    return run


def _statistics_fit(given: Mapping[str, Any]) -> bool:
    channels = given["input"].shape[1:2]
    if not channels or given.get("running_mean") is None or given.get("running_var") is None:
        return False  # they are what it computes with, unless it is in training
    others = (given.get(name) for name in ("weight", "bias", "running_mean", "running_var"))
    return all(one is None or one.shape == channels for one in others)


def _groups_fit(given: Mapping[str, Any]) -> bool:
    of, channels = given["input"], given["C"]
    whole = of.numel() == given["N"] * channels * given["HxW"] and of.shape[:2] == (given["N"], channels)
    return whole and all(one is None or one.shape == (channels,) for one in (given.get("weight"), given.get("bias")))


def _attention_fits(given: Mapping[str, Any]) -> bool:
    query, key, value = (given[name] for name in ("query", "key", "value"))
    if not query.dim() == key.dim() == value.dim() == 4:
        return False
    alike = query.shape[:2] == key.shape[:2] == value.shape[:2] and query.shape[3] == key.shape[3] == value.shape[3]
    mask = given.get("attn_mask")
    wanted = (*query.shape[:3], key.shape[2])
    fits = mask is None or (mask.dim() <= 4 and all(
        size in {1, most} for size, most in zip(reversed(mask.shape), reversed(wanted), strict=False)
    ))  # fmt: skip
    return alike and key.shape[2] == value.shape[2] and fits


def _bags_fit(given: Mapping[str, Any]) -> bool:
    indices, offsets = given["indices"], given["offsets"]
    if not indices.dim() == offsets.dim() == 1 or not offsets.numel():
        return False
    if int(offsets[0]) != 0 or bool((offsets[1:] < offsets[:-1]).any()):
        return False
    last, count = int(offsets[-1]), indices.numel()
    if last != count if given.get("include_last_offset") else last > count:
        return False
    return not count or _are_within(indices, 0, given["weight"].shape[0])


def _repeats_fit(given: Mapping[str, Any]) -> bool:
    repeats, of, dim = given["repeats"], given.get("self"), given.get("dim")
    if not isinstance(repeats, Tensor) or not repeats.numel():
        return True
    if of is not None and repeats.numel() == 1:
        repeats = repeats.reshape(1).expand(of.numel() if dim is None else _side(of, dim))
    if bool((repeats < 0).any()) or float(repeats.double().sum()) >= 1 << 62:
        return False
    return given.get("output_size") in {None, int(repeats.sum())}


def _quotients_fit(given: Mapping[str, Any]) -> bool:
    of, by = given["self"], given["other"]
    dtype = torch.result_type(of, by)
    on_cpu = not any(isinstance(one, Tensor) and one.is_cuda for one in (of, by))
    if not on_cpu or dtype not in {torch.int32, torch.int64} or not (isinstance(by, Tensor) or by == -1):
        return True
    # The smallest of its type, which is compared after it has become that type: others can't even hold it.
    lowest = torch.as_tensor(of).to(dtype) == torch.iinfo(dtype).min
    return not bool((lowest & (torch.as_tensor(by) == -1)).any())


def _rounded_quotients_fit(given: Mapping[str, Any]) -> bool:
    return given.get("rounding_mode") is None or _quotients_fit(given)


def _divisor_fits(given: Mapping[str, Any]) -> bool:
    return given["self"].is_floating_point() or (given.get("divisor_override") or 0) >= 0


def _are_within(tensor: Tensor, low: int, end: int) -> bool:
    least, most = torch.aminmax(tensor)
    return int(least) >= low and int(most) < end


def _side(tensor: Tensor, dim: int) -> int:
    return tensor.shape[dim] if tensor.dim() else 1


def in_range(call: Any) -> Callable[..., Any]:
    """The operator, behind a look at its indices where they are on a GPU.

    There one that is out of range ends the process, with everybody's batch; a CPU raises IndexError by itself, as this
    does. The look waits for the device, so it is for what can't be seen in a request's own tensors.
    """
    indices = _INDICES.get(name_of(call))
    if indices is None:
        return call  # type: ignore[no-any-return]
    names = [argument.name for argument in _schema(call).arguments]

    def run(*args: Any, **kwargs: Any) -> Any:
        for tensor, least, end in indices(dict(zip(names, args, strict=False)) | kwargs):
            if _is_unchecked(tensor) and tensor.numel() and not _are_within(tensor, least, end):
                raise IndexError(f"{name_of(call)}: index out of range")
        return call(*args, **kwargs)

    return run


def _is_unchecked(tensor: Any) -> bool:
    return bool(tensor.is_cuda)


Indices = list[tuple[Any, int, int]]
"""Tensors of numbers, the least that each may hold, and the one that is too large."""


def _by_axes(given: Mapping[str, Any]) -> Indices:
    found: Indices = []
    axis = 0
    for one in given["indices"]:
        is_mask = one is not None and one.dtype in {torch.bool, torch.uint8}
        if one is not None and not is_mask:
            size = given["self"].shape[axis]
            found.append((one, -size, size))
        axis += one.dim() if is_mask else 1  # of a mask, torch looks at the shape before anything runs
    return found


def _along(given: Mapping[str, Any]) -> Indices:
    return [(given["index"], 0, _side(given["self"], given["dim"]))]


def _along_or_flat(given: Mapping[str, Any]) -> Indices:
    of, dim = given["self"], given.get("dim")
    return [(given["indices"], 0, of.numel()) if dim is None else (given["indices"], -_side(of, dim), _side(of, dim))]


def _anywhere(given: Mapping[str, Any]) -> Indices:
    return [(given["index"], -given["self"].numel(), given["self"].numel())]


def _classes(given: Mapping[str, Any]) -> Indices:
    count = given.get("num_classes", -1)
    return [(given["self"], 0, count if count > 0 else 1 << 62)]


def _taken(given: Mapping[str, Any]) -> Indices:
    """As many numbers are taken from the source, in order, as the mask says."""
    mask = given["mask"] & torch.ones_like(given["self"], dtype=torch.bool)
    return [(mask.sum(), 0, given["source"].numel() + 1)]


_INDICES: dict[str, Callable[[Mapping[str, Any]], Indices]] = {
    "embedding": lambda given: [(given["indices"], 0, given["weight"].shape[0])],
    "gather": _along,
    "index_add": _along,
    "index_copy": _along,
    "index_select": _along,
    "scatter": _along,
    "scatter_add": _along,
    "scatter_reduce": _along,
    "take": _anywhere,
    "take_along_dim": _along_or_flat,
    "index": _by_axes,
    "_unsafe_index": _by_axes,
    "index_put": _by_axes,
    "one_hot": _classes,
    "masked_scatter": _taken,
}
_SIZES = "the sizes of the tensors don't fit each other"
_BAGS = "the offsets must begin with 0, not fall and stay within the indices, and these within the table"
_REPEATS = "the repeats don't fit: they must be 0 or more, and their sum one of memory"
_QUOTIENTS = "the smallest whole number divided by -1 doesn't fit its type"
_DIVISOR = "sums of whole numbers are divided by no negative number"
_FITS: dict[str, tuple[Callable[[Mapping[str, Any]], bool], str]] = {
    "native_batch_norm": (_statistics_fit, _SIZES),
    "_native_batch_norm_legit_no_training": (_statistics_fit, _SIZES),
    "native_group_norm": (_groups_fit, _SIZES),
    "_scaled_dot_product_flash_attention_for_cpu": (_attention_fits, _SIZES),
    "embedding_bag": (_bags_fit, _BAGS),
    "_embedding_bag": (_bags_fit, _BAGS),
    "repeat_interleave": (_repeats_fit, _REPEATS),
    "div": (_rounded_quotients_fit, _QUOTIENTS),
    "div_": (_rounded_quotients_fit, _QUOTIENTS),
    "divide": (_rounded_quotients_fit, _QUOTIENTS),
    "floor_divide": (_quotients_fit, _QUOTIENTS),
    "fmod": (_quotients_fit, _QUOTIENTS),
    "remainder": (_quotients_fit, _QUOTIENTS),
    "avg_pool2d": (_divisor_fits, _DIVISOR),
    "avg_pool3d": (_divisor_fits, _DIVISOR),
}
"""What must be true of the arguments, and what to say when it isn't."""


def refuse(problem: str) -> NoReturn:
    """Raise InvalidPackage about an archive's graph."""
    text = f"The archive's graph is refused: {problem}"
    raise InvalidPackage(text if text.endswith(".") else f"{text}.")


def _schema(call: Any) -> Any:
    """What torch says about an operator; it has no other name for that."""
    return call._schema  # noqa: SLF001
