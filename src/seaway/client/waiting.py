"""Waiting for a deployment to get ready or fail, and for a profile."""

from __future__ import annotations

import time
from collections.abc import Callable

from seaway.client.client import Client
from seaway.errors import DeadlineExceeded, ServerNotReached, Unavailable
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


def wait_until_profiled(
    client: Client, profile: Json, tell: Callable[[str, float], None], *, timeout_seconds: float = 300.0,
    poll_seconds: float = 0.2,
) -> Json:  # fmt: skip
    """The profile once it is done or has failed; `tell` hears each step and how much was before it.

    Raises DeadlineExceeded.
    """
    deadline = time.monotonic() + timeout_seconds
    while profile["state"] == "running":
        tell(profile["step"], profile["progress"])
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"The profile isn't done after {timeout_seconds:g} s.")
        time.sleep(poll_seconds)
        profile = client.get_profile(profile["model"], profile["version"])
    return profile
