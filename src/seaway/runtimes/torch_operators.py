"""Which of torch's operators a stranger's graph may call."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch._ops import OpOverload

from seaway.errors import InvalidPackage

_COMPUTING = """
__and__ __or__ __xor__ _adaptive_avg_pool2d _adaptive_avg_pool3d _cdist_forward _embedding_bag _log_softmax
_native_batch_norm_legit_no_training _scaled_dot_product_flash_attention_for_cpu _softmax _to_copy _trilinear
_unsafe_index _unsafe_view abs acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
adaptive_max_pool1d adaptive_max_pool2d add addbmm addcdiv addcmul addmm addmv alias all alpha_dropout amax amin
aminmax any arange arccos arcsin arctan argmax argmin argsort as_strided asin asinh atan atan2 atanh avg_pool1d
avg_pool2d avg_pool3d baddbmm batch_norm bilinear bitwise_and bitwise_left_shift bitwise_not bitwise_or
bitwise_right_shift bitwise_xor bmm broadcast_tensors broadcast_to bucketize cat cdist ceil celu chunk clamp clamp_max
clamp_min clip clone col2im concat constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d
convolution copysign cos cosh cosine_similarity count_nonzero cross cumprod cumsum deg2rad detach diag diagonal diff
div divide dot dropout einsum elu embedding embedding_bag eq erf erfc erfinv exp exp2 expand expand_as expm1 eye
feature_dropout fill flatten flip fliplr flipud floor floor_divide fmax fmin fmod frac full full_like gather ge gelu
glu grid_sampler grid_sampler_2d group_norm gru gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot im2col
index index_add index_copy index_put index_select instance_norm isfinite isinf isnan kthvalue layer_norm le leaky_relu
lerp lift_fresh lift_fresh_copy linalg_norm linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid
log_softmax logaddexp logical_and logical_not logical_or logical_xor logit logsumexp lstm lt masked_fill
masked_scatter masked_select matmul max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d maximum mean median
meshgrid min minimum mish mm movedim mul multiply mv nan_to_num narrow native_batch_norm
native_group_norm native_layer_norm ne neg new_full new_ones new_zeros nonzero norm numpy_T one_hot ones ones_like
outer pad permute pixel_shuffle pixel_unshuffle polar pow prelu prod reciprocal reflection_pad1d reflection_pad2d relu
relu6 remainder repeat repeat_interleave replication_pad1d replication_pad2d reshape resolve_conj resolve_neg rms_norm
roll rot90 round rrelu rsqrt rsub scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce
searchsorted select select_scatter selu sigmoid sign silu sin sinh slice slice_scatter softmax softplus softshrink
sort split split_with_sizes sqrt square squeeze stack std std_mean sub subtract sum swapaxes swapdims sym_numel
sym_size sym_storage_offset sym_stride t take take_along_dim tan tanh tensor_split tile to topk transpose
triangular_solve tril triu trunc type_as unbind unflatten unfold unsafe_chunk unsafe_split unsqueeze
upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
upsample_trilinear3d var var_mean view view_as view_as_complex view_as_real where zeros zeros_like
"""
_CHANGING = """
add_ clamp_ clamp_max_ clamp_min_ div_ elu_ exp_ fill_ gelu_ hardsigmoid_ hardswish_ hardtanh_ leaky_relu_
masked_fill_ mish_ mul_ neg_ relu6_ relu_ sigmoid_ silu_ sub_ tanh_ zero_
"""
OPERATORS = frozenset(_COMPUTING.split())
"""They compute tensors from tensors. None of them reads files, draws lots, keeps a state, or shows memory of others."""
IN_PLACE = frozenset(_CHANGING.split())
"""May change what an operator before them has made, and neither weights nor inputs."""
LEFT_OUT = frozenset(
    {
        "_assert_async", "_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range",
        "sym_constrain_range_for_size",
    }
)  # fmt: skip
"""Checks that export adds by itself: of the device and dtype that it happened to have, and of sizes."""
_PASSES_ON = frozenset({"alpha_dropout", "dropout", "feature_dropout", "type_as"})
"""May give back what they got, and don't declare it."""
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
    if name not in OPERATORS and name not in IN_PLACE:
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
    return name not in _PASSES_ON and all(one.alias_info is None for one in _schema(call).returns)


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
    """The operator, behind a look at the sizes that torch itself only looks at in the operator around it.

    Without, it would compute with whatever lies behind a tensor in memory. Raises RuntimeError as torch does.
    """
    fits = _FITS.get(name_of(call))
    if fits is None:
        return call  # type: ignore[no-any-return]
    names = [argument.name for argument in _schema(call).arguments]

    def run(*args: Any, **kwargs: Any) -> Any:
        if not fits(dict(zip(names, args, strict=False)) | kwargs):
            raise RuntimeError(f"the sizes of the tensors given to {name_of(call)} don't fit each other")
        return call(*args, **kwargs)

    return run


def _statistics_fit(given: Mapping[str, Any]) -> bool:
    channels = given["input"].shape[1:2]
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
        for tensor, size in indices(dict(zip(names, args, strict=False)) | kwargs):
            if _is_unchecked(tensor) and tensor.numel():
                low, high = torch.aminmax(tensor)
                if int(low) < (-size if name_of(call) in _FROM_THE_END else 0) or int(high) >= size:
                    raise IndexError(f"{name_of(call)}: index out of range")
        return call(*args, **kwargs)

    return run


def _is_unchecked(tensor: Any) -> bool:
    return bool(tensor.is_cuda)


def _by_axes(given: Mapping[str, Any]) -> list[tuple[Any, int]]:
    found = given["indices"]
    if any(one is not None and one.dtype in {torch.bool, torch.uint8} for one in found):
        return []  # masks, whose shapes are looked at before anything runs
    return [(one, given["self"].shape[axis]) for axis, one in enumerate(found) if one is not None]


_FROM_THE_END = frozenset({"index", "_unsafe_index"})
_INDICES: dict[str, Callable[[Mapping[str, Any]], list[tuple[Any, int]]]] = {
    "embedding": lambda given: [(given["indices"], given["weight"].shape[0])],
    "gather": lambda given: [(given["index"], given["self"].shape[given["dim"]])],
    "index_select": lambda given: [(given["index"], given["self"].shape[given["dim"]])],
    "index": _by_axes,
    "_unsafe_index": _by_axes,
}
_FITS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "native_batch_norm": _statistics_fit,
    "_native_batch_norm_legit_no_training": _statistics_fit,
    "native_group_norm": _groups_fit,
    "_scaled_dot_product_flash_attention_for_cpu": _attention_fits,
}


def refuse(problem: str) -> NoReturn:
    """Raise InvalidPackage about an archive's graph."""
    text = f"The archive's graph is refused: {problem}"
    raise InvalidPackage(text if text.endswith(".") else f"{text}.")


def _schema(call: Any) -> Any:
    """What torch says about an operator; it has no other name for that."""
    return call._schema  # noqa: SLF001
