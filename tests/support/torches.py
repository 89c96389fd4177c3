"""Tiny packages for torch and transformers made on the spot, sound ones and traps."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "dog", "sat", "ran", "fast", "slowly")
POSITIONS = 16
TINY = {
    "vocab_size": len(WORDS), "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": POSITIONS,
}  # fmt: skip
LABELS = {0: "bad", 1: "good", 2: "odd"}


class Trap:
    """Unpickled, it makes a directory of this name: what a shell command would do, and easier to see."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"mkdir {self.path}",)


def write_tokenizer(package: Path) -> None:
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(package / "tokenizer.json"))


def write_bert(package: Path, kind: str = "BertModel", spec: str = "", **config: Any) -> Any:
    """A directory with a BERT of two layers and random weights; what transformers made of it comes back."""
    torch.manual_seed(0)
    package.mkdir(parents=True, exist_ok=True)
    model = getattr(transformers, kind)(transformers.BertConfig(**(TINY | config))).eval()
    model.save_pretrained(package)
    write_tokenizer(package)
    if spec:
        (package / "seaway.yaml").write_text(spec)
    return model


def write_classifier(package: Path, kind: str, **config: Any) -> Any:
    """A classifier of a kind that transformers has, all of its weights by chance; gives the model."""
    torch.manual_seed(0)
    made = transformers.AutoConfig.for_model(kind, vocab_size=len(WORDS), num_labels=len(LABELS), **config)
    model = transformers.AutoModelForSequenceClassification.from_config(made).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5)  # the padding's row, too, which is zero otherwise
    model.save_pretrained(package)
    write_tokenizer(package)
    return model


def write_vit(package: Path) -> Any:
    """A vision transformer for pictures of 8 x 8 pixels."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        id2label=LABELS, label2id={name: number for number, name in LABELS.items()},
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(package)
    processor = {
        "do_resize": True, "size": {"height": 8, "width": 8}, "resample": 2, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    (package / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


def edit_config(package: Path, **keys: Any) -> None:
    """Change config.json; None removes a key."""
    file = package / "config.json"
    config = json.loads(file.read_text()) | keys
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


# --------------------------------------------------------------------------- archives and layers


class Scale(nn.Module):
    """y = factor * x."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": x * self.factor}


def archive(model: nn.Module, *inputs: Tensor, rows: bool = True, **dimensions: Any) -> bytes:
    """`model` through torch.export, its first axis variable."""
    shapes = tuple({0: torch.export.Dim("rows")} | dimensions.get("more", {}) for _ in inputs) if rows else None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model.eval(), inputs, dynamic_shapes=shapes)
        file = io.BytesIO()
        torch.export.save(program, file)
    return file.getvalue()


def scale_archive(factor: float = 2.0) -> bytes:
    return archive(Scale(factor), torch.zeros(2, 3))


def rewritten(content: bytes, change: Callable[[str, bytes], tuple[str, bytes] | None], **more: bytes) -> bytes:
    """An archive with entries changed, left out (None), or added by `more` (`__` for `/`, below the root)."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            changed = change(name.partition("/")[2], old.read(name))
            if changed is not None:
                new.writestr(f"{root}/{changed[0]}", changed[1])
        for name, data in more.items():
            new.writestr(f"{root}/{name.replace('__', '/')}", data)
    return file.getvalue()


def with_json(content: bytes, ending: str, change: Callable[[Any], Any]) -> bytes:
    """An archive with one JSON entry changed in place."""

    def one(name: str, data: bytes) -> tuple[str, bytes]:
        if not name.endswith(ending):
            return name, data
        value = json.loads(data)
        change(value)
        return name, json.dumps(value).encode()

    return rewritten(content, one)


def pickled(trap: Path) -> bytes:
    """A pickle as torch.save writes one, that runs a command when it is read with weights_only=False."""
    file = io.BytesIO()
    torch.save(Trap(trap), file)
    return file.getvalue()


def plain_pickle(trap: Path) -> bytes:
    return pickle.dumps(Trap(trap))


LAYERS = """\
architecture:
- {type: Linear, in_features: 3, out_features: 3, bias: false}
signature:
  inputs: [{name: x, datatype: FP32, shape: [-1, 3]}]
  outputs: [{name: y}]
"""


def write_layers(package: Path, factor: float = 2.0) -> Path:
    """y = factor * x as one layer of safetensors."""
    package.mkdir(parents=True, exist_ok=True)
    save_file({"0.weight": torch.eye(3) * factor}, package / "model.safetensors")
    (package / "seaway.yaml").write_text(LAYERS)
    return package
