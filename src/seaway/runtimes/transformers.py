"""Models in transformers' own directories: config.json and safetensors, never code and never the network.

The library gets a configuration and tensors; it is told no path, so that it can't find other files by itself.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from seaway.errors import InvalidPackage, InvalidRequest, PayloadTooLarge
from seaway.packages import PackageSpec
from seaway.runtimes.base import Array
from seaway.runtimes.torch_device import Staged, Stop, TorchSession, check_range, choose_device, choose_dtype
from seaway.runtimes.torch_files import read_json
from seaway.runtimes.transformers_files import (
    TASKS,
    Pooling,
    is_multi_label,
    labels_of,
    pooling_of,
    positions,
    weight_files,
)  # fmt: skip
from seaway.runtimes.transformers_sizes import check_sizes
from seaway.types import Json, Signature, TensorSpec

IDS, MASK, TYPE_IDS, PIXELS = "input_ids", "attention_mask", "token_type_ids", "pixel_values"
CLASSES = {
    "text-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
    "embeddings": "MODEL_MAPPING",
    "feature-extraction": "MODEL_MAPPING",
}
"""Where transformers keeps the class for a task, by configuration."""
_PLAIN_ATTENTION = frozenset({"albert", "bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"})
"""Encoders whose attention takes a ready mask of truth values (MPNet adds it). Of any other mask, transformers asks the
device whether it masks anything at all, and waits for the answer."""

# Nothing here asks for a file by name; should transformers ever do so by itself, it gets none from the network.
huggingface_hub.constants.HF_HUB_OFFLINE = True
transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


class TransformersRuntime:
    """Loads a directory that `save_pretrained` wrote."""

    def load(
        self, package: Path, spec: PackageSpec, *, threads: int, device: str = "auto", dtype: str = "auto"
    ) -> TransformersSession:
        place = choose_device(device)
        computed = choose_dtype(dtype, place)
        config = read_json(package, "config.json")
        task = spec.task or ""
        model = _open(package, spec.model or "", task, config).to(device=place, dtype=computed).eval()
        stop = Stop()
        for module in model.modules():
            if isinstance(module, nn.ModuleList):
                for layer in module:
                    layer.register_forward_pre_hook(stop.check)
        pooling = pooling_of(package) if task == "embeddings" else None
        signature = _signature(model, task, config, package)
        forward = _Forward(model, task, pooling, plain=config["model_type"] in _PLAIN_ATTENTION)
        return TransformersSession(
            forward, signature, platform="pytorch_transformers", place=(place, computed), threads=threads, stop=stop
        )


class TransformersSession(TorchSession):
    """Knows besides how many tokens, and which, the model has entries for."""

    _forward: _Forward

    def check(self, feeds: Mapping[str, Array]) -> None:
        super().check(feeds)
        ids = feeds.get(IDS)
        if ids is None:
            return
        limits = self._forward.limits
        width = ids.shape[1]
        if width == 0:
            raise InvalidRequest(f"{IDS!r} has no tokens; send at least one.")
        if limits.positions is not None and width > limits.positions:
            raise PayloadTooLarge(f"{IDS!r} has {width} tokens; the model takes {limits.positions}.")
        for name in (MASK, TYPE_IDS):
            if name in feeds and feeds[name].shape != ids.shape:
                shape = list(feeds[name].shape)
                raise InvalidRequest(f"{name!r} has shape {shape}; it must be that of {IDS!r}: {list(ids.shape)}.")
        check_range(ids, IDS, limits.vocabulary)
        if TYPE_IDS in feeds:
            check_range(feeds[TYPE_IDS], TYPE_IDS, limits.types)

    def stage(self, feeds: Mapping[str, Array]) -> Staged:
        mask = feeds.get(MASK)
        if mask is not None and self._forward.plain and mask.all():
            # Without padding nothing is masked: known here at no cost, and the device then has a faster way.
            feeds = {name: array for name, array in feeds.items() if name != MASK}
        return super().stage(feeds)


class _Limits:
    """What token ids and their number must stay below."""

    def __init__(self, model: Any) -> None:
        config = model.config.to_dict()
        limit = positions(config)
        self.positions: int | None = limit if isinstance(limit, int) and limit > 0 else None
        embeddings = model.get_input_embeddings()
        self.vocabulary: int = getattr(embeddings, "num_embeddings", config.get("vocab_size") or 1 << 62)
        self.types: int = config.get("type_vocab_size") or 1


class _Forward:
    """From tensors on the device to the outputs of a task."""

    def __init__(self, model: Any, task: str, pooling: Pooling | None, *, plain: bool) -> None:
        self._model = model
        self._pooling = pooling
        self._answer = _ANSWERS[task]
        self._multi = is_multi_label(model.config.to_dict())
        self.plain = plain
        if TASKS[task].input == "text":
            self.limits = _Limits(model)

    def __call__(self, tensors: Mapping[str, Tensor], outputs: Sequence[str]) -> list[Tensor]:
        feeds = dict(tensors)
        mask = feeds.get(MASK)
        if self.plain and IDS in feeds:
            feeds.pop(MASK, None)
            if mask is not None:
                feeds[MASK] = mask.bool()[:, None, None, :]
        found = self._model(**feeds, return_dict=True)
        made = self._answer(self, found, mask)
        return [made[name] for name in outputs]

    def classes(self, found: Any, mask: Tensor | None) -> dict[str, Tensor]:
        logits = found.logits.float()
        return {"logits": logits} | ({"scores": logits.sigmoid()} if self._multi else {})

    def states(self, found: Any, mask: Tensor | None) -> dict[str, Tensor]:
        return {"last_hidden_state": found.last_hidden_state}

    def embedding(self, found: Any, mask: Tensor | None) -> dict[str, Tensor]:
        assert self._pooling is not None  # noqa: S101 - `load` gives it for this task
        states = found.last_hidden_state.float()
        vectors = _POOLED[self._pooling.how](states, mask)
        return {"embedding": nn.functional.normalize(vectors, dim=-1) if self._pooling.normalize else vectors}


_ANSWERS: dict[str, Callable[[_Forward, Any, Tensor | None], dict[str, Tensor]]] = {
    "text-classification": _Forward.classes,
    "token-classification": _Forward.classes,
    "image-classification": _Forward.classes,
    "embeddings": _Forward.embedding,
    "feature-extraction": _Forward.states,
}


def _mean(states: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return states.mean(1)
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _cls(states: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return states[:, 0]
    return _at(states, mask.argmax(1))  # padding may be on the left


def _max(states: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        states = states.masked_fill(mask.unsqueeze(-1) == 0, -1e9)
    return states.amax(1)


def _last(states: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return states[:, -1]
    return _at(states, mask.shape[1] - 1 - mask.flip(1).argmax(1))


def _at(states: Tensor, where: Tensor) -> Tensor:
    return states.gather(1, where[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1)


_POOLED: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {"mean": _mean, "cls": _cls, "max": _max, "last": _last}


# --------------------------------------------------------------------------- opening


def _open(package: Path, file: str, task: str, config: Json) -> Any:
    """The model with its weights, every one of them. Raises InvalidPackage."""
    check_sizes(config, file, _shapes(package, file), text=TASKS[task].input == "text")
    kind, made = _class(task, config)
    weights = _weights(package, file)
    more = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}
    try:
        model, report = _load(kind, made, weights, **(more if not TASKS[task].labelled else {}))
    except (
        RuntimeError, ValueError, LookupError, TypeError, AttributeError, ImportError, AssertionError, ArithmeticError
    ) as error:  # fmt: skip
        raise InvalidPackage(f"{file!r} doesn't fit config.json: {_brief(error)}") from error
    except MemoryError as error:
        raise InvalidPackage(f"{file!r} needs more memory to load than is allowed.") from error
    _check_keys(file, report, headless=not TASKS[task].labelled, prefix=str(kind.base_model_prefix))
    return model


def _class(task: str, config: Json) -> tuple[Any, Any]:
    """transformers' own class for the task, and its configuration."""
    name = config["model_type"]
    try:
        kind = transformers.CONFIG_MAPPING[name]
    except KeyError as error:
        raise InvalidPackage(f"config.json: transformers has no model_type {name!r}; is it too old?") from error
    try:
        made = kind.from_dict(config)
        return getattr(transformers, CLASSES[task])[kind], made
    except KeyError as error:
        raise InvalidPackage(f"config.json: models of type {name!r} don't do {task} in transformers.") from error
    except Exception as error:
        raise InvalidPackage(f"config.json is not accepted by transformers: {_brief(error)}") from error


def _shapes(package: Path, file: str) -> list[Sequence[int]]:
    """Of all tensors, from the files' heads alone."""
    shapes: list[Sequence[int]] = []
    for name in weight_files(package, file):
        with _safetensors(name), safe_open(package / name, framework="pt") as opened:
            shapes += [opened.get_slice(key).get_shape() for key in opened.keys()]  # noqa: SIM118 - it is no mapping
    return shapes


def _weights(package: Path, file: str) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name in weight_files(package, file):
        with _safetensors(name):
            weights |= load_file(package / name)
    return weights


@contextlib.contextmanager
def _safetensors(name: str) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidPackage(f"{name!r} is not a safetensors file: {_brief(error)}") from error


def _load(kind: Any, config: Any, weights: dict[str, Tensor], **more: Any) -> tuple[Any, Json]:
    # Tensors of another shape are refused by `_check_keys`, which says which; transformers doesn't.
    common = {
        "config": config, "state_dict": weights, "output_loading_info": True, "local_files_only": True,
        "ignore_mismatched_sizes": True,
    }  # fmt: skip
    try:
        return kind.from_pretrained(None, dtype=torch.float32, attn_implementation="sdpa", **common, **more)  # type: ignore[no-any-return]
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
    return kind.from_pretrained(None, dtype=torch.float32, attn_implementation="eager", **common, **more)  # type: ignore[no-any-return]


def _check_keys(file: str, report: Json, *, headless: bool, prefix: str) -> None:
    """Weights that are missing would be made up by chance, those left over belong to another model."""
    if wrong := sorted((str(key), list(found), list(needed)) for key, found, needed in report["mismatched_keys"]):
        name, found, needed = wrong[0]
        rest = f" {len(wrong) - 1} more have another shape, too." if len(wrong) > 1 else ""
        raise InvalidPackage(f"{file!r}: {name!r} has the shape {found}; config.json needs {needed}.{rest}")
    missing = sorted(str(key) for key in report["missing_keys"])
    if missing:
        raise InvalidPackage(f"{file!r} lacks {_list(missing)}, which the model of config.json needs.")
    unexpected = sorted(str(key) for key in report["unexpected_keys"])
    if headless:
        # The weights may be of a model with a head, which isn't used then; what has the body's name belongs to it.
        unexpected = [key for key in unexpected if key.startswith(f"{prefix}.") and ".pooler." not in key]
    if unexpected:
        raise InvalidPackage(f"{file!r} has {_list(unexpected)}, for which the model of config.json has no place.")


def _signature(model: Any, task: str, config: Json, package: Path) -> Signature:
    if TASKS[task].input == "image":
        inputs: tuple[TensorSpec, ...] = (TensorSpec(PIXELS, "FP32", _picture(model, package)),)
    else:
        taken = inspect.signature(model.forward).parameters
        names = [IDS] + ([MASK] if MASK in taken else [])
        if TYPE_IDS in taken and (config.get("type_vocab_size") or 0) > 1:
            names.append(TYPE_IDS)
        inputs = tuple(TensorSpec(name, "INT64", (-1, -1)) for name in names)
    return Signature(inputs, _outputs(model, task, config))


def _outputs(model: Any, task: str, config: Json) -> tuple[TensorSpec, ...]:
    if task == "embeddings":
        return (TensorSpec("embedding", "FP32", (-1, model.config.hidden_size)),)
    if task == "feature-extraction":
        return (TensorSpec("last_hidden_state", "FP32", (-1, -1, model.config.hidden_size)),)
    shape = (-1, -1) if task == "token-classification" else (-1,)
    names = ["logits", "scores"] if is_multi_label(config) else ["logits"]
    return tuple(TensorSpec(name, "FP32", (*shape, len(labels_of(config)))) for name in names)


def _picture(model: Any, package: Path) -> tuple[int, ...]:
    """[samples, channels, height, width]; sides are fixed where the model has an image size."""
    config = model.config
    size = getattr(config, "image_size", None)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return (-1, getattr(config, "num_channels", 3), height or -1, width or -1)


def _list(keys: list[str]) -> str:
    rest = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"{keys[0]!r}{rest}"


def _brief(error: Exception) -> str:
    """The first line that says something, short and without paths."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    line = " ".join("..." if word.startswith("/") else word for word in line.split())
    return line.rstrip(".")[:300] + "."
