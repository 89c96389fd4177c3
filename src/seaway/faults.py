"""Kill points: named places where a test can make the process die as if by ``kill -9``.

Off unless `arm` was called with a path (setting ``kill_point_file``). The file holds the name of one point; the process
that reaches it removes the file and kills itself, so that the restarted process gets past. Every point is listed
in `POINTS`, and the fault tests walk that list.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

POINTS = (
    "register.staged",  # control: all bytes in the staging directory, fsynced
    "register.renamed",  # control: artifact in its final place, no row yet
    "register.before-commit",  # control: rows written, transaction open
    "register.after-commit",  # control: committed, the caller has no answer yet
    "deploy.before-commit",  # control: revision row written, transaction open
    "deploy.after-commit",  # control: revision committed, nothing started
    "worker.start",  # worker: process runs, nothing loaded
    "worker.loaded",  # worker: model loaded and warm, not yet reported ready
    "publish.before",  # control: new workers ready, table not sent
    "publish.applied",  # gateway: table applied, not acknowledged
    "publish.after",  # control: all gateways acknowledged, the old workers not yet told
    "drain.worker",  # worker: told to drain
    "drain.sent",  # control: old workers told to drain
)

_file: Path | None = None


def arm(path: Path | None) -> None:
    """Watch `path` for the name of a kill point; None switches kill points off."""
    global _file  # noqa: PLW0603 - one switch for the whole process, set once at its start
    _file = path


def point(name: str) -> None:
    """Die here if a test asked for it."""
    if _file is None:
        return
    try:
        wanted = _file.read_text().strip()
    except FileNotFoundError:
        return
    if wanted == name:
        _file.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
