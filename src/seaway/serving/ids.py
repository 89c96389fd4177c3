"""Prediction ids: 26 characters that sort by time and say who answered, so that lineage needs no log row.

128 bits, most significant first: time in milliseconds (48), deployment revision id (32), arm (8), gateway (8),
counter of that gateway (32). Written in Crockford's base 32, like a ULID.
"""

from __future__ import annotations

from dataclasses import dataclass

from seaway.errors import InvalidRequest

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
LENGTH = 26


@dataclass(frozen=True, slots=True)
class PredictionId:
    """What a prediction id says; `arm` is the index within the revision's arms."""

    time_ms: int
    revision: int
    arm: int
    gateway: int
    counter: int


def encode(parts: PredictionId) -> str:
    """The 26 characters of a prediction id.

    >>> decode(encode(PredictionId(1700000000000, 7, 0, 1, 42))) == PredictionId(1700000000000, 7, 0, 1, 42)
    True
    """
    number = (
        (parts.time_ms & 0xFFFFFFFFFFFF) << 80
        | (parts.revision & 0xFFFFFFFF) << 48
        | (parts.arm & 0xFF) << 40
        | (parts.gateway & 0xFF) << 32
        | (parts.counter & 0xFFFFFFFF)
    )
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


class PredictionIds:
    """Writes the ids of one arm in one gateway: what `encode` gives, at a tenth of its price. Used by one thread."""

    __slots__ = ("_arm", "_far", "_gateway", "_middle", "_revision", "_start", "_upper")

    def __init__(self, revision: int, arm: int, gateway: int) -> None:
        self._revision, self._arm, self._gateway = revision, arm, gateway
        # The upper bits of time and counter, which change every 17 minutes and every million ids, and their characters.
        self._far = self._upper = -1
        self._start = self._middle = ""

    def encode(self, time_ms: int, counter: int) -> str:
        """The id of the request that `counter` of this gateway counts.

        >>> PredictionIds(7, 0, 1).encode(1700000000000, 42) == encode(PredictionId(1700000000000, 7, 0, 1, 42))
        True
        """
        if time_ms >> 20 != self._far or counter >> 20 != self._upper:
            self._remember(time_ms, counter)
        return (
            f"{self._start}{_PAIRS[time_ms >> 10 & 1023]}{_PAIRS[time_ms & 1023]}"
            f"{self._middle}{_PAIRS[counter >> 10 & 1023]}{_PAIRS[counter & 1023]}"
        )

    def _remember(self, time_ms: int, counter: int) -> None:
        whole = encode(PredictionId(time_ms, self._revision, self._arm, self._gateway, counter))
        self._start, self._middle = whole[:6], whole[10:22]
        self._far, self._upper = time_ms >> 20, counter >> 20


def decode(prediction_id: str) -> PredictionId:
    """The parts of a prediction id; InvalidRequest when it is none."""
    text = prediction_id.upper()
    if len(text) != LENGTH or not all(character in _VALUES for character in text):
        raise InvalidRequest("A prediction id has 26 characters out of 0-9 and A-Z without I, L, O and U.")
    number = 0
    for character in text:
        number = number << 5 | _VALUES[character]
    if number >> 128:
        raise InvalidRequest("This is no prediction id: its first character is above 7.")
    return PredictionId(
        number >> 80, number >> 48 & 0xFFFFFFFF, number >> 40 & 0xFF, number >> 32 & 0xFF, number & 0xFFFFFFFF
    )
