"""What the management routes have in common: JSON bodies of any content type, names, the actor, pages."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Protocol, TypeVar

import pydantic
from fastapi import Depends, Header, Path, Query, Request
from pydantic import AfterValidator, Field

from seaway.api.bodies import read_body
from seaway.api.explain import explain
from seaway.api.objects import read_object
from seaway.config import DEVICE, DEVICES
from seaway.errors import InvalidRequest, PayloadTooLarge
from seaway.packages.known import advice
from seaway.types import NAME, DeploymentRevision, Json, ModelVersion, ServingSettings

MAX_JSON_BYTES = 1 << 20
MAX_NUMBER = 2**31 - 1
_SILENCE_SECONDS = 30.0
_COMPARED_CHARACTERS = 60
Model = TypeVar("Model", bound=pydantic.BaseModel)


class Operations(Protocol):
    """What the management API asks of the running server."""

    def wake(self) -> None:
        """Desired state has changed: reconcile now. May be called from any thread."""

    async def settled(self, revision_id: int, timeout_seconds: float) -> DeploymentRevision:
        """The revision once it is ready, failed or replaced; or as it is when the time is over."""

    def lane_of(self, version: ModelVersion, settings: ServingSettings) -> str:
        """Which lane would serve the version on this machine, if deployed like that: cpu or batch."""

    def measured_as(self, model: str) -> tuple[str, str] | None:
        """Digest and machine under which the measurements of a model's deployment are kept; None: it isn't deployed."""

    def live(self) -> dict[str, Any]:
        """Models with their workers, gateways, generation of the routing table. Called on the event loop."""

    def render_metrics(self) -> bytes:
        """Prometheus text. Called in a thread."""

    def logs(self, *, model: str | None, lines: int) -> list[str]:
        """The newest log lines, oldest first. Called in a thread."""


# --------------------------------------------------------------------------- JSON


class Body(pydantic.BaseModel):
    """A JSON body; a key that is not known is an error, since it would be silently without effect."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)


def body_of(kind: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """A dependency that reads the body as `kind`, whatever content type the client names; no body is `{}`."""

    async def read(request: Request) -> Model:
        try:
            raw = await read_body(request, limit_bytes=MAX_JSON_BYTES, silence_seconds=_SILENCE_SECONDS)
        except PayloadTooLarge as error:
            raise PayloadTooLarge(f"A JSON body here has at most {MAX_JSON_BYTES} bytes.") from error
        try:
            return kind.model_validate(read_object(raw or b"{}"))
        except pydantic.ValidationError as error:
            raise InvalidRequest(_explained(error, kind)) from error

    return read


def _explained(error: pydantic.ValidationError, kind: type[pydantic.BaseModel]) -> str:
    """The first thing that is wrong with a body, with the key that was meant, or what is possible."""
    first = error.errors()[0]
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        name = str(first["loc"][0])[:_COMPARED_CHARACTERS]
        return f'"{name}" is not known here; {advice(name, list(kind.model_fields))}'
    if first["type"] == "string_pattern_mismatch" and first["ctx"]["pattern"] == DEVICE:
        return explain([{**first, "msg": f"Expected {DEVICES}"}])
    return explain([first])


def described(kind: type[pydantic.BaseModel]) -> Json:
    """The OpenAPI description of a body that `body_of` reads."""
    return {"requestBody": {"content": {"application/json": {"schema": kind.model_json_schema()}}}}


def upload_described(fields: Mapping[str, str]) -> Json:
    """The OpenAPI description of a multipart upload with these text fields."""
    files = {
        "type": "array", "items": {"type": "string", "format": "binary"},
        "description": "One part a file; its filename is the path, with '/' between folders.",
    }  # fmt: skip
    texts = {name: {"type": "string", "description": text} for name, text in fields.items()}
    schema = {"type": "object", "required": ["files"], "properties": {"files": files, **texts}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


# --------------------------------------------------------------------------- what parameters and fields may be


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        # A ValueError is how pydantic hears of it.
        raise ValueError(
            "expected 1 to 128 characters out of letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    return value


def _text(value: str) -> str:
    if "\x00" in value:
        raise ValueError("expected text without NUL")
    return value


def _version(value: object) -> object:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_NUMBER):
        return value
    if isinstance(value, str) and NAME.fullmatch(value):
        return int(value) if value.isdigit() and len(value) < len(str(MAX_NUMBER)) else value
    raise ValueError("expected a version number, an alias, or null for the newest")


def _actor(
    given: Annotated[str, Header(alias="Seaway-Actor", description="Who does this; kept in the audit log.")] = "",
) -> str:
    return re.sub(r"[^\x20-\x7e]", "", given)[:128].strip() or "anonymous"


_NAME_DESCRIPTION = "1 to 128 characters out of letters, digits, '.', '_' and '-'."

Actor = Annotated[str, Depends(_actor)]
Name = Annotated[str, Path(description=_NAME_DESCRIPTION), AfterValidator(_name)]
FieldName = Annotated[str, Field(description=_NAME_DESCRIPTION), AfterValidator(_name)]
NameOrNumber = Annotated[str, Path(description="A version number or an alias."), AfterValidator(_name)]
Number = Annotated[int, Field(ge=1, le=MAX_NUMBER)]
PathNumber = Annotated[int, Path(ge=1, le=MAX_NUMBER, description="A version number.")]
WantedVersion = Annotated[
    int | str | None,
    Field(description="A version number, an alias, or nothing for the newest."),
    pydantic.BeforeValidator(_version),
]
Text = Annotated[str, Field(max_length=2000), AfterValidator(_text)]
OnlyModel = Annotated[str | None, Query(description="Of this model only."), AfterValidator(lambda v: v and _name(v))]
Reason = Annotated[str, Query(max_length=2000, description="Kept with the revision."), AfterValidator(_text)]
Limit = Annotated[int, Query(ge=1, le=1000, description="Items on a page.")]
Cursor = Annotated[
    str | None, Query(description="`next_cursor` of the page before."), AfterValidator(lambda v: v and _name(v))
]
Wait = Annotated[float, Query(ge=0, le=600, description="Seconds to wait until the deployment is ready or has failed.")]
