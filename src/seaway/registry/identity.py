"""Ids that are pure functions of content, so that two machines agree without talking."""

from __future__ import annotations

import hashlib
import json

from seaway.errors import InvalidRequest
from seaway.types import NAME, Json


def canonical_json(value: Json) -> str:
    """One text for equal values: sorted keys, no spaces, no NaN."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise InvalidRequest("Numbers must be finite: NaN and Infinity have no canonical form.") from error


def spec_digest(spec: Json) -> str:
    """SHA-256 of a model specification: architecture, hyper-parameters, validation strategy, code commit."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()


def experiment_id(dataset_digest: str, specification_digest: str) -> str:
    """The experiment that trains this specification on exactly these bytes.

    >>> experiment_id("a" * 64, "b" * 64) == experiment_id("a" * 64, "b" * 64)
    True
    """
    return hashlib.sha256(f"exp1:{dataset_digest}:{specification_digest}".encode()).hexdigest()[:32]


def checked_name(kind: str, name: str) -> str:
    """`name` if it may be a name. Raises InvalidRequest."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:80]!r} is no {kind} name: 1 to 128 characters out of letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit."
        )
    return name
