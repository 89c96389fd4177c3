"""`make run`: start Seaway on this machine, put a real model into it, ask it once, and keep serving until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PORT = 8080
ANNOUNCEMENT = "Seaway listens on "


def main() -> int:
    """The server's own exit status, or the quickstart's if that failed."""
    port = PORT if _is_free(PORT) else 0
    if port == 0:
        _say(f"Port {PORT} is taken; Seaway takes a free one.")
    # Only what needs attention, so that the prediction is easy to find; everything is in .seaway/logs.
    environment = {"SEAWAY_LOG_LEVEL": "warning", **os.environ}
    command = [sys.executable, "-m", "seaway", "serve", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
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
    return subprocess.run([sys.executable, "examples/quickstart.py"], cwd=ROOT, env=environment, check=False).returncode


def _wait(server: subprocess.Popen[str]) -> int:
    """Until the server ends; a Ctrl-C reaches it too, as it is in the terminal's process group."""
    while True:
        try:
            return server.wait()
        except KeyboardInterrupt:
            _say("Stopping ...")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
