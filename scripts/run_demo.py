"""`make run`: start Seaway on this machine, put a real model into it, ask it once, and keep serving until Ctrl-C.

Its argument is the port; without it, what the settings say.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from seaway.config import Settings, load_settings
from seaway.errors import Conflict, SeawayError

ROOT = Path(__file__).resolve().parent.parent
ANNOUNCEMENT = "Seaway listens on "


def main(port: str | None) -> int:
    """The server's own exit status, or the quickstart's if that failed."""
    os.chdir(ROOT)
    try:
        settings = load_settings(port=port)
        _check_that_nobody_is_there(settings)
    except SeawayError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    # Only what needs attention, so that the prediction is easy to find; everything is in .seaway/logs.
    environment = {"SEAWAY_LOG_LEVEL": "warning", **os.environ}
    command = [sys.executable, "-m", "seaway", "serve", "--port", str(settings.port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        url = _address(server)
        status = _quickstart(url) if url else 1
        if status != 0:
            return status
        _say("\nSeaway keeps serving; Ctrl-C stops it. Its state stays in .seaway, remove that to start over.")
        return _wait(server)
    except KeyboardInterrupt:
        return _wait(server)
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait()


def _check_that_nobody_is_there(settings: Settings) -> None:
    """Raises Conflict, in the words of `make run`, when another server has our home or our port."""
    if _is_locked(settings.home / "lock"):
        raise Conflict(
            f"Another Seaway already serves from {settings.home}{_at(settings.home)}; use it, or stop it first."
        )
    if _is_taken(settings.host, settings.port):
        raise Conflict(
            f"Another program, perhaps a Seaway, already listens on {settings.host}:{settings.port}; stop it, or "
            "choose another port: make run PORT=8081, or PORT=0 for a free one."
        )


def _is_locked(path: Path) -> bool:
    """Whether a launcher holds the lock on its home."""
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # there is no home yet, or none that can be read; the server says what is wrong with it
    return False


def _at(home: Path) -> str:
    """Where the server of this home listens, as far as its settings tell."""
    try:
        theirs = Settings.from_json(Path((home / "run").read_text().strip()) / "settings.json")
    except (OSError, ValueError):
        return ""
    host = f"[{theirs.host}]" if ":" in theirs.host else theirs.host
    return f" at http://{host}:{theirs.port}" if theirs.port else ""


def _is_taken(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _address(server: subprocess.Popen[str]) -> str | None:
    """From the line that the server prints once it listens; None when it ended instead (it has said why)."""
    assert server.stdout is not None
    for line in server.stdout:
        _say(line.rstrip())
        if line.startswith(ANNOUNCEMENT):
            return line.removeprefix(ANNOUNCEMENT).strip()
    return None


def _quickstart(url: str) -> int:
    environment = {**os.environ, "SEAWAY_URL": url}
    return subprocess.run([sys.executable, "examples/quickstart.py"], env=environment, check=False).returncode


def _wait(server: subprocess.Popen[str]) -> int:
    """Until the server ends; a Ctrl-C reaches it too, as it is in the terminal's process group."""
    while True:
        try:
            return server.wait()
        except KeyboardInterrupt:
            _say("Stopping ...")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
