"""What a server costs: processor time and memory of its processes, found by a tag in their environment."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

TAG = "BENCHMARK_SERVER"
_TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


def tagged(tag: str) -> list[int]:
    """The processes that were started, by whomever, with this tag."""
    wanted = f"{TAG}={tag}".encode()
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    """User and system time of each process that still runs, all its threads included."""
    seconds = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            # The second field, a name in parentheses, may hold spaces.
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            seconds[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
    return seconds


@dataclass
class Meter:
    """Processor time of a server, of the load generators (children that have ended), and of everybody else."""

    tag: str
    _servers: dict[int, float] = field(default_factory=dict)
    _children: float = 0.0
    _machine: float = 0.0
    _started: float = 0.0

    def __post_init__(self) -> None:
        self._servers, self._children = cpu_seconds(tagged(self.tag)), _children_seconds()
        self._machine, self._started = machine_busy_seconds(), time.perf_counter()

    def read(self) -> tuple[float, float, float]:
        """Since the meter was made: seconds of the server and of the generators, and how many cores others took.

        Of a process that has ended meanwhile nothing is known; one that has begun counts whole.
        """
        elapsed = time.perf_counter() - self._started
        machine = machine_busy_seconds() - self._machine
        server = sum(seconds - self._servers.get(pid, 0.0) for pid, seconds in cpu_seconds(tagged(self.tag)).items())
        generators = _children_seconds() - self._children
        return server, generators, max(0.0, (machine - server - generators) / elapsed)


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def memory_mib(pids: Iterable[int]) -> float:
    """Proportional set size: a page that n processes share counts 1/n for each."""
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kib += int(line.split()[1])
    return kib / 1024


def machine_busy_seconds() -> float:
    """Processor time that anybody has used on this machine, for telling how much of a window others took."""
    fields = [int(field) for field in (PROC / "stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _, _, irq, softirq, _ = fields
    return (user + nice + system + irq + softirq) / _TICKS


def favour(pids: Iterable[int]) -> None:
    """Put processes before other users' in the kernel's fair groups, where that is allowed (root, autogroup on)."""
    for pid in pids:
        with contextlib.suppress(OSError):
            (PROC / str(pid) / "autogroup").write_text("-15")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def machine() -> dict[str, object]:
    """What the results were measured on; no name or path of it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def commit(root: Path) -> str:
    """The checkout's commit, with a + when files differ from it."""
    git = ["git", "-C", str(root)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.stdout.strip() + ("+" if changed.stdout.strip() else "")
