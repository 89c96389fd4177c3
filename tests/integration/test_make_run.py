"""`make run` beside a server that runs already: the script behind it, as make calls it."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "run_demo.py"


@dataclass(frozen=True)
class Running:
    home: Path
    port: int


def command(home: Path, port: int | str) -> tuple[list[str], dict[str, str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SEAWAY_")}
    return [sys.executable, str(SCRIPT), str(port)], {**clean, "SEAWAY_HOME": str(home)}


def make_run(home: Path, port: int | str) -> subprocess.CompletedProcess[str]:
    arguments, environment = command(home, port)
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=30, check=False)


def free_port() -> int:
    """Below those that the system hands out, so that no other test gets it in between."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    one = Running(tmp_path_factory.mktemp("home"), free_port())
    arguments, environment = command(one.home, one.port)
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        try:
            assert any(line.startswith("Seaway keeps serving") for line in demo.stdout)
            yield one
        finally:
            demo.terminate()
            demo.wait(30)


def test_another_server_on_the_same_home_is_named_with_its_address(running: Running) -> None:
    done = make_run(running.home, 0)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: Another Seaway already serves from {running.home} at http://127.0.0.1:{running.port}; "
        "use it, or stop it first.\n"
    )


def test_a_taken_port_is_named_with_how_to_choose_another(running: Running, tmp_path: Path) -> None:
    done = make_run(tmp_path, running.port)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: Another program, perhaps a Seaway, already listens on 127.0.0.1:{running.port}; stop it, or choose "
        "another port: make run PORT=8081, or PORT=0 for a free one.\n"
    )


def test_a_port_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    done = make_run(tmp_path, "http")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: The setting 'port' is wrong: ")
    assert done.stderr.count("\n") == 1
