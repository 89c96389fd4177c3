"""What every peer of the batching benchmark runs: all-MiniLM-L6-v2 through transformers, a list of texts at a time."""

import os

import torch
import transformers

PACKAGE = os.environ["BENCH_PACKAGE"]
PORT = int(os.environ["BENCH_PORT"])
DEVICE = os.environ["BENCH_DEVICE"]
MAX_ROWS = int(os.environ["BENCH_MAX_ROWS"])
MAX_TOKENS = int(os.environ["BENCH_MAX_LENGTH"])
DTYPE = {"cpu": torch.float32}.get(DEVICE, torch.bfloat16)


class Embedder:
    def __init__(self):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(PACKAGE, local_files_only=True)
        model = transformers.AutoModel.from_pretrained(PACKAGE, local_files_only=True, dtype=DTYPE)
        self.model = model.eval().to(DEVICE)

    def __call__(self, texts):
        feeds = self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            feeds = feeds.to(DEVICE)
            states = self.model(**feeds).last_hidden_state
            mask = feeds["attention_mask"].unsqueeze(-1).to(states.dtype)
            vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
        return vectors.float().cpu().numpy()
