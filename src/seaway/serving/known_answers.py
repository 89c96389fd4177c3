"""Warm-up: a version proves itself before anybody asks it.

`known_answers.json` holds inputs with the outputs that the author of the model saw; they are replayed through the same
steps as a request. Without it, made-up inputs must at least not fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from seaway.errors import InvalidPackage, SeawayError, WarmUpFailed
from seaway.packages import PackageSpec
from seaway.packages.spec import SPEC_FILE, package_file

MAX_FILE_BYTES = 16 * 1024 * 1024
LEAST_TOLERANCE = {"bf16": 0.05, "fp16": 0.01}
"""What is forgiven numbers that were computed with 8 and 11 bits of precision, through many layers."""


class KnownAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inputs and outputs as `/predict` takes and gives them."""

    inputs: Any
    outputs: Any
    tolerance: Annotated[float, Meta(ge=0)] = 1e-5
    """How far a number may be off, relative to the expected one but at least to 1."""


def read_known_answers(package: Path, spec: PackageSpec) -> tuple[KnownAnswer, ...]:
    """The file that `known_answers` names; none without one. Raises InvalidPackage."""
    if spec.known_answers is None:
        return ()
    file = package_file(package, spec.known_answers, "known_answers")
    where = f"{SPEC_FILE}: known_answers: {spec.known_answers!r}"
    if file.stat().st_size > MAX_FILE_BYTES:
        raise InvalidPackage(f"{where} is larger than {MAX_FILE_BYTES} bytes.")
    try:
        answers = msgspec.json.decode(file.read_bytes(), type=tuple[KnownAnswer, ...])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidPackage(f"{where}: {error}.") from error
    if not answers:
        raise InvalidPackage(f"{where} is empty; leave the key out or add some.")
    return answers


def warm_up(
    predict: Callable[[Any], Any], answers: Sequence[KnownAnswer], examples: Sequence[Any], dtype: str = "fp32"
) -> None:
    """Raises WarmUpFailed naming the first known answer that differs, or when no example could be answered.

    Known answers are those of fp32; what computes in less may be off by more.
    """
    for number, answer in enumerate(answers):
        _replay(predict, answer, number, dtype)
    if answers:
        return
    failures = []
    for example in examples:
        try:
            predict(example)
        except SeawayError as error:
            failures.append(error)
    # Made-up inputs may have lengths or values that a sound model has no use for; one that works shows that it runs.
    if len(failures) == len(examples):
        raise WarmUpFailed(
            f"The model fails on inputs made up from its signature: {failures[0]} "
            "Add known_answers with inputs that it takes."
        ) from failures[0]


def _replay(predict: Callable[[Any], Any], answer: KnownAnswer, number: int, dtype: str) -> None:
    try:
        outputs = predict(answer.inputs)
    except SeawayError as error:
        raise WarmUpFailed(f"Known answer {number} can't be replayed: {error}") from error
    tolerance = max(answer.tolerance, LEAST_TOLERANCE.get(dtype, 0.0))
    if difference := compare(outputs, answer.outputs, tolerance, "outputs"):
        computed = "" if dtype == "fp32" else f", computed in {dtype}; dtype fp32 is exact"
        raise WarmUpFailed(f"Known answer {number} differs: {difference} (tolerance {tolerance:g}{computed}).")


def compare(actual: Any, expected: Any, tolerance: float, where: str) -> str | None:
    """The first difference in words; None when there is none.

    >>> compare([0.5, 0.25], [0.5, 0.75], 1e-5, "outputs")
    'outputs[1] is 0.25 instead of 0.75, off by 0.5'
    """
    if _is_number(actual) and _is_number(expected):
        off = abs(actual - expected)
        close = off <= tolerance * max(1.0, abs(expected))
        return None if close else f"{where} is {actual} instead of {expected}, off by {off:g}"
    if isinstance(actual, list) and isinstance(expected, list):
        if len(actual) != len(expected):
            return f"{where} has {len(actual)} elements instead of {len(expected)}"
        pairs = [(a, e, f"{where}[{i}]") for i, (a, e) in enumerate(zip(actual, expected, strict=True))]
    elif isinstance(actual, dict) and isinstance(expected, dict):
        if actual.keys() != expected.keys():
            return f"{where} has the keys {sorted(actual)} instead of {sorted(expected)}"
        pairs = [(actual[key], expected[key], f"{where}.{key}") for key in expected]
    else:
        same = type(actual) is type(expected) and actual == expected
        return None if same else f"{where} is {str(actual)[:80]!r} instead of {str(expected)[:80]!r}"
    return next((found for pair in pairs if (found := compare(pair[0], pair[1], tolerance, pair[2]))), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
