"""What a directory of transformers says about its model, told from its JSON files alone: nothing here imports torch.

`complete` is called by `identify`, in control as in a worker; it refuses what must never be opened, and fills in what
seaway.yaml leaves out: the task, the input type, the labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from seaway.errors import InvalidPackage
from seaway.packages import InputSpec, OutputSpec, PackageSpec
from seaway.packages.manifest import safe_path
from seaway.packages.spec import SPEC_FILE
from seaway.runtimes.torch_files import read_json, refuse_code
from seaway.types import Json


class Task(NamedTuple):
    """What a model is for."""

    input: str
    """The input type."""
    architectures: str
    """How the names of the classes end that do it."""
    labelled: bool


MAX_LABELS = 100_000
TASKS = {
    "text-classification": Task("text", "ForSequenceClassification", True),
    "token-classification": Task("text", "ForTokenClassification", True),
    "image-classification": Task("image", "ForImageClassification", True),
    "embeddings": Task("text", "", False),
    "feature-extraction": Task("text", "", False),
}
_REMOTE = ("auto_map", "custom_pipelines", "trust_remote_code")
"""Keys of config.json that name code to be fetched and run."""
_FOREIGN = ("quantization_config", "adapter_config", "compression_config", "transformers_weights")
"""Keys that make transformers load further libraries or files."""
_POOLINGS = {
    "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}  # fmt: skip
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By pillow's numbers, which preprocessor_config.json has."""
_NUMBERED_FROM_PADDING = frozenset(
    {
        "camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm",
        "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip
"""Their positions begin behind the number of the padding token: 514 of them are enough for 512 tokens."""
_HUGE_LENGTH = 1_000_000
"""Tokenizers without a limit say 1e30."""
DEFAULT_MAX_TOKENS = 256


class Pooling(NamedTuple):
    """How one vector is made of a text's token vectors."""

    how: str
    """cls, mean, max or last."""
    normalize: bool


def complete(package: Path, spec: PackageSpec) -> PackageSpec:
    """`spec` with the task and what follows from it. Raises InvalidPackage saying what is missing or refused."""
    refuse_code(package)
    config = read_json(package, "config.json")
    check_config(config)
    weight_files(package, spec.model or "")
    name = spec.task or infer_task(package, config)
    task = TASKS.get(name)
    if task is None:
        raise InvalidPackage(f"{SPEC_FILE}: task: there is none called {name!r}; there are: {', '.join(TASKS)}.")
    _check_architecture(name, task, config)
    if task.labelled:
        labels_of(config)
    if name == "embeddings":
        pooling_of(package)
    spec = msgspec.structs.replace(spec, task=name)
    if spec.input.type in {"", task.input}:
        options = _text(package, spec, config) if task.input == "text" else _image(package, spec, config)
        made = InputSpec(type=task.input, allow_nonfinite=spec.input.allow_nonfinite, options=options)
        spec = msgspec.structs.replace(spec, input=made)
    if spec.output == OutputSpec() and task.labelled:
        spec = msgspec.structs.replace(spec, output=_output(name, config))
    return spec


def check_config(config: Json) -> None:
    """Raise InvalidPackage for a config.json that names code, weights that other libraries unpack, or absurd labels."""
    for key in _REMOTE:
        if _holds(config, key):
            raise InvalidPackage(
                f"config.json has {key!r}: the model needs code of its own, which is never run. Use an architecture "
                "that transformers has, or export the model to ONNX."
            )
    for key in _FOREIGN:
        if config.get(key) is not None:
            raise InvalidPackage(f"config.json has {key!r}, which is not supported; save the plain model.")
    if not isinstance(config.get("model_type"), str):
        raise InvalidPackage("config.json has no 'model_type'; save the model with save_pretrained.")
    _label_count(config)


def infer_task(package: Path, config: Json) -> str:
    """The task by the class that the model was saved from. Raises InvalidPackage when that is for several."""
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str):
        raise InvalidPackage(f"config.json has no 'architectures'; write `task` in {SPEC_FILE}: {', '.join(TASKS)}.")
    for task, known in TASKS.items():
        if known.architectures and name.endswith(known.architectures):
            return task
    if (package / "modules.json").is_file():
        return "embeddings"
    raise InvalidPackage(
        f"config.json names the architecture {name!r}, which leaves open what it is for; write `task` in {SPEC_FILE}: "
        "embeddings (one vector a text) or feature-extraction (one a token)."
    )


def weight_files(package: Path, model: str) -> list[str]:
    """The safetensors files of the model: itself, or those that its index names, which have to be there."""
    if not model.endswith(".json"):
        return [model]
    mapping = read_json(package, model).get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(name, str) for name in mapping.values()):
        raise InvalidPackage(f"{model!r} has no 'weight_map'; save the model with save_pretrained.")
    names = sorted(set(mapping.values()))
    for name in names:
        if safe_path(name).suffix != ".safetensors":
            raise InvalidPackage(f"{model!r} names {name!r}; only safetensors files are read.")
        if not (package / name).is_file() or (package / name).is_symlink():
            raise InvalidPackage(f"{model!r} names {name!r}, which is not in the package; add it.")
    return names


def labels_of(config: Json) -> tuple[str, ...]:
    """`id2label` of config.json in the order of the numbers. Raises InvalidPackage when one is missing."""
    found = config.get("id2label")
    if not isinstance(found, dict) or not found:
        found = {str(number): f"LABEL_{number}" for number in range(_label_count(config))}
    try:
        numbered = {int(number): str(label) for number, label in found.items()}
    except ValueError as error:
        raise InvalidPackage("config.json: 'id2label' must have numbers as keys.") from error
    if sorted(numbered) != list(range(len(numbered))):
        raise InvalidPackage("config.json: 'id2label' must number the labels from 0 on, without gaps.")
    return tuple(numbered[number] for number in range(len(numbered)))


def is_multi_label(config: Json) -> bool:
    """True where each label is true or false by itself."""
    return config.get("problem_type") == "multi_label_classification"


def is_regression(config: Json) -> bool:
    """True where the model gives a number and no classes."""
    return config.get("problem_type") == "regression" or len(labels_of(config)) == 1


def pooling_of(package: Path) -> Pooling:
    """As sentence-transformers wrote it down; mean and length 1 without that. Raises InvalidPackage for other ways."""
    if not (package / "modules.json").is_file():
        return Pooling("mean", True)
    modules = _read_list(package, "modules.json")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if unknown := [kind for kind in kinds if kind not in {"Transformer", "Pooling", "Normalize"}]:
        raise InvalidPackage(f"modules.json has a module {unknown[0]!r}; Transformer, Pooling and Normalize are known.")
    path = next((str(module.get("path")) for module, kind in zip(modules, kinds, strict=True) if kind == "Pooling"), "")
    how = _pooling(package, str(safe_path(path) / "config.json")) if path else "mean"
    _check_prompts(package)
    return Pooling(how, "Normalize" in kinds)


# --------------------------------------------------------------------------- parts of the above


def _label_count(config: Json) -> int:
    """`num_labels`, for which transformers makes as many names whatever the task."""
    count = config.get("num_labels") or 2
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_LABELS:
        raise InvalidPackage(
            f"config.json: 'num_labels' must be a number from 1 to {MAX_LABELS}, not {str(count)[:40]!r}."
        )
    return count


def _holds(value: Any, key: str) -> bool:
    """True when `key` is in a JSON value, at whatever depth."""
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            if key in value:
                return True
            todo += value.values()
        elif isinstance(value, list):
            todo += value
    return False


def _check_architecture(name: str, task: Task, config: Json) -> None:
    architectures = config.get("architectures")
    if task.architectures and isinstance(architectures, list) and architectures:
        known = str(architectures[0])
        if not known.endswith(task.architectures):
            raise InvalidPackage(f"{SPEC_FILE}: task: {name} needs a ...{task.architectures}, not {known}.")


def _pooling(package: Path, file: str) -> str:
    config = read_json(package, file)
    if isinstance(how := config.get("pooling_mode"), str):
        modes = [{"lasttoken": "last"}.get(how, how)]
    else:
        on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
        modes = [_POOLINGS.get(key, key) for key in on]
    if len(modes) != 1 or modes[0] not in _POOLINGS.values():
        raise InvalidPackage(f"{file!r} pools by {', '.join(modes) or 'nothing'}; known are cls, mean, max, last.")
    return modes[0]


def _check_prompts(package: Path) -> None:
    name = "config_sentence_transformers.json"
    if (package / name).is_file() and read_json(package, name).get("default_prompt_name") is not None:
        raise InvalidPackage(f"{name!r} has a default prompt, which is not put before texts here; clients have to.")


def _text(package: Path, spec: PackageSpec, config: Json) -> Json:
    """Options of the input type `text`: as many tokens as the model takes."""
    options = dict(spec.input.options)
    if not (package / str(options.get("tokenizer", "tokenizer.json"))).is_file():
        raise InvalidPackage(
            "The file 'tokenizer.json' is missing; save the tokenizer with AutoTokenizer.from_pretrained(...)"
            ".save_pretrained(...)."
        )
    limits = [limit for limit in _token_limits(package, config) if isinstance(limit, int) and 0 < limit < _HUGE_LENGTH]
    options.setdefault("max_tokens", min(limits, default=DEFAULT_MAX_TOKENS))
    known, wanted = positions(config), options["max_tokens"]
    if isinstance(known, int) and isinstance(wanted, int) and 0 < known < wanted:
        raise InvalidPackage(f"{SPEC_FILE}: input.max_tokens: {wanted} are more than the model takes: {known}.")
    return options


def _token_limits(package: Path, config: Json) -> list[Any]:
    limits = [positions(config)]
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        if (package / name).is_file():
            limits.append(read_json(package, name).get(key))
    return limits


def positions(config: Json) -> Any:
    """Tokens that the model has positions for, as config.json says it."""
    limit, padding = config.get("max_position_embeddings"), config.get("pad_token_id")
    if limit is None and "relative_attention_num_buckets" not in config:
        return config.get("n_positions")  # GPT-2 and its kin; T5 has the key, too, and no end to its positions
    if config.get("model_type") in _NUMBERED_FROM_PADDING and isinstance(limit, int) and isinstance(padding, int):
        return limit - padding - 1
    return limit


def _image(package: Path, spec: PackageSpec, config: Json) -> Json:
    """Options of the input type `image`, from preprocessor_config.json."""
    if spec.input.options:
        return spec.input.options
    found = read_json(package, "preprocessor_config.json")
    size = found.get("size") or {}
    size = {"height": size, "width": size} if isinstance(size, int) else size
    if not isinstance(size, dict):
        raise InvalidPackage(
            f"preprocessor_config.json: 'size' must be a number or height and width, not {size!r:.60}."
        )
    if found.get("do_center_crop") or "height" not in size or "width" not in size:
        _stretch("it keeps the sides' ratio and crops, while Seaway stretches a picture to its size")
    mode = "L" if config.get("num_channels") == 1 else "RGB"
    options: Json = {"width": size["width"], "height": size["height"], "mode": mode}
    resample = found.get("resample", 2)
    known = isinstance(resample, int) and resample in range(len(_RESAMPLING))
    options["resample"] = _RESAMPLING[resample] if known else "bilinear"
    options["scale"] = found.get("rescale_factor", 1 / 255) if found.get("do_rescale", True) else 1.0
    if found.get("do_normalize", True):
        options |= {"mean": found.get("image_mean", []), "std": found.get("image_std", [])}
    return options


def _stretch(problem: str) -> NoReturn:
    raise InvalidPackage(
        f"preprocessor_config.json can't be followed: {problem}. Write `input` in {SPEC_FILE} with type image and its "
        "width, height, mean and std."
    )


def _output(task: str, config: Json) -> OutputSpec:
    if is_regression(config):
        return OutputSpec()
    tensor = "scores" if is_multi_label(config) and task != "token-classification" else "logits"
    return OutputSpec(tensor=tensor, softmax=tensor == "logits", labels=labels_of(config))


def _read_list(package: Path, name: str) -> list[Json]:
    file = package / name
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[dict[str, Any]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPackage(f"{name!r} is not a list of modules: {error}.") from error
