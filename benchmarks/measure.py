"""What a server costs: processor time and memory of its processes, found by a tag in their environment."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Iterable
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


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of processes, all their threads included."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            # The second field, a name in parentheses, may hold spaces.
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


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


def wait_for_end(tag: str, seconds: float) -> bool:
    """Whether all tagged processes have ended within `seconds`."""
    end = time.monotonic() + seconds
    while tagged(tag):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
