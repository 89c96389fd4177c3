"""The client itself: a method for each thing that the server can be asked."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from seaway.client import answers, upload
from seaway.client.connections import PerThread
from seaway.client.encoding import encode
from seaway.errors import DeadlineExceeded, InvalidRequest, ServerNotReached, Unavailable
from seaway.types import Json, ServingSettings

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 60.0
_UPLOAD_ANSWER_SECONDS = 900.0  # the server hashes, opens and tries out what was uploaded before it answers


@dataclass(frozen=True, slots=True)
class Prediction:
    """What `/predict` answered. Durations are the server's, by what took them; `total` is what the client waited."""

    answer: Json
    milliseconds: Mapping[str, float]
    truncated: int = 0
    """Texts of which the model saw only the beginning, since they were longer than it takes."""

    @property
    def outputs(self) -> Any:
        return self.answer["outputs"]


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A version that an upload gave. `new` is False when the same bytes were already registered as this version."""

    version: Json
    new: bool


class Client:
    """One server at one address, for any threads to share. It owns connections: close it or use it in `with`."""

    def __init__(self, url: str, api_key: str | None = None, *, actor: str = "") -> None:
        """`actor` is who does what this client asks for, as the server's audit log will have it."""
        self.url = url.rstrip("/")
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise InvalidRequest(f"{url!r} is no address of a server: {error}.") from error
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise InvalidRequest(f"{url!r} is no address of a server; write it like http://127.0.0.1:8080.")
        self._answered = False
        """Whether anything has come back as HTTP; what never did is hardly a Seaway server that has just stopped."""
        self._http = httpx.Client(
            base_url=self.url,
            headers=_headers(api_key, actor),
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            transport=PerThread(_trust() if parsed.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
            trust_env=False,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ------------------------------------------------------------------ models

    def register(
        self,
        model: str,
        path: Path,
        *,
        experiment_id: str | None = None,
        metrics: Json | None = None,
        description: str = "",
        progress: upload.Progress | None = None,
    ) -> Uploaded:
        """Upload a file, a directory or an archive as a version of `model`."""
        fields = {"experiment_id": experiment_id, "metrics": _dumped(metrics, "metrics"), "description": description}
        return self._upload(f"/api/models/{_part(model)}/versions", path, fields, progress)

    def list_models(self) -> list[Json]:
        return list(self._items("/api/models"))

    def get_model(self, model: str) -> Json:
        return self._json("GET", f"/api/models/{_part(model)}")

    def get_model_version(self, model: str, version: int | str) -> Json:
        """One version, by number or alias."""
        return self._json("GET", f"/api/models/{_part(model)}/versions/{_part(version)}")

    def start_profile(self, model: str, version: int | str) -> Json:
        """Have a version measured; `get_profile` tells how far that is."""
        return self._json("POST", f"/api/models/{_part(model)}/versions/{_part(version)}/profile")

    def get_profile(self, model: str, version: int | str) -> Json:
        """How far measuring is, and the newest result."""
        return self._json("GET", f"/api/models/{_part(model)}/versions/{_part(version)}/profile")

    def list_aliases(self, model: str) -> list[Json]:
        return list(self._items(f"/api/models/{_part(model)}/aliases"))

    def get_alias(self, model: str, alias: str) -> Json:
        return self._json("GET", f"/api/models/{_part(model)}/aliases/{_part(alias)}")

    def set_alias(self, model: str, alias: str, version: int, *, reason: str = "") -> Json:
        body = {"version": version, "reason": reason}
        return self._json("PUT", f"/api/models/{_part(model)}/aliases/{_part(alias)}", json=body)

    def delete_alias(self, model: str, alias: str) -> Json:
        return self._json("DELETE", f"/api/models/{_part(model)}/aliases/{_part(alias)}")

    def alias_history(self, model: str, alias: str) -> list[Json]:
        return list(self._items(f"/api/models/{_part(model)}/aliases/{_part(alias)}/history"))

    # ------------------------------------------------------------------ datasets and experiments

    def add_dataset_version(
        self,
        dataset: str,
        path: Path,
        *,
        description: str = "",
        source: Json | None = None,
        progress: upload.Progress | None = None,
    ) -> Uploaded:
        """Upload a file, a directory or an archive as a version of `dataset`."""
        fields = {"description": description, "source": _dumped(source, "source")}
        return self._upload(f"/api/datasets/{_part(dataset)}/versions", path, fields, progress)

    def list_datasets(self) -> list[Json]:
        return list(self._items("/api/datasets"))

    def get_dataset(self, dataset: str) -> Json:
        return self._json("GET", f"/api/datasets/{_part(dataset)}")

    def create_experiment(self, experiment: Json) -> Json:
        """`experiment` has dataset, dataset_version, model, architecture, hyper_parameters, validation_strategy and
        code_commit; the same content is the same experiment."""
        return self._json("POST", "/api/experiments", json=experiment)

    def list_experiments(self) -> list[Json]:
        """The newest first, a thousand at most."""
        return list(self._json("GET", "/api/experiments", params={"limit": "1000"})["items"])

    def get_experiment(self, experiment_id: str) -> Json:
        return self._json("GET", f"/api/experiments/{_part(experiment_id)}")

    # ------------------------------------------------------------------ deployments

    def deploy(
        self,
        model: str,
        version: int | str | None = None,
        *,
        settings: ServingSettings | None = None,
        reason: str = "",
        wait_seconds: float = 0.0,
    ) -> Json:
        """Ask for `version` (a number, an alias, None for the newest) and return the revision.

        With `wait_seconds` the server answers when the revision has settled or that time is over.
        """
        wanted = {name: value for name, value in asdict(settings or ServingSettings()).items() if value is not None}
        body = {"version": version, "reason": reason, **wanted}
        return self._deployment("PUT", f"/api/deployments/{_part(model)}", wait_seconds, json=body)

    def undeploy(self, model: str, *, reason: str = "") -> Json:
        return self._json("DELETE", f"/api/deployments/{_part(model)}", params={"reason": reason} if reason else {})

    def rollback(self, model: str, *, reason: str = "", wait_seconds: float = 0.0) -> Json:
        """Deploy again what was ready before."""
        path = f"/api/deployments/{_part(model)}/rollback"
        return self._deployment("POST", path, wait_seconds, json={"reason": reason})

    def list_deployments(self) -> list[Json]:
        return list(self._items("/api/deployments"))

    def get_deployment(self, model: str) -> Json:
        """The newest revision of a model and what runs of it."""
        return self._json("GET", f"/api/deployments/{_part(model)}")

    def deployment_history(self, model: str) -> list[Json]:
        return list(self._items(f"/api/deployments/{_part(model)}/history"))

    def _deployment(self, method: str, path: str, wait_seconds: float, **content: Any) -> Json:
        timeout = httpx.Timeout(_ANSWER_SECONDS + wait_seconds, connect=_CONNECT_SECONDS)
        params = {"wait": wait_seconds} if wait_seconds else {}
        return self._json(method, path, params=params, timeout=timeout, **content)

    # ------------------------------------------------------------------ predictions and the running server

    def predict(
        self,
        model: str,
        inputs: Any,
        *,
        version: int | str | None = None,
        timeout_seconds: float | None = None,
    ) -> Prediction:
        """Ask for one sample or a list of samples; `timeout_seconds` is also the server's deadline.

        Arrays and numbers of numpy are sent as lists and numbers, wherever in `inputs` they are.
        """
        body = encode({"inputs": inputs}, "inputs")
        return self._predict(model, body, "application/json", version, timeout_seconds)

    def predict_image(
        self, model: str, image: bytes, content_type: str, *, version: int | str | None = None
    ) -> Prediction:
        """Ask for one picture, sent as it is."""
        return self._predict(model, image, content_type, version, None)

    def _predict(
        self, model: str, body: bytes, content_type: str, version: int | str | None, timeout_seconds: float | None
    ) -> Prediction:
        headers = {"Content-Type": content_type}
        if timeout_seconds is not None:
            headers["X-Request-Timeout-Seconds"] = f"{timeout_seconds:g}"
        began = time.monotonic()
        response = self._request(
            "POST",
            f"/predict/{_part(model)}",
            params={} if version is None else {"version": str(version)},
            content=body,
            headers=headers,
            timeout=httpx.Timeout((timeout_seconds or _ANSWER_SECONDS) + _CONNECT_SECONDS, connect=_CONNECT_SECONDS),
        )
        milliseconds = answers.server_timing(response.headers.get("server-timing", ""))
        milliseconds["total"] = (time.monotonic() - began) * 1e3
        truncated = response.headers.get("seaway-truncated", "")
        return Prediction(answers.read_object(response), milliseconds, int(truncated) if truncated.isdigit() else 0)

    def get_metadata(self, model: str, version: int | str | None = None) -> Json:
        """The tensors that a served model takes and gives, by the Open Inference Protocol."""
        of_version = "" if version is None else f"/versions/{_part(version)}"
        return self._json("GET", f"/v2/models/{_part(model)}{of_version}")

    def get_prediction(self, prediction_id: str) -> Json:
        """Where an answer came from: revision, version, bytes, experiment, data."""
        return self._json("GET", f"/api/predictions/{_part(prediction_id)}")

    def status(self) -> Json:
        """What runs now: models with their workers, gateways."""
        return self._json("GET", "/api/status")

    def list_audit(self) -> list[Json]:
        return list(self._items("/api/audit"))

    def logs(self, model: str | None = None, *, lines: int = 100) -> list[str]:
        """The newest log lines, oldest first; each is a JSON object."""
        params = {"lines": str(lines)} | ({"model": model} if model else {})
        return list(self._json("GET", "/api/logs", params=params)["lines"])

    # ------------------------------------------------------------------ HTTP

    def _upload(
        self, path: str, source: Path, fields: Mapping[str, str | None], progress: upload.Progress | None
    ) -> Uploaded:
        body = upload.Multipart(upload.list_files(source), {name: text for name, text in fields.items() if text})
        headers = {"Content-Type": body.content_type, "Content-Length": str(body.n_bytes)}
        timeout = httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS, read=_UPLOAD_ANSWER_SECONDS)
        response = self._request("POST", path, content=body.chunks(progress), headers=headers, timeout=timeout)
        return Uploaded(answers.read_object(response), new=response.status_code == httpx.codes.CREATED)

    def _items(self, path: str) -> Iterator[Json]:
        """All items of a list, page after page."""
        cursor: str | None = None
        while True:
            page = self._json("GET", path, params={"cursor": cursor} if cursor else {})
            yield from page["items"]
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def _json(self, method: str, path: str, *, json: Json | None = None, **request: Any) -> Json:
        if json is not None:
            request |= {"content": encode(json, "The body"), "headers": {"Content-Type": "application/json"}}
        return answers.read_object(self._request(method, path, **request))

    def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **request)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ServerNotReached(
                f"No Seaway server answers at {self.url}; start one with `seaway serve`, or set SEAWAY_URL."
            ) from error
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(f"The server at {self.url} took too long to answer.") from error
        except httpx.HTTPError as error:
            broken = f"The connection to {self.url} broke before there was an answer: {str(error).rstrip('.')}"
            if method == "GET" and not self._answered:
                raise ServerNotReached(f"{broken}; is it a Seaway server?") from error
            raise Unavailable(f"{broken}.") from error
        self._answered = True
        if not response.is_success:
            raise answers.refusal(response)
        return response


def _headers(api_key: str | None, actor: str) -> dict[str, str]:
    headers = {}
    if api_key:
        if not (api_key.isascii() and api_key.isprintable()):
            raise InvalidRequest("The API key has characters that no key has; was more than the key copied?")
        headers["Authorization"] = f"Bearer {api_key}"
    if actor:
        headers["Seaway-Actor"] = actor.encode("ascii", "replace").decode()
    return headers


def _trust() -> ssl.SSLContext:
    """The system's certificates, so that a company's own authority counts; reading them takes a while."""
    return ssl.create_default_context()


def _part(name: object) -> str:
    """A name as one part of a path, whatever characters it has."""
    return quote(str(name), safe="")


def _dumped(value: Json | None, name: str) -> str | None:
    return None if value is None else encode(value, name).decode()
