"""What a server costs is read from the kernel."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks import measure

SPIN = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"


def test_processes_are_found_by_their_tag_and_their_time_and_memory_is_counted() -> None:
    tag = f"test-{os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, "-c", SPIN], env={**os.environ, measure.TAG: tag},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = measure.tagged(tag)
        assert pids == [process.pid]
        assert measure.cpu_seconds(pids)[process.pid] >= 0.15
        assert measure.memory_mib(pids) > 1
        process.communicate(b"\n")
    assert measure.tagged(tag) == []
    assert measure.cpu_seconds(pids) == {}


def test_the_machine_is_described_without_its_name() -> None:
    described = measure.machine()
    assert set(described) == {"processor", "cores", "memory_gib", "kernel", "system", "python"}
