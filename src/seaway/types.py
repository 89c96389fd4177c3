"""Frozen values that cross rooms and processes, without behaviour of their own; msgspec reads and writes them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a model, dataset or alias may be called; it must match whole (`NAME.fullmatch`)."""

MAX_BATCH_SIZE = 65_536
"""Samples in one request, where a package says nothing smaller."""

Json = dict[str, Any]
T = TypeVar("T")


# --------------------------------------------------------------------------- what a model takes and gives


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output; `datatype` is the Open Inference Protocol's (FP32, BYTES ...), -1 a variable dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An output of the graph that nobody can ask for."""

    name: str
    why: str
    """What it is instead of a tensor, and what helps, as the end of a sentence: `which is ...`."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The tensors of a model's graph, in the graph's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    left_out: tuple[LeftOut, ...] = ()
    """Empty, too, for versions that were registered before this was noted."""

    @property
    def batchable(self) -> bool:
        """True when the first dimension of every tensor is variable, so that it counts samples."""
        return all(spec.shape[:1] == (-1,) for spec in (*self.inputs, *self.outputs))


# --------------------------------------------------------------------------- what a version costs


@dataclass(frozen=True, slots=True)
class Rewriting:
    """What came of rewriting a version's graph, for the CPU lane."""

    used: bool
    what: str
    """What was found to rewrite, as a noun."""
    exported_ns: int
    """CPU time of a run of the sample with the graph as it is in the package."""
    rewritten_ns: int
    max_difference: float | None
    """Of the numbers of answers to the inputs that were tried; None: some became, or stopped being, infinite or NaN."""
    why: str
    """Why it isn't used, as a part of a sentence."""
    compared: bool = True
    """Whether answers were compared; not where it is no faster."""
    doubt: str = ""
    """Why answers may differ by more than their last digits, as a part of a sentence; empty: they don't."""


@dataclass(frozen=True, slots=True)
class JointRuns:
    """How many samples of requests that wait may share a run, for the CPU lane, and what came of trying it."""

    rows: int = 1
    """Of one run, at most; 1: each request runs alone."""
    numbers: int = 0
    """In the tensors of one run, at most: of larger samples fewer run together."""
    alone_ns: int = 0
    """CPU time of a sample that runs alone."""
    together_ns: int = 0
    """Of a sample in a run of `rows`."""
    why: str = ""
    """Why there are none, as a part of a sentence; empty: there are."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What one version costs on one machine, measured in its worker; times are thread CPU time of a warm sample."""

    prepare_ns: int
    run_ns: int
    encode_ns: int
    load_seconds: float
    """Verify, open and warm up."""
    memory_bytes: int
    """The worker's share of memory once it was warm."""
    subgraph_operators: tuple[str, ...]
    """Operators that run a graph of their own (Loop, Scan, If), so for as long as the input makes them."""
    numeric_inputs: bool
    """False for texts, images and tensors of strings."""
    machine: str
    """Processor, cores and the versions of what runs the model: figures of another machine say nothing here."""
    fixed_size: bool = True
    """False where a sample may be of any size (a picture, a sequence), so that one sample doesn't stand for all."""
    model_bytes: int = 0
    """Size of the version's files."""
    shares_weights: bool = False
    """True where its processes were found to be able to share their weights."""
    value_sized_operators: tuple[str, ...] = ()
    """Operators whose output may be of any size (Range, Tile), as the values of an input say."""
    curve: tuple[tuple[int, int, float, int], ...] = ()
    """For the batch lane: rows, width, seconds (below 0: no memory) and bytes of each batch that was measured."""
    device: str = "cpu"
    dtype: str = "fp32"
    max_difference: float | None = None
    """Of answers in `dtype` from those on the CPU in fp32; None where both are the same."""
    min_cosine: float | None = None
    obstacle: str = ""
    """Why no gateway may run it, whatever it costs: what its runtime says."""
    numbers: int = 0
    """In the tensors of the sample; 0: not counted."""
    rewriting: Rewriting | None = None
    """None: nothing was found to rewrite, or nobody looked."""
    joint: JointRuns | None = None
    """None: nobody looked."""

    @property
    def rewritten(self) -> bool:
        return self.rewriting is not None and self.rewriting.used

    @property
    def request_ns(self) -> int:
        return self.prepare_ns + self.run_ns + self.encode_ns


@dataclass(frozen=True, slots=True)
class Choice:
    """How a version is placed, and why."""

    placement: str
    """inline or worker."""
    processes: int
    engines: int
    """Over all processes, a multiple of them."""
    why: str
    """A sentence for people."""
    lane: str = "cpu"
    assisted: bool = False
    """For workers: gateways run it, too, while the server is asked for nothing else."""
    refusal: str = ""
    """Why what was asked for can't be; a deployment that never served fails with it."""


# --------------------------------------------------------------------------- bytes by content


@dataclass(frozen=True, slots=True, order=True)
class FileEntry:
    """One file of an artifact; `path` is relative, with `/` between its parts."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of an artifact (a model package or a dataset version), sorted by path.

    `digest` is the SHA-256 of the lines ``"<sha256>  <path>\\n"``, which is what ``sha256sum`` prints for the sorted
    paths: anyone can recompute it, and it changes with every byte of every file.
    """

    files: tuple[FileEntry, ...]

    @property
    def digest(self) -> str:
        lines = "".join(f"{entry.sha256}  {entry.path}\n" for entry in sorted(self.files))
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def n_bytes(self) -> int:
        return sum(entry.size for entry in self.files)


# --------------------------------------------------------------------------- registry rows, as others see them


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    dataset: str
    version: int
    digest: str
    manifest: Manifest
    created_at: datetime
    created_by: str
    n_rows: int | None = None
    schema: Json | None = None
    source: Json | None = None


@dataclass(frozen=True, slots=True)
class ModelVersion:
    model: str
    version: int
    digest: str
    manifest: Manifest
    runtime: str
    platform: str
    signature: Signature
    spec: Json
    """The checked content of `seaway.yaml`, defaults filled in."""
    created_at: datetime
    created_by: str
    experiment_id: str | None = None


@dataclass(frozen=True, slots=True)
class TrainedVersion:
    """A model version that an experiment gave, and how well it did."""

    model: str
    version: int
    metrics: Json
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Experiment:
    experiment_id: str
    dataset: str
    dataset_version: int
    dataset_digest: str
    model: str
    spec: Json
    """architecture, hyper_parameters, validation_strategy, code_commit."""
    spec_digest: str
    created_at: datetime
    trained: tuple[TrainedVersion, ...] = ()


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """What a deployment may say about how its version is served; None takes the server's default."""

    engines: int | None = None
    """Engine threads over all processes of the version; one core each."""
    processes: int | None = None
    max_queue_size: int | None = None
    timeout_seconds: float | None = None
    placement: str | None = None
    """auto, inline (in the gateway) or worker."""
    joint_runs: str | None = None
    """Of the CPU lane, whether requests that wait share runs: auto (where that pays) or never."""
    lane: str | None = None
    """auto (batch on a GPU), cpu (one sample, one engine) or batch."""
    device: str | None = None
    """Of the batch lane: auto, cpu, cuda or cuda:N."""
    dtype: str | None = None
    """What the batch lane computes in: auto, fp32, bf16 or fp16."""
    max_batch_rows: int | None = None
    max_batch_tokens: int | None = None
    """Rows times the longest length, padding counted."""
    preferred_batch_rows: tuple[int, ...] | None = None
    """Sizes that the device likes: a batch leaves with one of them rather than with more."""
    max_queue_delay_seconds: float | None = None
    """How long a free device waits for company."""
    latency_target_seconds: float | None = None
    """Batches take at most half of it."""
    length_bucketing: bool | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """One version's share of a deployment, in basis points (10,000 is all)."""

    name: str
    version: int
    weight_bp: int = 10_000


@dataclass(frozen=True, slots=True)
class DeploymentRevision:
    """Desired state of one model at one time; `arms` empty means undeployed. Never changed, never deleted."""

    id: int
    """Counts over all models; prediction ids carry it."""
    model: str
    number: int
    """Counts within the model: 1, 2, 3 ..."""
    arms: tuple[Arm, ...]
    settings: ServingSettings
    action: str
    """deploy, undeploy or rollback."""
    reason: str
    created_at: datetime
    created_by: str
    state: str = "pending"
    """The newest event: pending, ready, failed, superseded, undeployed."""
    state_reason: str = ""
    ready_at: datetime | None = None
    demoted: str = ""
    """Why gateways stopped running its version themselves; empty: they didn't."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a version costs in which circumstances, measured at one time; evidence, never changed."""

    digest: str
    """Of the version's artifact."""
    machine: str
    curves: Json
    """As `seaway.serving.profile.Curves`."""
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class Alias:
    model: str
    name: str
    version: int
    updated_at: datetime
    updated_by: str


@dataclass(frozen=True, slots=True)
class AliasEvent:
    model: str
    alias: str
    from_version: int | None
    to_version: int | None
    at: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class AuditEntry:
    seq: int
    at: datetime
    actor: str
    action: str
    entity: str
    detail: Json
    prev_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: tuple[T, ...]
    next_cursor: str | None = None


# --------------------------------------------------------------------------- control -> worker


@dataclass(frozen=True, slots=True)
class CalibrationOrder:
    """Measure the version before it serves, and choose the engines by that."""

    cores: int
    asked: ServingSettings
    machine: str
    gateways: int = 0
    """That may lend a hand."""
    rewrites: str = "never"
    """Whether its graph may be rewritten: auto, always or never."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Everything a worker process needs to know; it reads no settings and no environment."""

    worker_id: str
    model: str
    version: int
    revision: int
    package: Path
    """Directory with the version's files."""
    manifest: Manifest
    """What the files must hash to."""
    socket: Path
    page: Path
    engines: int
    """With `calibrate`, the most that may be chosen; the page has a slot for each."""
    cpus: tuple[int, ...]
    """Core of each engine, where the system can pin; empty: not pinned."""
    max_queue_size: int
    max_body_bytes: int
    """Also the cap on what a compressed body unpacks to."""
    memory_bytes: int | None
    """Address-space limit (RLIMIT_AS)."""
    drain_seconds: float
    log_level: str
    log_format: str
    log_file: Path | None = None
    kill_point_file: Path | None = None
    calibrate: CalibrationOrder | None = None
    batching: ServingSettings | None = None
    """For the batch lane; None: the CPU lane."""
    curve: tuple[tuple[int, int, float, int], ...] = ()
    """What is known of batches from an earlier worker."""
    weights: Path | None = None
    """Where the processes of this revision keep weights that they share, if there are several; None: each its own."""
    rewritten: bool = False
    """Its graph was found to be better so; with `calibrate`, that is still to be found out."""
    joint: JointRuns | None = None
    """How many samples may share a run, as an earlier worker found; None: each request runs alone."""
    activity: Path | None = None
    """Page that tells when gateways run models themselves; None: engines keep their cores whatever they do."""


# --------------------------------------------------------------------------- control -> gateways


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    worker_id: str
    socket: str
    page: str
    engines: int


@dataclass(frozen=True, slots=True)
class InlineSpec:
    """Leave to run a version inside the gateway, within these bounds; what exceeds them goes to its workers."""

    package: str
    """Directory with the version's files, which a worker has verified."""
    max_body_bytes: int
    max_rows: int
    budget_ns: int
    """Thread CPU time that one request may cost; a version that keeps exceeding it is moved out."""
    max_numbers: int | None = None
    """Numbers in the tensors of one request; None: `max_rows` says enough."""
    alone: bool = False
    """Only while the server is asked for nothing else."""
    weights: str | None = None
    """Where the processes that share its weights find them; None: in the package."""
    rewritten: bool = False
    """With its graph rewritten, as in its workers."""


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A version that answers now, with everything a gateway needs to route to it and describe it."""

    model: str
    version: int
    revision: int
    """DeploymentRevision.id"""
    arm: int
    """Index into the revision's arms."""
    weight_bp: int
    signature: Signature
    platform: str
    workers: tuple[WorkerAddress, ...]
    max_queue_size: int
    timeout_seconds: float
    max_batch_size: int = MAX_BATCH_SIZE
    """Samples that one request may carry."""
    inline: InlineSpec | None = None
    """None: workers answer everything."""
    batching: ServingSettings | None = None
    """How the batch lane serves it; None: the CPU lane does."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """A deployed model that no version serves yet, and why."""

    model: str
    state: str
    """LOADING or UNAVAILABLE."""
    reason: str


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """What gateways route by. A newer `generation` replaces an older one whole."""

    generation: int
    versions: tuple[ServedVersion, ...] = ()
    not_ready: tuple[ModelState, ...] = ()
    started: bool = False
    """True once every deployment found at the start was ready or had failed; readiness waits for it."""
