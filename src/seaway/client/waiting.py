"""Waiting for a deployment to get ready or fail."""

from __future__ import annotations

import time

from seaway.client.client import Client
from seaway.errors import ServerNotReached, Unavailable
from seaway.types import Json

SETTLED = frozenset({"ready", "failed", "superseded", "undeployed"})
"""States in which a deployment's revision is no longer on its way."""


def wait_until_settled(client: Client, revision: Json, *, timeout_seconds: float, poll_seconds: float = 0.25) -> Json:
    """The deployment once `revision` is no longer pending, or as it is when `timeout_seconds` are over.

    Asks again and again instead of holding one request open, so that a restart of the control process doesn't end the
    wait.
    """
    deadline = time.monotonic() + timeout_seconds
    newest = revision
    while newest["state"] not in SETTLED and time.monotonic() < deadline:
        time.sleep(poll_seconds)
        try:
            newest = client.get_deployment(revision["model"])
        except ServerNotReached:
            raise
        except Unavailable:
            continue
        if newest["number"] != revision["number"]:
            return {**revision, "state": "superseded", "state_reason": f"Revision {newest['number']} came after it."}
    return newest
