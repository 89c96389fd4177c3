"""Settings: the only place that reads the environment. Each room gets its part from a composition root.

Order, first found wins: command-line flag, ``SEAWAY_*`` variable, ``seaway.toml`` (or the file that ``SEAWAY_CONFIG``
names), default.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from seaway.errors import ConfigurationError

MIB = 1 << 20


class Settings(BaseSettings):
    """Every setting of `seaway serve`, with its default."""

    model_config = SettingsConfigDict(env_prefix="SEAWAY_", extra="forbid", frozen=True)

    home: Path = Field(Path(".seaway"), description="State: database file, artifacts by digest.")
    host: str = Field("127.0.0.1", description="Address to listen on; anything but loopback needs api_key.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    gateways: int | None = Field(
        None, ge=1, le=64, description="Gateway processes that share the port; default one a core, four at most."
    )
    api_key: pydantic.SecretStr | None = Field(None, description="When set, every route asks for it.")
    allow_open: bool = Field(False, description="Listen beyond loopback without an API key.")
    database_url: str | None = Field(None, description="SQLAlchemy URL; default is SQLite in home.")

    placement: Literal["auto", "inline", "worker"] = Field(
        "auto", description="Where versions run: inline is in the gateways; auto decides by calibration."
    )
    lane: Literal["auto", "cpu", "batch"] = Field(
        "auto", description="cpu: a sample at a time on each core; batch: many together; auto: batch on a GPU."
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="What the batch lane runs on.")
    isolation: bool = Field(
        True,
        description="Slow models leave cores to the gateways while these run fast ones (half of them at most), and "
        "gateways run a model of up to 1 ms while the server is asked for nothing else.",
    )
    gather_connections: bool = Field(
        True, description="Connections gather in as few gateways as have room; else they stay where they were accepted."
    )
    graph_rewrites: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Whether ONNX graphs may be rewritten into faster ones; always: also quantized ones, whose answers "
        "may differ by what rounding makes of a last bit.",
    )
    engines: int | None = Field(None, ge=1, le=1024, description="Engine threads of a version; default all cores.")
    max_queue_size: int = Field(512, ge=1, description="Requests that may wait in one worker; more get 429.")
    timeout_seconds: float = Field(30.0, gt=0, description="A request's deadline when it brings none.")
    max_body_bytes: int = Field(64 * MIB, ge=1, description="Largest inference body, also once unpacked; more is 413.")
    max_upload_bytes: int = Field(8192 * MIB, ge=1, description="Largest upload, also once unpacked.")
    head_seconds: float = Field(10.0, gt=0, description="Time for a request's head to arrive.")
    body_seconds: float = Field(30.0, gt=0, description="Longest silence while a body arrives.")
    load_seconds: float = Field(120.0, gt=0, description="A version that isn't ready by then has failed to start.")
    warm_seconds: float = Field(0.0, ge=0, description="How long a replaced version is kept loaded for a rollback.")
    drain_seconds: float = Field(10.0, gt=0, description="How long stopping waits for requests that run.")
    worker_memory_bytes: int | None = Field(
        None, ge=256 * MIB, description="Address space of a worker; default 80 % of memory."
    )
    inspect_memory_bytes: int = Field(
        8192 * MIB, ge=256 * MIB, description="Address space of the process that opens an upload, its libraries apart."
    )
    inspect_seconds: float = Field(60.0, gt=0, description="Time of the process that opens an upload.")

    metrics: bool = Field(True, description="Count predictions for /metrics.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, else JSON.")
    kill_point_file: Path | None = Field(
        None, description="For tests: file naming the point to die at (seaway.faults)."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = Path(os.environ.get("SEAWAY_CONFIG", "seaway.toml"))
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=path))

    @property
    def url(self) -> str:
        """The registry's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'seaway.db'}"

    @property
    def log_file(self) -> Path:
        """Where every process also writes its log lines, as JSON; /api/logs reads it."""
        return self.home.resolve() / "logs" / "seaway.jsonl"

    def to_json(self) -> bytes:
        """For the children of the launcher, secrets included; the file is readable by this user only."""
        values = self.model_dump(mode="json")
        values["home"] = str(self.home.resolve())
        values["api_key"] = self.api_key.get_secret_value() if self.api_key else None
        return json.dumps(values).encode()

    @classmethod
    def from_json(cls, path: Path) -> Settings:
        """Called in control and gateways: exactly what the launcher had, whatever environment and files say now."""
        return cls.model_validate_json(path.read_bytes())


def child_environment(*, worker: bool) -> dict[str, str]:
    """What a child process inherits. A worker runs somebody's model: no secrets, and no thread pools of its own."""
    # glibc gives tensors of more than 128 kB back to the kernel after each request, and takes new pages for the next:
    # 600 kB in and out cost 1.0 ms of CPU so, and 0.4 ms with up to 64 MiB kept. Blocks over 16 MiB still go back.
    environment = {"MALLOC_MMAP_THRESHOLD_": str(16 * MIB), "MALLOC_TRIM_THRESHOLD_": str(64 * MIB), **os.environ}
    if worker:
        environment = {name: value for name, value in environment.items() if not name.startswith("SEAWAY_")}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return environment


def load_settings(**flags: Any) -> Settings:
    """Settings from flags (None: not given), environment and file. Raises ConfigurationError in one sentence."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise ConfigurationError(f"The setting {name!r} is wrong: {problem}.") from error
    except ValueError as error:
        raise ConfigurationError(f"The settings file can't be read: {error}.") from error


def client_address() -> tuple[str, str | None]:
    """Where the command line finds its server: (URL, API key) from SEAWAY_URL and SEAWAY_API_KEY."""
    return os.environ.get("SEAWAY_URL", "http://127.0.0.1:8080"), os.environ.get("SEAWAY_API_KEY")
