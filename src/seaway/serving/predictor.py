"""One model version, ready to predict: bytes in, bytes out, in three steps.

`prepare` decodes, validates and preprocesses; `run` executes the graph; `encode` postprocesses and writes the answer.
Engine threads call them on one shared Predictor, which never changes after `open`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import monotonic_ns
from typing import Any

import msgspec

from seaway.errors import DeadlineExceeded, InvalidRequest, SeawayError, Unavailable, UnsupportedEncoding, WarmUpFailed
from seaway.inputs import open_input
from seaway.inputs.base import Array, Padding, Samples
from seaway.packages import PackageSpec, read_spec
from seaway.runtimes import identify, prepared, rewriter, runtime
from seaway.runtimes.base import DeviceSession, RunHandle
from seaway.serving import infer
from seaway.serving.known_answers import read_known_answers, warm_up
from seaway.serving.outputs import OutputStage
from seaway.serving.padding_probe import padding_matters
from seaway.types import MAX_BATCH_SIZE, Json, Signature
from seaway.wire.encoding import choose_encoding, pack, unpack
from seaway.wire.oip import InferRequest, encode_infer
from seaway.wire.plain import InferAnswers
from seaway.wire.predict import PlainBodies, PredictAnswers, decode_predict

_READ_AS_JSON = frozenset({
    "", "application/json", "application/json; charset=utf-8", "application/json;charset=utf-8",
    "application/x-www-form-urlencoded",
})  # fmt: skip
"""What clients send most, curl without a header among them; any other type is looked at more closely."""
MIN_COMPRESSED_BYTES = 1024
"""A shorter answer fits into one packet anyway."""


class TooLarge(Exception):
    """More samples, or larger ones, than the caller of `answer` wants to run."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        """In the tensors of the request."""


def asked_timeout_ns(parameters: Json) -> int:
    """The protocol's `timeout`, which the gateway looks for in JSON of up to 64 kB only; 0: there is none."""
    timeout = parameters.get("timeout")
    return max(0, timeout * 1000) if isinstance(timeout, int) else 0


def check_timeout(parameters: Json, passed_ns: int) -> None:
    """Keep to the protocol's `timeout` where the gateway hasn't. Raises DeadlineExceeded."""
    if 0 < asked_timeout_ns(parameters) < passed_ns:
        raise DeadlineExceeded(f"The request's time ({parameters['timeout']} µs) was over before it ran.")


class Payload(msgspec.Struct, frozen=True, gc=False):
    """A request as it arrived. `protocol` is "predict" or "infer"."""

    protocol: str
    body: bytes | memoryview
    header_length: int | None = None
    content_type: str = ""
    content_encoding: str = ""
    accept_encoding: str = ""


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """A validated request: the tensors to run, and what `encode` needs to know about the request."""

    samples: Samples
    names: tuple[str, ...]
    """Graph outputs to compute."""
    request: InferRequest | None
    """None for `/predict`."""
    accept_encoding: str

    @property
    def rows(self) -> int:
        return self.samples.rows

    @property
    def tokens(self) -> int:
        return self.samples.tokens

    @property
    def numbers(self) -> int:
        """In all tensors."""
        return sum(array.size for feeds in self.samples.feeds for array in feeds.values())


class Reply(msgspec.Struct, frozen=True, gc=False):
    """An answer as it leaves. `header_length` is None for plain JSON."""

    chunks: list[bytes | memoryview]
    n_bytes: int
    header_length: int | None
    content_type: str
    content_encoding: str
    rows: int
    cut: int = 0
    """Texts of the request of which the model saw only the beginning."""


class Predictor:
    """A loaded version, made by `open`. Safe to use from several threads at once."""

    def __init__(
        self,
        package: Path,
        spec: PackageSpec,
        session: DeviceSession,
        *,
        model: str,
        version: int,
        max_body_bytes: int,
    ) -> None:
        self.spec = spec
        self._model = model
        self._version = version
        self._max_body_bytes = max_body_bytes
        self._session = session
        self._input = open_input(package, spec, self._session.signature)
        self._outputs = OutputStage(spec.output, self._session.signature, masked=self._input.gives_masks)
        self._answers = read_known_answers(package, spec)
        self.why_alone = padding_matters(session, self._input.padding, self._input) if self._input.pads else ""
        """Why texts of one request run one by one, if so."""
        self._stacks = False
        self.rewritten = False
        """Whether its graph is another than the package's."""
        self._forms = {form.opening: form.read for form in self._input.forms()}
        self._plain_bodies = PlainBodies({form.opening: form.kind for form in self._input.forms()})
        self._predict_answers = PredictAnswers(model, version)
        self._infer_answers = InferAnswers(model, version, self._session.signature.outputs)
        self._infer_reader = infer.InferReader(
            self._session.signature,
            allow_nonfinite=spec.input.allow_nonfinite,
            limit=spec.serving.max_batch_size,
        )

    @classmethod
    def open(  # noqa: PLR0913 - names and limits, all different
        cls,
        package: Path,
        *,
        model: str,
        version: int,
        max_body_bytes: int,
        threads: int = 1,
        device: str = "cpu",
        dtype: str = "auto",
        prepared_in: Path | None = None,
        rewritten: bool = False,
        stacks: bool = False,
    ) -> Predictor:
        """Load the package. Raises InvalidPackage saying what is wrong with it, without paths of this machine.

        Raises ConfigurationError for a device or dtype that can't be had; `Runtime.load` says what there is. The model
        itself comes from `prepared_in`, if given, where `PreparedModels.prepare` has put it; then it is on the CPU.
        `rewritten`: with a rewritten graph, which raises Unavailable where that can't be; then it is on the CPU, too.
        `stacks`: for a caller that stacks what it prepares, and keeps to `padding`.
        """
        spec = identify(package, read_spec(package))
        kept = prepared(spec.runtime or "") if prepared_in is not None else None
        if kept is not None and prepared_in is not None:
            session = kept.load(prepared_in, threads=threads)
        elif rewritten:
            models = rewriter(spec.runtime or "")
            if models is None:
                raise Unavailable(f"Nothing rewrites models of the runtime {spec.runtime}.")
            session = models.load(package, spec, threads=threads)
        else:
            session = runtime(spec.runtime or "").load(package, spec, threads=threads, device=device, dtype=dtype)
        opened = cls(package, spec, session, model=model, version=version, max_body_bytes=max_body_bytes)
        opened._stacks = stacks
        opened.rewritten = rewritten
        return opened

    @property
    def signature(self) -> Signature:
        return self._session.signature

    @property
    def platform(self) -> str:
        return self._session.platform

    @property
    def session(self) -> DeviceSession:
        """The loaded model itself."""
        return self._session

    @property
    def padding(self) -> Padding | None:
        """How samples of different lengths may be stacked, if they may."""
        padding = self._input.padding
        return padding if padding is None or not self.why_alone else msgspec.structs.replace(padding, exact=True)

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Labels by output tensor, for answers and for the protocol's classification extension."""
        return self._outputs.labels

    @property
    def spec_json(self) -> Json:
        """The whole specification as the registry keeps it, defaults filled in."""
        spec: Json = msgspec.to_builtins(self.spec)
        spec["input"]["options"] = msgspec.to_builtins(self._input.options)
        if self.labels:
            spec["output"]["tensor"] = self._outputs.names[0]
        return spec

    # ------------------------------------------------------------------ the three steps

    def prepare(self, payload: Payload) -> Prepared:
        """Decode, validate, preprocess. Raises InvalidRequest, PayloadTooLarge or UnsupportedEncoding."""
        body = payload.body
        if payload.content_encoding and payload.content_encoding != "identity":
            body = unpack(body, payload.content_encoding, limit_bytes=self._max_body_bytes)
        if payload.protocol == "infer":
            read = self._infer_reader.read(body, payload.header_length)
            samples = Samples((read.feeds,), read.rows, False)
            return Prepared(samples, read.names, read.request, payload.accept_encoding)
        samples = self._samples(payload, body)
        if self.why_alone and len(samples.feeds) < samples.rows and not self._stacks:
            samples = samples.apart()
        return Prepared(samples, self._outputs.names, None, payload.accept_encoding)

    def run(self, batch: Sequence[Prepared], handle: RunHandle | None = None) -> list[Any]:
        """Execute the graph for each of `batch`. Raises Cancelled, InferenceFailed or InvalidRequest."""
        return [self._run(prepared, handle) for prepared in batch]

    def encode(self, prepared: Prepared, outputs: Any, prediction_id: str) -> Reply:
        """The answer to `prepared` from what `run` gave for it."""
        request, samples = prepared.request, prepared.samples
        if request is None:
            body = self._predict_answers.encode(prediction_id, self._outputs.values(samples, outputs))
            return Reply([body], len(body), None, "application/json", "", samples.rows, samples.cut)
        encoded = self._infer_answers.encode(request, prepared.names, outputs[0])
        if encoded is None:
            tensors = infer.output_tensors(prepared.names, outputs[0], self.signature)
            encoded = encode_infer(self._model, self._version, request, tensors, labels=self.labels)
        kind = "application/json" if encoded.header_length is None else "application/octet-stream"
        if not prepared.accept_encoding or encoded.n_bytes < MIN_COMPRESSED_BYTES:
            return Reply(encoded.chunks, encoded.n_bytes, encoded.header_length, kind, "", samples.rows)
        encoding = choose_encoding(prepared.accept_encoding)
        if encoding == "identity":
            return Reply(encoded.chunks, encoded.n_bytes, encoded.header_length, kind, "", samples.rows)
        packed = pack(encoded.chunks, encoding)
        return Reply([packed], len(packed), encoded.header_length, kind, encoding, samples.rows)

    def answer(
        self,
        payload: Payload,
        prediction_id: str,
        handle: RunHandle | None = None,
        max_rows: int = MAX_BATCH_SIZE,
        max_numbers: int | None = None,
    ) -> tuple[Reply, int, int, int]:
        """All three steps, and the nanoseconds that each took.

        Raises what they raise, and TooLarge, before anything has run, for more than `max_rows` samples or more than
        `max_numbers` in their tensors.
        """
        began = monotonic_ns()
        prepared = self.prepare(payload)
        ready = monotonic_ns()
        if prepared.samples.rows > max_rows or (max_numbers is not None and prepared.numbers > max_numbers):
            raise TooLarge(prepared.numbers)
        if prepared.request is not None and prepared.request.parameters:
            check_timeout(prepared.request.parameters, ready - began)
        outputs = self._run(prepared, handle)
        ran = monotonic_ns()
        reply = self.encode(prepared, outputs, prediction_id)
        return reply, ready - began, ran - ready, monotonic_ns() - ran

    def warm_up(self) -> None:
        """Replay the known answers, or inputs made up from the signature. Raises WarmUpFailed saying what differed."""
        warm_up(self._outputs_for, self._answers, self._input.examples(), getattr(self._session, "dtype", "fp32"))

    # ------------------------------------------------------------------ for measuring it

    @property
    def numeric(self) -> bool:
        """True when the size of a body bounds what preparing it costs: numbers, and neither texts nor images."""
        strings = any(spec.datatype == "BYTES" for spec in self.signature.inputs)
        return not (strings or self._input.gives_masks or self._input.takes_bytes)

    @property
    def fixed_size(self) -> bool:
        """True when all samples have the same size: no dimension but the one that counts them is variable."""
        return all(-1 not in spec.shape[1:] and spec.shape != () for spec in self.signature.inputs)

    @staticmethod
    def payload(inputs: Any) -> Payload:
        """A request of `/predict` with these inputs."""
        return Payload("predict", msgspec.json.encode({"inputs": inputs}))

    def sample(self) -> Any:
        """The `inputs` of one sample that it answers: from its known answers, else made up. Raises WarmUpFailed."""
        known = [answer.inputs for answer in self._answers]
        firsts = [inputs[0] for inputs in known if isinstance(inputs, list) and inputs]
        for inputs in (*known, *firsts, *self._input.examples()):
            try:
                prepared = self.prepare(self.payload(inputs))
                if prepared.rows == 1:
                    self.run([prepared])
                    return inputs
            except SeawayError:
                continue
        raise WarmUpFailed("No single sample is known that the model answers; add one to known_answers.")

    # ------------------------------------------------------------------ parts of them

    def _outputs_for(self, inputs: Any) -> Any:
        """What a caller of `/predict` would get as `outputs`, through all three steps."""
        prepared = self.prepare(self.payload(inputs))
        if self.why_alone and len(prepared.samples.feeds) < prepared.rows:
            prepared = msgspec.structs.replace(prepared, samples=prepared.samples.apart())
        (outputs,) = self.run([prepared])
        reply = self.encode(prepared, outputs, "warm-up")
        return msgspec.json.decode(b"".join(reply.chunks))["outputs"]

    def _run(self, prepared: Prepared, handle: RunHandle | None) -> list[list[Array]]:
        run, names = self._session.run, prepared.names
        return [run(feeds, names, handle) for feeds in prepared.samples.feeds]

    def _samples(self, payload: Payload, body: bytes | memoryview) -> Samples:
        """The samples of a `/predict` body: in one pass where it has one of the input type's forms."""
        if payload.content_type in _READ_AS_JSON:
            body = bytes(body)
            plain = self._plain_bodies.decode(body)
            if plain is not None:
                opening, inputs, model, n_keys = plain
                samples = self._forms[opening](inputs, n_keys)
                if samples is not None and (model is None or model == self._model):
                    return samples
        return self._input.prepare(self._inputs(payload, body))

    def _inputs(self, payload: Payload, body: bytes | memoryview) -> Any:
        """The `inputs` of a `/predict` body: from JSON, or the body itself where it is an image."""
        kind = payload.content_type.partition(";")[0].strip().lower()
        if kind.startswith("image/") or kind == "multipart/form-data":
            if not self._input.takes_bytes:
                raise UnsupportedEncoding(
                    f"This model takes input of type {self.spec.input.type}; send it as JSON, not as {kind}."
                )
            if kind == "multipart/form-data":
                from seaway.wire.multipart import first_file  # noqa: PLC0415 - 1 MB that few models' workers need

                return bytes(first_file(body, payload.content_type, limit=self._max_body_bytes))
            return bytes(body)
        if "pickle" in kind:
            raise UnsupportedEncoding("Pickles are never read; send JSON.")
        # Whatever else the type says is read as JSON: curl and some clients send a wrong one, or none.
        request = decode_predict(body)
        if request.model not in {None, self._model}:
            raise InvalidRequest(f'"model" in the body is not {self._model!r}, which the path names; leave it out.')
        return request.inputs
