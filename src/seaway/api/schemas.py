"""What the management routes answer, for /docs and the reference. Tests hold every answer against these."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

DIGEST = "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c"
TIME = "2026-01-31T12:00:00.000000Z"
EXPERIMENT = "9f86d081884c7d659a2feaa0c55ad015"
T = TypeVar("T")


class Answer(BaseModel):
    """A key that is not described here is a mistake of the server's."""

    model_config = ConfigDict(extra="forbid")


class Error(BaseModel):
    """What every error looks like; other keys may follow."""

    error: str = Field(description="What is wrong, and what to do.", examples=["There is no model named 'churn'."])


class Listed(Answer, Generic[T]):
    """A page of a list."""

    items: list[T]
    next_cursor: str | None = Field(description="Send it as `cursor` for the next page; null on the last.")


class File(Answer):
    path: str = Field(examples=["model.onnx"])
    size: int = Field(description="Bytes.", examples=[310])
    sha256: str = Field(examples=[DIGEST])


class Stored(Answer):
    version: int = Field(description="Counts 1, 2, 3 ... within the name.", examples=[1])
    digest: str = Field(
        description='SHA-256 of the lines `"<sha256>  <path>\\n"` of all files, sorted by path.', examples=[DIGEST]
    )
    files: list[File]
    n_bytes: int = Field(description="Of all files together.", examples=[310])
    created_at: datetime = Field(examples=[TIME])
    created_by: str = Field(examples=["ada"])


class DatasetVersion(Stored):
    dataset: str = Field(examples=["flights"])
    n_rows: int | None = Field(description="Known when the version is one Parquet or CSV file.", examples=[10_000])
    schema_: dict[str, Any] | None = Field(
        alias="schema", description="Column names and types, as `n_rows`.", examples=[{"origin": "string"}]
    )
    source: dict[str, Any] | None = Field(
        description="Where the uploader says the bytes came from.", examples=[{"query": "select * from flights"}]
    )


class Dataset(Answer):
    name: str = Field(examples=["flights"])
    versions: list[DatasetVersion] = Field(description="Oldest first.")


class DatasetSummary(Answer):
    name: str = Field(examples=["flights"])
    description: str
    newest: int | None = Field(description="The newest version's number.", examples=[3])


class Tensor(Answer):
    name: str = Field(examples=["x"])
    datatype: str = Field(description="The Open Inference Protocol's.", examples=["FP32"])
    shape: list[int] = Field(description="-1 is a variable dimension.", examples=[[-1, 3]])


class LeftOut(Answer):
    name: str = Field(examples=["output_probability"])
    why: str = Field(examples=["no tensor; export with zipmap=False to have it"])


class Signature(Answer):
    inputs: list[Tensor]
    outputs: list[Tensor]
    left_out: list[LeftOut] = Field(description="Outputs of the graph that nobody can ask for.")


class ModelVersion(Stored):
    model: str = Field(examples=["churn"])
    runtime: str = Field(examples=["onnx"])
    platform: str = Field(examples=["onnxruntime_onnx"])
    signature: Signature
    spec: dict[str, Any] = Field(description="The package's seaway.yaml, defaults filled in.")
    experiment_id: str | None = Field(description="The experiment that gave it.", examples=[EXPERIMENT])


class Model(Answer):
    name: str = Field(examples=["churn"])
    aliases: dict[str, int] = Field(examples=[{"champion": 1}])
    versions: list[ModelVersion] = Field(description="Oldest first.")


class ModelSummary(Answer):
    name: str = Field(examples=["churn"])
    description: str
    newest: int | None = Field(description="Null for a model that only experiments name.", examples=[3])
    n_versions: int = Field(examples=[3])
    aliases: dict[str, int] = Field(examples=[{"champion": 1}])


class Alias(Answer):
    model: str = Field(examples=["churn"])
    name: str = Field(examples=["champion"])
    version: int = Field(examples=[1])
    updated_at: datetime = Field(examples=[TIME])
    updated_by: str = Field(examples=["ada"])


class ResolvedAlias(Answer):
    model: str = Field(examples=["churn"])
    name: str = Field(examples=["champion"])
    version: int | None = Field(description="Null once the alias is taken away.", examples=[1])


class AliasEvent(Answer):
    model: str = Field(examples=["churn"])
    alias: str = Field(examples=["champion"])
    from_version: int | None = Field(examples=[None])
    to_version: int | None = Field(examples=[1])
    at: datetime = Field(examples=[TIME])
    by: str = Field(examples=["ada"])
    reason: str


class Trained(Answer):
    model: str = Field(examples=["churn"])
    version: int = Field(examples=[1])
    metrics: dict[str, Any] = Field(examples=[{"auc": 0.91}])
    created_at: datetime = Field(examples=[TIME])


class Experiment(Answer):
    experiment_id: str = Field(description="A pure function of dataset and spec.", examples=[EXPERIMENT])
    dataset: str = Field(examples=["flights"])
    dataset_version: int = Field(examples=[1])
    dataset_digest: str = Field(examples=[DIGEST])
    model: str = Field(examples=["churn"])
    spec: dict[str, Any] = Field(
        description="architecture, hyper_parameters, validation_strategy, code_commit and the model's name."
    )
    spec_digest: str = Field(examples=[DIGEST])
    created_at: datetime = Field(examples=[TIME])
    trained: list[Trained] = Field(description="The versions that came of it, and how well they did.")


class RowsPoint(Answer):
    """A request with so many samples."""

    rows: int = Field(examples=[16])
    prepare_us: float = Field(description="Microseconds of CPU time, as the others.", examples=[74.1])
    run_us: float = Field(examples=[16.8])
    encode_us: float = Field(examples=[31.1])


class LengthPoint(Answer):
    """A text of so many tokens."""

    tokens: int = Field(examples=[128])
    prepare_us: float = Field(examples=[332.8])
    run_us: float = Field(examples=[16288.7])
    encode_us: float = Field(examples=[256.1])


class EnginesPoint(Answer):
    engines: int = Field(examples=[2])
    requests_per_second: float = Field(description="Of all engines of one process together.", examples=[412.0])


class ThreadsPoint(Answer):
    threads: int = Field(description="Inside the runtime, for one sample.", examples=[2])
    run_us: float = Field(description="Microseconds of the clock.", examples=[1804.3])


class Curves(Answer):
    load_seconds: float = Field(examples=[0.07])
    memory_bytes: int = Field(description="Of a process once the version is warm.", examples=[94170112])
    peak_memory_bytes: int = Field(description="With the largest request that was tried.", examples=[258269184])
    rows: list[RowsPoint]
    lengths: list[LengthPoint] = Field(description="Empty for versions that don't take texts.")
    engines: list[EnginesPoint]
    threads: list[ThreadsPoint]
    rewritten: bool = Field(False, description="Measured with its graph rewritten, as it was served then.")


class ProfileResult(Answer):
    machine: str = Field(examples=["x86_64 AMD EPYC, 2 cores, onnxruntime 1.31.1, seaway 0.1.0"])
    curves: Curves
    created_at: datetime = Field(examples=[TIME])
    created_by: str = Field(examples=["ada"])


class BatchPoint(Answer):
    """A batch of so many samples."""

    rows: int = Field(examples=[32])
    tokens: int | None = Field(description="Of each sample; null where all have one size.", examples=[128])
    run_us: float | None = Field(
        description="Microseconds of the clock; null where there was no memory.", examples=[673000.0]
    )
    memory_bytes: int = Field(description="Most that the process, or the device, had had until then.")


class Batches(Answer):
    """What batches cost, measured when the version was first deployed to the batch lane of that machine."""

    machine: str = Field(examples=["x86_64 AMD EPYC, 2 cores, onnxruntime 1.31.1, seaway 0.1.0"])
    device: str = Field(examples=["cpu"])
    dtype: str = Field(examples=["fp32"])
    max_difference: float | None = Field(description="From the answers of a CPU in fp32; null where it is one.")
    min_cosine: float | None = Field(description="To the answers of a CPU in fp32; null where it is one.")
    points: list[BatchPoint]


class Graph(Answer):
    """What came of rewriting the version's graph, as calibration found when it was deployed."""

    used: bool = Field(description="Whether it is served so.")
    what: str = Field(examples=["12 SkipLayerNormalization"])
    exported_ns: int = Field(description="CPU time of a run with the graph as it is in the package.")
    rewritten_ns: int
    max_difference: float | None = Field(description="Of answers to the inputs that were tried; null: infinite.")
    compared: bool = Field(True, description="Whether answers were compared at all; not where it is no faster.")
    why: str = Field(description="Why it isn't served so; empty where it is.")
    doubt: str = Field("", description="Why answers may differ by more than their last digits; empty: they don't.")


class JointRuns(Answer):
    """Whether requests for the version share runs, as calibration found when it was deployed."""

    rows: int = Field(description="Samples of one run, at most; 1: each request runs alone.", examples=[8])
    numbers: int = Field(description="In the tensors of one run, at most; of larger samples fewer run together.")
    alone_ns: int = Field(description="CPU time of a sample that runs alone; 0: not measured.")
    together_ns: int = Field(description="Of a sample in a run of so many.")
    why: str = Field(description="Why requests don't share runs; empty where they do.")


class Profile(Answer):
    """What a version costs in which circumstances."""

    model: str = Field(examples=["churn"])
    version: int = Field(examples=[1])
    digest: str = Field(examples=[DIGEST])
    state: str = Field(description="running, done or failed.", examples=["done"])
    reason: str = Field(description="Why it failed.")
    step: str = Field(description="What is measured now.", examples=["16 rows"])
    progress: float = Field(description="How much of it is done, 0 to 1.", examples=[1.0])
    result: ProfileResult | None = Field(description="The newest that is complete; null before the first is.")
    graph: Graph | None = Field(
        description="Null where the graph has nothing to rewrite, nobody has deployed it, or graph_rewrites is never."
    )
    joint: JointRuns | None = Field(description="Null where no CPU lane has served it yet.")
    batches: Batches | None = Field(description="Null for a version that no batch lane has served yet.")


class Arm(Answer):
    name: str = Field(examples=["stable"])
    version: int = Field(examples=[1])
    weight_bp: int = Field(description="Share of the requests in basis points.", examples=[10_000])


class Settings(Answer):
    engines: int | None
    processes: int | None
    max_queue_size: int | None
    timeout_seconds: float | None
    placement: str | None = Field(description="auto, inline or worker.")
    joint_runs: str | None = Field(description="Of the CPU lane: auto or never.")
    lane: str | None = Field(description="auto, cpu or batch.")
    device: str | None = Field(description="Of the batch lane.")
    dtype: str | None = Field(description="Of the batch lane.")
    max_batch_rows: int | None
    max_batch_tokens: int | None
    preferred_batch_rows: list[int] | None
    max_queue_delay_seconds: float | None
    latency_target_seconds: float | None
    length_bucketing: bool | None


class Revision(Answer):
    """Desired state of a model at one time; never changed, never deleted."""

    id: int = Field(description="Counts over all models; prediction ids carry it.", examples=[7])
    model: str = Field(examples=["churn"])
    number: int = Field(description="Counts within the model.", examples=[2])
    arms: list[Arm] = Field(description="Empty: undeployed.")
    settings: Settings = Field(description="What the deployment asked for; null leaves it to package and server.")
    action: str = Field(description="deploy, undeploy or rollback.", examples=["deploy"])
    reason: str
    created_at: datetime = Field(examples=[TIME])
    created_by: str = Field(examples=["ada"])
    state: str = Field(description="pending, ready, failed, superseded or undeployed.", examples=["ready"])
    state_reason: str = Field(description="Why it is in this state, where there is something to say.")
    ready_at: datetime | None = Field(description="When it first served.", examples=[TIME])
    demoted: str = Field(description="Why gateways stopped running it themselves; empty: they didn't.")


class ChangedRevision(Revision):
    message: str = Field(description="What happens next, in a sentence.", examples=["Version 1 of churn serves."])


class Worker(BaseModel):
    """A process that serves one version; more keys may follow."""

    worker_id: str = Field(examples=["w812-1"])
    pid: int | None
    version: int = Field(examples=[1])
    revision: int = Field(examples=[7])
    phase: str = Field(examples=["ready"])
    engines: int = Field(examples=[2])

    model_config = ConfigDict(extra="allow")


class Choice(Answer):
    """How a version is placed, by what it was measured to cost."""

    placement: str = Field(description="inline (in the gateways) or worker.", examples=["inline"])
    processes: int = Field(examples=[1])
    engines: int = Field(description="Over all processes.", examples=[1])
    lane: str = Field(description="cpu or batch.", examples=["cpu"])
    why: str = Field(description="A sentence for people.")


class Live(Answer):
    """What runs of a model now."""

    state: str = Field(description="READY, LOADING, UNAVAILABLE or UNDEPLOYED.", examples=["READY"])
    version: int | None = Field(description="The version that answers.", examples=[1])
    revision: int | None = Field(description="The id of its revision.", examples=[7])
    reason: str
    choice: Choice | None = Field(description="Null until the version has been measured on this machine.")
    answered: int | None = Field(
        None, description="Requests since the server started; null where nothing is counted.", examples=[1402]
    )
    workers: list[Worker]


class Deployment(Revision):
    live: Live | None = Field(description="Null until the server has taken notice of it.")


class Gateway(Answer):
    index: int = Field(examples=[0])
    pid: int
    generation: int = Field(description="Of the routing table that it uses.", examples=[12])


class Status(Answer):
    version: str = Field(description="Seaway's.", examples=["0.1.0"])
    models: dict[str, Live]
    gateways: list[Gateway]
    generation: int = Field(description="Of the newest routing table.", examples=[12])


class Logs(Answer):
    lines: list[str] = Field(description="Oldest first; each a JSON object.")


class AuditEntry(Answer):
    seq: int = Field(examples=[1])
    at: datetime = Field(examples=[TIME])
    actor: str = Field(examples=["ada"])
    action: str = Field(examples=["model.version"])
    entity: str = Field(examples=["churn/1"])
    detail: dict[str, Any]
    prev_hash: str = Field(description="Hash of the entry before; the first has zeros.", examples=["0" * 64])
    hash: str = Field(description="SHA-256 of prev_hash and this entry.", examples=[DIGEST])


class LineageExperiment(Answer):
    experiment_id: str = Field(examples=[EXPERIMENT])
    spec: dict[str, Any]


class LineageDataset(Answer):
    name: str = Field(examples=["flights"])
    version: int = Field(examples=[1])
    digest: str = Field(examples=[DIGEST])


class Lineage(Answer):
    """From a prediction to the bytes of the model and of the data it learnt from."""

    prediction_id: str = Field(examples=["01KG9QTK000000001R00000001"])
    at: datetime = Field(description="When it was answered.", examples=[TIME])
    gateway: int = Field(examples=[0])
    model: str = Field(examples=["churn"])
    version: int = Field(examples=[1])
    arm: str = Field(examples=["stable"])
    artifact_digest: str = Field(examples=[DIGEST])
    revision: int = Field(description="The deployment's number within the model.", examples=[2])
    revision_id: int = Field(examples=[7])
    deployed_at: datetime = Field(examples=[TIME])
    deployed_by: str = Field(examples=["ada"])
    reason: str = Field(description="Why it was deployed.")
    experiment: LineageExperiment | None
    dataset: LineageDataset | None


class IndexEntry(Answer):
    name: str = Field(examples=["churn"])
    version: str = Field(examples=["1"])
    state: str = Field(description="READY, LOADING or UNAVAILABLE.", examples=["READY"])
    reason: str


class Nothing(Answer):
    """An empty object: it is done."""
