"""Which version answers: a pure function of the routing table, the path and the sticky key."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from seaway.errors import NotFound, Unavailable
from seaway.types import ModelState, RoutingTable, ServedVersion


def choose(arms: Sequence[ServedVersion], point: float) -> ServedVersion:
    """The arm whose share of the weights covers `point` in [0, 1).

    >>> choose([], 0.5)
    Traceback (most recent call last):
    ...
    IndexError: list index out of range
    """
    if len(arms) == 1:
        return arms[0]
    left = point * sum(arm.weight_bp for arm in arms)
    for arm in arms:
        left -= arm.weight_bp
        if left < 0:
            return arm
    return arms[-1]


def sticky_point(key: str, model: str) -> float:
    """The same point in [0, 1) for the same key of the same model, on every machine."""
    return zlib.crc32(f"{model}\0{key}".encode()) / 2**32


class Router:
    """One routing table, indexed for lookups. Replaced whole when a new table comes."""

    def __init__(self, table: RoutingTable) -> None:
        self.table = table
        self._by_model: dict[str, list[ServedVersion]] = {}
        self._not_ready: dict[str, ModelState] = {state.model: state for state in table.not_ready}
        for served in table.versions:
            self._by_model.setdefault(served.model, []).append(served)

    @property
    def models(self) -> dict[str, list[ServedVersion]]:
        return self._by_model

    def resolve(self, model: str, version: str | None, point: float) -> ServedVersion:
        """The version that answers for `model`; `version` None lets weights and `point` decide.

        Raises NotFound when nothing serves such a model or version, Unavailable when it is deployed but not ready.
        """
        served = self._by_model.get(model)
        if served is None:
            state = self._not_ready.get(model)
            if state is not None:
                raise Unavailable(
                    f"Model {model!r} is not ready ({state.state}): {state.reason or 'it starts; retry in a moment'}"
                )
            raise NotFound(
                f"No model named {model!r} is deployed; `seaway status` or GET /api/deployments lists what is."
            )
        if version is None:
            return choose([arm for arm in served if arm.weight_bp] or served, point)
        for arm in served:
            if str(arm.version) == version:
                return arm
        known = ", ".join(str(arm.version) for arm in served)
        raise NotFound(f"Version {version!r} of model {model!r} is not deployed; deployed: {known}.")

    def find_version(self, model: str, version: int) -> ServedVersion | None:
        return next((arm for arm in self._by_model.get(model, ()) if arm.version == version), None)
