"""The quickstart where the server isn't as it should be; where it is, tests/docs runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples import quickstart
from seaway.errors import Unavailable

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_server_it_says_what_it_waits_for_and_ends_within_seconds() -> None:
    environment = {**os.environ, "SEAWAY_URL": "http://127.0.0.1:1"}
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py")]

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)

    assert (done.returncode, done.stdout) == (1, "")
    told, failed = done.stderr.splitlines()
    assert told.startswith("Trying again for 3 s: No Seaway server answers at http://127.0.0.1:1;")
    assert failed.startswith("The quickstart failed: No Seaway server answers at http://127.0.0.1:1;")


def test_a_server_that_still_starts_is_waited_for_and_that_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    starting = iter([Unavailable("The model loads."), Unavailable("The model loads."), None])

    def ask() -> str:
        if error := next(starting):
            raise error
        return "an answer"

    assert quickstart.once_ready(ask) == "an answer"
    assert capsys.readouterr().err == "Trying again for 60 s: The model loads.\n"
