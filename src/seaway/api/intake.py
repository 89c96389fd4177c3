"""From an upload to a registered version: how many at once, where the bytes wait, and in which thread what is done."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool

from seaway.api import uploads
from seaway.api.uploads import Form
from seaway.config import Settings
from seaway.errors import Overloaded
from seaway.registry import Registry, Staging

MAX_UPLOADS = 32
_REGISTRATIONS = 2
"""Hashing, unpacking and trying a model take whole cores, which predictions need too."""
_RETRY_SECONDS = 5.0

T = TypeVar("T")


class Intake:
    """Receives uploads; one for each application. What comes beyond its bounds is refused, not queued unseen."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._uploads = 0
        self._limiter = CapacityLimiter(_REGISTRATIONS)

    @contextlib.asynccontextmanager
    async def receive(self, request: Request, fields: frozenset[str]) -> AsyncIterator[tuple[Staging, Form]]:
        """The uploaded files in a staging directory, which is removed at the end. Raises Overloaded."""
        if self._uploads >= MAX_UPLOADS:
            message = f"{MAX_UPLOADS} uploads are on their way already; try again in a moment."
            raise Overloaded(message, retry_after_seconds=_RETRY_SECONDS)
        self._uploads += 1
        try:
            async with contextmanager_in_threadpool(self._registry.artifacts.stage()) as staging:
                form = await uploads.receive(
                    request, staging, fields=fields,
                    limit_bytes=self._settings.max_upload_bytes, silence_seconds=self._settings.body_seconds,
                )  # fmt: skip
                yield staging, form
        finally:
            self._uploads -= 1

    async def register(self, change: Callable[[], T]) -> T:
        """Run `change` in a thread, after those that came before."""
        return await to_thread.run_sync(change, limiter=self._limiter)
