"""What a Seaway process asks of the operating system; each request is skipped where the system doesn't have it."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
import sys
from pathlib import Path

NOBODY_NEW = signal.SIGUSR1
"""Says to a worker that the server stops: serve who still comes, but wait for nobody. Other processes ignore it."""
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def die_with_parent(parent_pid: int) -> None:
    """Called first in a child: the kernel kills this process when its parent dies (Linux only).

    The parent may have died before the request took effect, so its pid is compared afterwards.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def available_cpus() -> tuple[int, ...]:
    """The cores this process may run on, no more of them than the cgroup's CPU quota pays for."""
    if not hasattr(os, "sched_getaffinity"):
        return tuple(range(os.cpu_count() or 1))
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    quota = _cgroup_cpus()
    return cpus if quota is None else cpus[: max(1, int(quota))]


def _cgroup_cpus() -> float | None:
    """Cores' worth of CPU time that the cgroup (version 2, else 1) grants; None: no limit."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:  # noqa: PTH123 - a pseudo file, read before pathlib is worth importing
            quota, period = file.read().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass  # not version 2
    try:
        with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as file:  # noqa: PTH123
            granted = int(file.read())
        with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:  # noqa: PTH123
            return granted / int(file.read()) if granted > 0 else None
    except (OSError, ValueError):
        return None


def processor() -> str:
    """The model of the processor."""
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            names = (line.partition(":")[2].strip() for line in file if line.startswith(("model name", "CPU part")))
            name = next(names, "")
    except OSError:
        name = ""
    return f"{os.uname().machine} {name}".strip()


def has_gpu() -> bool:
    """Whether this machine shows a CUDA device to this process."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def pin_thread(cpu: int) -> None:
    """Bind the calling thread to one core, where the system can (Linux)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cpu})


def settle() -> None:
    """Have the garbage collector leave alone what there is now, and give back what loading needed besides.

    Call it when modules and models are loaded. They stay as long as the process; a full collection that walks them
    stops every request for some 50 ms.
    """
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_tensors() -> None:
    """Have glibc keep the memory of freed tensors of many megabytes, for all threads together.

    Batches need it again at once: 32 texts of 128 tokens through MiniLM took 80,000 page faults and 700 ms where it
    goes back to the kernel each time, 25,000 and 610 ms so. Call it before other threads start.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # glibc takes no more
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def limit_memory(limit_bytes: int | None) -> None:
    """Cap the address space, so that a model that asks for too much gets an error instead of the OOM killer."""
    if limit_bytes is not None and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def total_memory_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def proportional_memory_bytes(pid: int) -> int | None:
    """A process's share of memory (PSS; resident size where that can't be read); None when it is gone."""
    for name, key in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        try:
            with open(f"/proc/{pid}/{name}") as file:  # noqa: PTH123
                for line in file:
                    if line.startswith(key):
                        return int(line.split()[1]) * 1024
        except OSError:
            continue
    return None


def address_space_bytes() -> int:
    """What this process has mapped, which is what RLIMIT_AS counts; 0 where that can't be read."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def peak_memory_bytes() -> int:
    """The most memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
