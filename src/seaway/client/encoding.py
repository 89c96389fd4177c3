"""JSON out of what callers hold, numpy's arrays and numbers among it; numpy itself need not be installed."""

from __future__ import annotations

import json
from typing import Any

from seaway.errors import InvalidRequest

_TIMES = frozenset("mM")
"""Kinds of numpy's dtypes that would become bare numbers, of a unit that nobody sees."""


def encode(value: Any, what: str) -> bytes:
    """`value` as JSON. Raises InvalidRequest, which begins with `what`, for anything that JSON has no form for.

    >>> encode({"age": 41}, "inputs")
    b'{"age": 41}'
    """
    try:
        return _encode(value).encode()
    except _NotJson as error:
        raise InvalidRequest(
            f"{what}: a value of type {error} can't be sent as JSON; send numbers, strings, true, false, null, lists "
            "and objects, or numpy's arrays and numbers."
        ) from error
    except TypeError as error:
        raise InvalidRequest(f"{what} can't be sent as JSON: {error}.") from error
    except ValueError as error:
        if "Circular" in str(error):
            raise InvalidRequest(f"{what} can't be sent as JSON: a value contains itself.") from error
        raise InvalidRequest(
            f"{what}: JSON has no NaN and no infinity; send numbers, or null where a value may be missing."
        ) from error
    except RecursionError as error:
        raise InvalidRequest(f"{what} can't be sent as JSON: it is nested too deeply.") from error


class _NotJson(Exception):
    """Holds the name of a type."""


def _plain(value: Any) -> Any:
    """What JSON's own encoder doesn't know, as what it knows: arrays, tensors and series have a dtype and `tolist`."""
    dtype, to_list = getattr(value, "dtype", None), getattr(value, "tolist", None)
    if dtype is None or to_list is None or getattr(dtype, "kind", "") in _TIMES:
        raise _NotJson(type(value).__name__)
    plain = to_list()
    if type(plain) is type(value):  # numpy's longdouble, which Python has no number for
        raise _NotJson(type(value).__name__)
    return plain


_encode = json.JSONEncoder(default=_plain, allow_nan=False).encode
