"""Settings: the only place that reads the environment. Each room gets its part from a composition root.

Order, first found wins: command-line flag, ``SEAWAY_*`` variable, ``seaway.toml`` (or the file that ``SEAWAY_CONFIG``
names), default.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from seaway.errors import ConfigurationError

MIB = 1 << 20
DEVICE, DEVICES = r"^(auto|cpu|cuda(:\d{1,3})?)$", "auto, cpu, cuda or cuda:N"
"""What a device may be called: for programs, and for people."""
_SECRETS = {"api_key", "database_url"}
_NO_SETTINGS = {"SEAWAY_CONFIG", "SEAWAY_URL"}
_EXPECTED = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number", "finite_number": "a finite number", "string_type": "text",
    "bool_type": "true or false", "bool_parsing": "true or false", "path_type": "a path",
    "literal_error": "{expected}", "string_pattern_mismatch": DEVICES,
    "greater_than": "more than {gt}", "greater_than_equal": "at least {ge}", "less_than_equal": "at most {le}",
}  # fmt: skip
"""What a setting must be, by what pydantic calls the mistake."""


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
        "auto", description="cpu: an engine on each core; batch: many samples together; auto: batch on a GPU."
    )
    device: str = Field("auto", pattern=DEVICE, description="What the batch lane runs on.")
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
    joint_runs: Literal["auto", "never"] = Field(
        "auto",
        description="Requests that wait for the same engine share a run where that is faster and answers stay the same "
        "but for last digits.",
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
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=settings_file()))

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


def settings_file() -> Path:
    """The file with settings. Only the one of SEAWAY_CONFIG has to be there."""
    return Path(os.environ.get("SEAWAY_CONFIG", "seaway.toml"))


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
    given = {name: value for name, value in flags.items() if value is not None}
    if "SEAWAY_CONFIG" in os.environ and not settings_file().is_file():
        # Without it the server would run open to all, were its API key in there.
        raise ConfigurationError(f"SEAWAY_CONFIG names {str(settings_file())!r}, where there is no file.")
    try:
        settings = Settings(**given)
    except pydantic.ValidationError as error:
        raise ConfigurationError(_explained(error.errors()[0], given)) from error
    except ValueError as error:
        raise ConfigurationError(f"The settings file {settings_file()} can't be read: {error}.") from error
    for variable in os.environ:
        _check_variable(variable)
    return settings


def _explained(finding: Mapping[str, Any], flags: Mapping[str, Any]) -> str:
    """What pydantic found, as a sentence that says what is possible and where the wrong value stands."""
    name = ".".join(str(part) for part in finding["loc"])
    variable = f"SEAWAY_{name.upper()}"
    is_variable = name not in flags and any(variable == given.upper() for given in os.environ)
    place = "" if name in flags else f" (in {variable if is_variable else settings_file()})"
    if finding["type"] == "extra_forbidden":
        close = get_close_matches(name, Settings.model_fields, n=1)
        meant = f"did you mean {close[0]!r}?" if close else "`seaway serve --print-config` lists them all."
        return f"There is no setting {name!r}{place}; {meant}"
    expected = _EXPECTED.get(finding["type"])
    if expected is None:
        problem = str(finding["msg"]).removeprefix("Value error, ").rstrip(".")
        return f"The setting {name!r} is wrong: {problem}{place}."
    context = finding.get("ctx") or {}
    limits = {key: f"{limit:.15g}" if isinstance(limit, float) else limit for key, limit in context.items()}
    value = "" if name in _SECRETS else f", not {str(finding['input'])[:100]!r}"
    return f"The setting {name!r} is wrong: it must be {expected.format_map(limits)}{value}{place}."


def _check_variable(variable: str) -> None:
    """Refuse a variable that was meant to be a setting. Others may have ours as prefix: Kubernetes makes some."""
    upper = variable.upper()
    name = upper.removeprefix("SEAWAY_").lower()
    if name == upper.lower() or upper in _NO_SETTINGS or name in Settings.model_fields:
        return
    alike = [known for known in Settings.model_fields if abs(len(known) - len(name)) <= 2]  # a slip of the finger
    if close := get_close_matches(name, alike, n=1, cutoff=0.75):
        raise ConfigurationError(f"There is no setting {name!r} (in {variable}); did you mean {close[0]!r}?")


def client_address() -> tuple[str, str | None]:
    """Where the command line finds its server: (URL, API key) from SEAWAY_URL and SEAWAY_API_KEY."""
    return os.environ.get("SEAWAY_URL", "http://127.0.0.1:8080"), os.environ.get("SEAWAY_API_KEY")
