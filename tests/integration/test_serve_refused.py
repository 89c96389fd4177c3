"""`seaway serve` with settings that can't work: one sentence and an end, where another try wouldn't help."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)


def serve(home: Path, *flags: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SEAWAY_")}
    command = [sys.executable, "-m", "seaway", "serve", "--home", str(home), "--port", "0", "--gateways", "1", "--json"]
    return subprocess.Popen([*command, *flags], env=clean, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def refused(home: Path, *flags: str) -> str:
    """What is told last, after the log."""
    with serve(home, *flags) as process:
        out, told = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "Traceback" not in told
    return told.splitlines()[-1]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("notaurl", "Error: database_url is no database URL; an example: postgresql://user@host/name."),
        ("mysql://a@b/c", "Error: database_url must be postgresql://user@host/name or sqlite:///path/to/file."),
    ],
)
def test_a_database_url_that_is_none_ends_it_with_a_sentence(tmp_path: Path, url: str, told: str) -> None:
    assert refused(tmp_path, "--database-url", url) == told


def test_a_database_of_a_newer_seaway_ends_it_with_a_sentence(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "seaway.db") as database:
        database.execute("create table alembic_version (version_num varchar(32) not null)")
        database.execute("insert into alembic_version values ('9999')")
    assert refused(tmp_path).startswith("Error: The database was made by another version of Seaway, probably a newer")


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/none", "sqlite:////proc/none/seaway.db"])
def test_a_database_that_cannot_be_reached_is_waited_for_in_single_lines(tmp_path: Path, url: str) -> None:
    with serve(tmp_path, "--database-url", url) as process:
        assert process.stderr is not None
        lines, delays = [], []
        for line in process.stderr:
            lines.append(json.loads(line))  # nothing is a traceback
            if lines[-1]["event"] == "launcher.restart":
                delays.append(lines[-1]["delay_seconds"])
            if len(delays) == 2:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert 0 < delays[0] < delays[1]
    said = [line["reason"] for line in lines if line["event"] == "control.no_registry"]
    assert len(said) == 2
    assert "can't be reached" in said[0]


@pytest.mark.parametrize("host", ["8.8.8.8", "nosuch.invalid"])
def test_an_address_that_is_not_ours_is_told_which_flag_to_change(tmp_path: Path, host: str) -> None:
    told = refused(tmp_path, "--host", host, "--allow-open")
    assert told.startswith(f"Error: Can't listen on {host}:0: ")
    assert told.endswith("; choose another with --host.")
