"""Profiling: the curves of a package, from a throw-away process, and what becomes of one that goes wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from seaway.errors import InferenceFailed
from seaway.serving import profile
from seaway.serving.profile import Curves, Progress, profile_package
from support import graphs
from support.tiny import endless_model, scale_model, write_package

pytestmark = pytest.mark.timeout(120)

TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"},
}  # fmt: skip


def curves_of(package: Path, *, seconds: float = 90, memory_mib: int = 4096, progress: Any = None) -> Curves:
    found = profile_package(
        package, memory_bytes=memory_mib << 20, seconds=seconds, progress=progress or Progress()
    )  # fmt: skip
    return msgspec.convert(found, Curves)


def test_a_profile_has_every_curve(tmp_path: Path) -> None:
    progress = Progress()
    found = curves_of(write_package(tmp_path, scale_model(2.0), "serving: {max_batch_size: 8}"), progress=progress)
    assert [point.rows for point in found.rows] == [1, 2, 4, 8]
    assert min(point.run_us for point in found.rows) > 0
    assert found.lengths == ()
    cores = len(os.sched_getaffinity(0))
    assert found.engines[0].engines == 1
    assert found.engines[-1].engines == found.threads[-1].threads <= cores
    assert found.engines[0].requests_per_second > 0
    assert found.peak_memory_bytes > found.memory_bytes / 2 > 1_000_000
    assert progress.done > 0.5


def test_texts_are_profiled_by_their_length(tmp_path: Path) -> None:
    spec = "input: {type: text, max_tokens: 32}\noutput: {pooling: mean}\nserving: {max_batch_size: 1}"
    package = write_package(tmp_path, graphs.embedding(np.eye(2)), spec)
    (package / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    assert [point.tokens for point in curves_of(package).lengths] == [8, 16, 32]


def test_a_model_that_fails_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"inputs": [1, 2, 3], "outputs": [2, 4, 7]}]))
    with pytest.raises(InferenceFailed, match="Known answer 0 differs"):
        curves_of(write_package(tmp_path, scale_model(2.0), "known_answers: a.json"))


def test_a_model_that_never_ends_is_ended(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"inputs": {"go": [true], "x": [1]}, "outputs": [1]}]')
    with pytest.raises(InferenceFailed, match="took more than 2 s"):
        curves_of(write_package(tmp_path, endless_model(), "known_answers: a.json"), seconds=2)


def test_a_process_without_room_is_a_sentence_that_names_the_limit(tmp_path: Path) -> None:
    with pytest.raises(InferenceFailed, match=r"memory|MiB|Error"):
        curves_of(write_package(tmp_path, scale_model(2.0)), memory_mib=2)


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8])])
def test_engines_are_tried_in_powers_of_two_up_to_all(most: int, counts: list[int]) -> None:
    assert profile._counts(most) == counts
