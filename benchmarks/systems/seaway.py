"""Seaway, as `seaway serve` starts it, with its defaults."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from benchmarks.http_client import ask, register
from benchmarks.measure import TAG
from benchmarks.models import MODELS
from benchmarks.paths import ROOT, VENVS, python
from benchmarks.systems.base import ALL_MODELS, Launch, System, v2

START_SECONDS = 120.0


def command(launch: Launch) -> list[str]:
    # An environment made in another checkout may be linked here: PYTHONPATH says which sources are measured.
    return [python("seaway"), "-m", "seaway", "serve", "--port", str(launch.port), "--home", str(launch.home)]


def environment(log_level: str, **more: str) -> Callable[[Launch], dict[str, str]]:
    def chosen(launch: Launch) -> dict[str, str]:
        variables = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "", "SEAWAY_LOG_LEVEL": log_level}
        return {**variables, **more, "PATH": f"{VENVS}/seaway/bin:{os.environ['PATH']}"}

    return chosen


def prepare(placement: str | None) -> Callable[[Launch, dict[str, str]], None]:
    """Registers and deploys, once: like the others, Seaway then finds its models at each start."""

    def deployed(launch: Launch, variables: dict[str, str]) -> None:
        # Untagged: what this first start costs is not measured.
        variables = {name: value for name, value in variables.items() if name != TAG}
        log = (launch.home / "prepare.log").open("w")
        with log, subprocess.Popen(command(launch), env=variables, stdout=log, stderr=log) as server:
            try:
                _wait_until_ready(launch.port, server)
                for name in launch.models:
                    register(launch.port, name, MODELS / name)
                    _deploy(launch.port, name, placement)
            finally:
                server.send_signal(signal.SIGTERM)

    return deployed


def _deploy(port: int, name: str, placement: str | None) -> None:
    body = {"placement": placement} if placement else {}
    status, answer = ask(port, "PUT", f"/api/deployments/{name}?wait=100", json.dumps(body).encode())
    if status in {400, 422} and placement:
        print(f"This Seaway takes no placement ({answer.get('error')}); it is deployed without.", file=sys.stderr)
        status, answer = ask(port, "PUT", f"/api/deployments/{name}?wait=100", b"{}")
    if status != http.client.OK or answer.get("state") != "ready":
        raise RuntimeError(f"Seaway did not deploy {name}: {answer}")


def _wait_until_ready(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            if ask(port, "GET", "/v2/health/ready")[0] == http.client.OK:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("Seaway did not start; see prepare.log in its folder under .logs.")


AUTO = System(
    name="seaway",
    title="Seaway",
    venv="seaway",
    command=command,
    path=v2,
    json_wire="oip",
    models=ALL_MODELS,
    binary=("tabular", "vision", "identity"),
    text=("sentences",),
    prepare=prepare(None),
    environment=environment("info"),
    package="seaway",
)

WORKER = System(
    name="seaway-worker",
    title="Seaway, in a worker",
    venv="seaway",
    command=command,
    path=v2,
    json_wire="oip",
    models=("tabular",),
    binary=("tabular",),
    groups=("tabular", "binary", "unseen"),
    prepare=prepare("worker"),
    environment=environment("info"),
    package="seaway",
)

DEBUG = System(
    name="seaway-debug",
    title="Seaway, debug log",
    venv="seaway",
    command=command,
    path=v2,
    json_wire="oip",
    models=("tabular",),
    groups=("settings",),
    prepare=prepare(None),
    environment=environment("debug"),
    package="seaway",
)

SILENT = replace(
    DEBUG, name="seaway-no-metrics", title="Seaway, no metrics", environment=environment("info", SEAWAY_METRICS="false")
)

APART = replace(
    AUTO, name="seaway-apart", title="Seaway, connections stay", models=("minilm", "minilm_int8"), binary=(), text=(),
    groups=("minilm", "int8"), environment=environment("info", SEAWAY_GATHER_CONNECTIONS="false"),
)  # fmt: skip
"""Without ADR 13, for `--systems seaway,seaway-apart --only minilm,int8`."""

ALONE = replace(
    APART, name="seaway-alone", title="Seaway, no joint runs", models=("minilm",), groups=("minilm",),
    environment=environment("info", SEAWAY_JOINT_RUNS="never"),
)  # fmt: skip
"""Without ADR 14."""
