"""Calibration: what a version costs on this machine, and where it should therefore run.

`measure` is called in the version's first worker; `choose` is pure, and control and worker come to the same with it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seaway import __version__
from seaway.serving import process
from seaway.types import Calibration, Choice, InlineSpec, JointRuns, ServingSettings

if TYPE_CHECKING:
    # Control chooses too, and loads neither numpy nor what reads requests.
    from seaway.serving.predictor import Payload, Predictor

INLINE_NS = 200_000
"""Thread CPU time below which a request may run in a gateway; a longer one would make others wait."""
INLINE_BODY_BYTES = 16_384
INLINE_ROWS = 64
ASSIST_NS = 1_000_000
"""Up to here gateways may run a version that belongs into workers, while the server is asked for nothing else. Longer
runs (MiniLM, 4 ms) gain little by it, and lose by waiting in a line for each gateway: p99 at 32 and 128 connections."""
ASSIST_BODY_BYTES = 1 << 19
MAX_COPIED_BYTES = 4 << 20
"""Of a model that each gateway may have for itself; the weights of larger ones are shared (`shared_weights`)."""
SLOW_RUN_NS, SLOW_SHARED_RUN_NS = 2_000_000, 10_000_000
"""From here on a run leaves Python alone so long that engine threads of one process hinder each other less than a copy
of the weights for each engine would cost; the second where processes share them (MiniLM, 4 ms: 5 to 9 % faster)."""
LARGE_MODEL_BYTES = 32 << 20
"""From here on engines share one process where the run time of a sample is anybody's guess."""
WORTH = 0.98
"""Of the time of a run of the exported graph; what is gained less often by rewriting it is noise."""
JOINT_WORTH = 0.8
"""Of the time of a sample alone, below which joint runs are worth more than the hop that gateways save, which run each
request alone (ADR 14)."""
_ENOUGH_SECONDS, _MANY_RUNS, _FEW_RUNS = 0.1, 500, 3
_TOO_LONG_SECONDS = 5.0


def machine(cores: int, graph_rewrites: str = "auto") -> str:
    """What figures are valid for: processor, cores, the versions of what runs a model, and which graphs it may run."""
    from importlib import metadata  # noqa: PLC0415 - a megabyte that only control needs

    versions = []
    for name in ("onnxruntime", "torch", "transformers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    graphs = f"; graph rewrites {graph_rewrites}" if graph_rewrites != "auto" else ""
    return f"{process.processor()}, {cores} cores, {', '.join(versions)}, seaway {__version__}"[:250] + graphs


# --------------------------------------------------------------------------- in the worker


def measure(predictor: Predictor, package: Path, *, load_seconds: float, machine: str) -> Calibration:
    """Run one warm sample again and again, for about a tenth of a second; a slow model three times."""
    from seaway.runtimes import operators  # noqa: PLC0415 - as above

    sample = predictor.payload(predictor.sample())
    times = []
    began = time.monotonic()
    while True:
        times.append(step_times(predictor, sample))
        elapsed = time.monotonic() - began
        if len(times) >= _MANY_RUNS or elapsed > _TOO_LONG_SECONDS:
            break
        if len(times) >= _FEW_RUNS and elapsed > _ENOUGH_SECONDS:
            break
    prepare, run, encode = (median(step) for step in zip(*times, strict=True))
    found = operators(package, predictor.spec)
    return Calibration(
        prepare_ns=prepare,
        run_ns=run,
        encode_ns=encode,
        load_seconds=round(load_seconds, 4),
        memory_bytes=process.proportional_memory_bytes(os.getpid()) or 0,
        subgraph_operators=tuple(sorted(found.with_subgraphs)),
        numeric_inputs=predictor.numeric,
        machine=machine,
        fixed_size=predictor.fixed_size,
        numbers=predictor.prepare(sample).numbers,
        value_sized_operators=tuple(sorted(found.value_sized)),
        obstacle=found.obstacle,
        model_bytes=sum(path.stat().st_size for path in package.rglob("*") if path.is_file()),
    )


def step_times(
    predictor: Predictor, payload: Payload, clock: Callable[[], int] = time.thread_time_ns
) -> tuple[int, int, int]:
    """Nanoseconds that prepare, run and encode of one request take of this thread's CPU time, or of another clock."""
    began = clock()
    prepared = predictor.prepare(payload)
    ready = clock()
    (outputs,) = predictor.run([prepared])
    ran = clock()
    predictor.encode(prepared, outputs, "calibration")
    return ready - began, ran - ready, clock() - ran


def median(values: Sequence[int]) -> int:
    """The middle one, the upper of two: `statistics` is 2 MB that no worker needs.

    >>> median([3, 1, 2]), median([1, 2])
    (2, 2)
    """
    return sorted(values)[len(values) // 2]


# --------------------------------------------------------------------------- the choice


def choose(calibration: Calibration, *, cores: int, asked: ServingSettings, gateways: int = 0) -> Choice:
    """Where a version runs, with how many processes and engines. What was asked for wins where it is possible.

    `gateways`: how many there are to lend workers a hand; fewer than cores would leave some of these idle.
    """
    if asked.lane == "batch":
        where = f"{calibration.device} in {calibration.dtype}"
        return Choice("worker", 1, 1, f"Samples of many requests run together on {where}, in one process.", "batch")
    obstacle = _obstacle(calibration)
    wanted = asked.placement or "auto"
    if wanted != "worker" and obstacle is None:
        engines = asked.engines or asked.processes or 1
        processes, engines = _even(asked.processes or 1, engines)
        why = (
            f"A sample takes {duration(calibration.request_ns)} of CPU time, less than {duration(INLINE_NS)}: gateways "
            f"run it themselves, and {_layout(processes, engines)} stands by.{_graph(calibration)}"
        )
        return Choice("inline", processes, engines, why)
    shares = calibration.shares_weights
    large = not (shares or calibration.fixed_size) and calibration.model_bytes >= LARGE_MODEL_BYTES
    slow = calibration.run_ns >= (SLOW_SHARED_RUN_NS if shares else SLOW_RUN_NS) or large
    engines = most_engines(cores, asked)
    processes, engines = _even(asked.processes or (1 if slow else engines), engines)
    reason = "It was asked to run in workers" if wanted == "worker" else f"{obstacle}; it runs in workers"
    if asked.engines or asked.processes:
        how = "as asked"
    elif large:
        how = f"its {calibration.model_bytes / 1e6:.0f} MB of weights are shared by the engines of one process"
    elif slow:
        how = f"a run takes {duration(calibration.run_ns)}, so engines can share a process"
    else:
        how = f"a run takes only {duration(calibration.run_ns)}, so each engine has a process of its own"
        if shares and processes > 1:
            how += f", which share {calibration.model_bytes / 1e6:.0f} MB of weights"
    free = wanted == "auto" and not (asked.engines or asked.processes)
    joint = joint_runs(calibration, asked)
    much = joint is not None and joint.together_ns <= joint.alone_ns * JOINT_WORTH
    assisted = free and gateways >= cores and _may_assist(calibration) and not much
    if assisted:
        how += "; gateways run it, too, while the server is asked for nothing else"
    refusal = ""
    if wanted == "inline":
        refusal = f"The placement inline was asked for and can't be: {obstacle}. Deploy it with placement auto."
    return Choice(
        "worker",
        processes,
        engines,
        f"{reason}: {_layout(processes, engines)}; {how}.{_joint(calibration, asked)}{_graph(calibration)}",
        assisted=assisted,
        refusal=refusal,
    )


def most_engines(cores: int, asked: ServingSettings) -> int:
    """The most engines that `choose` may give a version."""
    return 1 if asked.lane == "batch" else asked.engines or max(cores, asked.processes or 1)


def inline_spec(calibration: Calibration, choice: Choice, package: Path, weights: Path) -> InlineSpec | None:
    """What gateways may run themselves of a version; None: nothing. `weights`: where its processes share them.

    As many rows as fit into the budget if each cost as much as the first: decoding grows with them more than running
    (64 rows of three numbers: 391 µs and 5 µs).
    """
    if choice.placement != "inline" and not choice.assisted:
        return None
    budget, n_bytes = (ASSIST_NS, ASSIST_BODY_BYTES) if choice.assisted else (INLINE_NS, INLINE_BODY_BYTES)
    rows = max(budget // max(1, calibration.request_ns), 1)
    return InlineSpec(
        str(package), n_bytes, min(rows, INLINE_ROWS), budget,
        max_numbers=None if calibration.fixed_size else rows * calibration.numbers,
        alone=choice.assisted, rewritten=calibration.rewritten,
        weights=str(weights) if calibration.shares_weights and choice.processes > 1 else None,
    )  # fmt: skip


def _obstacle(calibration: Calibration) -> str | None:
    """Why a version can't be placed in gateways, as the beginning of a sentence."""
    if unbounded := _why_unbounded(calibration):
        return unbounded
    if not calibration.fixed_size:
        return "Its samples are of any size, so what the next one costs can't be told from one that was measured"
    if calibration.request_ns >= INLINE_NS:
        return f"A sample takes {duration(calibration.request_ns)} of CPU time, not less than {duration(INLINE_NS)}"
    return None


def _may_assist(calibration: Calibration) -> bool:
    """Whether gateways that have nothing else to do may run it: what a request costs shows before it runs."""
    return (
        not _why_unbounded(calibration)
        and calibration.request_ns < ASSIST_NS
        and (calibration.fixed_size or calibration.numbers > 0)
        # Weights of its own in each gateway would cost more than the hop to a worker.
        and (calibration.shares_weights or calibration.model_bytes < MAX_COPIED_BYTES)
    )


def _why_unbounded(calibration: Calibration) -> str | None:
    """Why what a request costs can't be told before it runs."""
    if calibration.obstacle:
        return calibration.obstacle
    if calibration.subgraph_operators:
        found = " and ".join(calibration.subgraph_operators)
        return f"Its graph has {found}, so how long it runs depends on the input"
    if calibration.value_sized_operators:
        found = " and ".join(calibration.value_sized_operators)
        return f"Its graph has {found}, so what a request costs depends on its values"
    if not calibration.numeric_inputs:
        return "Its inputs are not numbers, and what others cost can't be told from their size"
    return None


def joint_runs(calibration: Calibration, asked: ServingSettings) -> JointRuns | None:
    """How many samples of requests that wait share a run; None: each request runs alone."""
    joint = calibration.joint
    return joint if joint is not None and joint.rows > 1 and asked.joint_runs != "never" else None


def _joint(calibration: Calibration, asked: ServingSettings) -> str:
    """Whether requests share runs, as one more sentence; empty: nobody looked."""
    joint = calibration.joint
    if joint is None:
        return ""
    if joint_runs(calibration, asked) is None:
        return f" Each request runs alone: {joint.why}." if joint.why else " Each request runs alone, as asked for."
    less = f"{1 - joint.together_ns / max(1, joint.alone_ns):.0%} less"
    return (
        f" Up to {joint.rows} samples of one shape that wait share a run, in which each costs {less} CPU time "
        f"(as many as have {joint.numbers:,} numbers together)."
    )


def _graph(calibration: Calibration) -> str:
    """What came of rewriting its graph, as one more sentence; empty: nothing that anybody has to know."""
    found = calibration.rewriting
    if found is None:
        return ""
    less = f"{1 - found.rewritten_ns / max(1, found.exported_ns):.0%} less"
    if found.used:
        doubt = f", and answers may differ: {found.doubt}" if found.doubt else ""
        return f" Its graph was rewritten ({found.what}): runs take {less}{doubt}."
    if found.rewritten_ns > found.exported_ns * WORTH:
        return ""
    return (
        f" Rewritten ({found.what}), runs would take {less}, but {found.why}; it runs as exported "
        "(see the setting graph_rewrites)."
    )


def _even(processes: int, engines: int) -> tuple[int, int]:
    """As many engines in each process, at least one."""
    processes = min(processes, engines)
    return processes, engines // processes * processes


def _layout(processes: int, engines: int) -> str:
    """
    >>> _layout(1, 2), _layout(2, 2)
    ('1 process with 2 engines', '2 processes with 1 engine each')
    """
    each = engines // processes
    engine = f"{each} engine{'s' if each > 1 else ''}"
    return f"1 process with {engine}" if processes == 1 else f"{processes} processes with {engine} each"


def duration(nanoseconds: int) -> str:
    """
    >>> [duration(ns) for ns in (900, 31_400, 200_000, 5_120_000, 3_000_000_000)]
    ['0.9 µs', '31 µs', '200 µs', '5.1 ms', '3 s']
    """
    units = ((10**9, "s"), (10**6, "ms"), (10**3, "µs"))
    size, unit = next((one for one in units if nanoseconds >= one[0]), units[-1])
    value = nanoseconds / size
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"
