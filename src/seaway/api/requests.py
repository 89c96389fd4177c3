"""What the management routes have in common: JSON bodies of any content type, the actor, the registry."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Protocol, TypeVar

import pydantic
from fastapi import Depends, Header, Path, Query, Request

from seaway.api.bodies import read_body
from seaway.api.errors import explain
from seaway.errors import InvalidRequest
from seaway.types import DeploymentRevision

MAX_JSON_BYTES = 1 << 20
_SILENCE_SECONDS = 30.0
Model = TypeVar("Model", bound=pydantic.BaseModel)


class Body(pydantic.BaseModel):
    """A JSON body; a key that is not known is an error, since it would be silently without effect."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)


class Operations(Protocol):
    """What the management API asks of the running server."""

    def wake(self) -> None:
        """Desired state has changed: reconcile now. May be called from any thread."""

    async def settled(self, revision_id: int, timeout_seconds: float) -> DeploymentRevision:
        """The revision once it is ready, failed or replaced; or as it is when the time is over."""

    def live(self) -> dict[str, Any]:
        """Models with their workers, gateways, generation of the routing table."""

    def render_metrics(self) -> bytes:
        """Prometheus text."""

    def logs(self, *, model: str | None, lines: int) -> list[str]:
        """The newest log lines, oldest first."""


def body_of(kind: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """A dependency that reads the body as `kind`, whatever content type the client names; no body is `{}`."""

    async def read(request: Request) -> Model:
        raw = await read_body(request, limit_bytes=MAX_JSON_BYTES, silence_seconds=_SILENCE_SECONDS)
        try:
            return kind.model_validate_json(raw or b"{}")
        except pydantic.ValidationError as error:
            raise InvalidRequest(explain(error.errors())) from error

    return read


def described(kind: type[pydantic.BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a body that `body_of` reads."""
    return {"requestBody": {"content": {"application/json": {"schema": kind.model_json_schema()}}}}


def _actor(
    given: Annotated[str, Header(alias="Seaway-Actor", description="Who does this; kept in the audit log.")] = "",
) -> str:
    return re.sub(r"[^\x20-\x7e]", "", given)[:128].strip() or "anonymous"


Actor = Annotated[str, Depends(_actor)]
Name = Annotated[str, Path(description="1 to 128 characters out of letters, digits, '.', '_' and '-'.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Items on a page.")]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]
Wait = Annotated[float, Query(ge=0, le=600, description="Seconds to wait until the deployment is ready or has failed.")]
