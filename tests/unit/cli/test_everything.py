"""What holds for all commands, and `serve`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from seaway import __version__
from seaway.cli import reference, settings
from seaway.config import Settings
from support.scripted import ScriptedServer

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = {name.removeprefix("seaway "): command for name, command, _context in reference.commands()}
OPTIONS = {
    name.removeprefix("seaway "): {option for parameter in command.get_params(context) for option in parameter.opts}
    for name, command, context in reference.commands()
}
# The least that each command can be asked.
ASKED = {
    "deploy": ["churn"], "undeploy": ["churn"], "rollback": ["churn"], "predict": ["churn", "[1]"], "status": [],
    "logs": [], "register": ["churn", __file__], "models": [], "alias": ["churn"], "profile": ["churn"],
    "datasets show": [],
    "datasets add": ["customers", __file__], "experiments show": [],
    "experiments create": ["--dataset", "d", "--model", "m", "--architecture", "a"],
}  # fmt: skip

Seaway = Callable[..., Result]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_json_and_help(seaway: Seaway, name: str) -> None:
    assert "--json" in OPTIONS[name]

    done = seaway(*name.split(), "--help")

    assert done.exit_code == 0
    assert COMMANDS[name].help.split(".")[0] in " ".join(done.stdout.split())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_parameter_says_what_it_is(name: str) -> None:
    command, context = next((c, x) for full, c, x in reference.commands() if full == f"seaway {name}")
    assert [parameter.name for parameter in command.get_params(context) if not parameter.help] == []


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"serve"}))
def test_every_command_that_asks_reaches_its_server_or_says_that_there_is_none(seaway: Seaway, name: str) -> None:
    done = seaway(*name.split(), *ASKED[name], "--json", url="http://127.0.0.1:1")

    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == (
        "Error: No Seaway server answers at http://127.0.0.1:1; start one with `seaway serve`, or set SEAWAY_URL.\n"
    )


def test_something_that_is_no_http_server_is_none_that_was_reached(seaway: Seaway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        hangs_up = threading.Thread(target=lambda: listening.accept()[0].close())
        hangs_up.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        done = seaway("status", url=url)

        hangs_up.join(10)
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith(f"Error: The connection to {url} broke before there was an answer: ")
    assert done.stderr.endswith("; is it a Seaway server?\n")
    assert ".." not in done.stderr


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (["--api-key", "wrong"], "The API key was not accepted; check SEAWAY_API_KEY, or --api-key if it was given."),
        ([], "This server asks for an API key; set SEAWAY_API_KEY, or give --api-key."),
    ],
    ids=["wrong", "none"],
)
@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"serve"}))
def test_a_wrong_key_and_none_are_one_sentence_each_for_every_command(
    server: ScriptedServer, seaway: Seaway, name: str, key: list[str], told: str
) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        of_model = (f"models/churn{end}" for end in ("", "/versions", "/aliases"))
        for path in ("status", "logs", "models", "datasets", *of_model):
            server.answers(f"{method} /api/{path}", {"error": "Send the API key."}, status=401)
        for path in (
            "datasets/customers/versions", "experiments", "deployments/churn", "deployments/churn/rollback"
        ):  # fmt: skip
            server.answers(f"{method} /api/{path}", {"error": "Send the API key."}, status=401)
    server.answers("POST /predict/churn", {"error": "Send the API key."}, status=401)

    done = seaway(*name.split(), *ASKED[name], *key)

    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"Error: {told}\n")
    assert server.asked[0].headers.get("authorization") == ("Bearer wrong" if key else None)


# Every place on a command line for the name of a model, a dataset or an alias.
NAMED = [
    "deploy {}", "undeploy {}", "rollback {}", "predict {} [1]", "logs {}", f"register {{}} {__file__}", "models {}",
    "alias {}", "alias churn {}", "datasets show {}", f"datasets add {{}} {__file__}",
    "experiments create --dataset {} --model m --architecture a",
    "experiments create --dataset d --model {} --architecture a",
]  # fmt: skip


@pytest.mark.parametrize("line", NAMED)
@pytest.mark.parametrize("name", ["bad/name", "a?b", "a#b", "a%2Fb", "..", "ä"])
def test_what_cannot_be_a_name_is_wrong_usage_and_asks_nothing(
    server: ScriptedServer, seaway: Seaway, line: str, name: str
) -> None:
    done = seaway(*(part.format(name) for part in line.split()))

    assert done.exit_code == 2
    assert f"{name!r} is no name: 1 to 128 characters out of letters, digits" in " ".join(done.stderr.split())
    assert not server.asked


@pytest.mark.parametrize("url", ["notaurl", "ftp://here", "http://", "http://here:x"])
def test_an_address_that_is_none_is_wrong_usage(seaway: Seaway, url: str) -> None:
    done = seaway("--url", url, "status")

    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {url!r} is no address of a server")
    assert done.stderr.count("\n") == 1


def test_common_options_may_stand_before_the_command(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("GET /api/models", {"items": [], "next_cursor": None})

    done = seaway("--json", "--url", server.url, "--api-key", "k", "models", url="http://127.0.0.1:1")

    assert json.loads(done.stdout) == []
    assert server.asked[0].headers["authorization"] == "Bearer k"


def test_a_mistyped_command_is_guessed(seaway: Seaway) -> None:
    done = seaway("deploi", "churn")

    assert done.exit_code == 2
    assert "Did you mean" in done.stderr
    assert "'deploy'" in done.stderr


@pytest.mark.parametrize("line", ["", "deploy", "datasets add"])
def test_help_may_be_asked_for_in_a_word(seaway: Seaway, line: str) -> None:
    told = seaway("help", *line.split())

    assert told.exit_code == 0
    assert told.stdout == seaway(*line.split(), "--help").stdout


@pytest.mark.parametrize(("group", "named"), [("datasets", "[NAME | "), ("experiments", "[ID | ")])
def test_a_group_that_takes_a_name_says_so(seaway: Seaway, group: str, named: str) -> None:
    assert f"Usage: seaway {group} [OPTIONS] {named}" in seaway(group, "--help").stdout


def test_a_wrong_flag_of_serve_is_told_in_words(seaway: Seaway) -> None:
    done = seaway("serve", "--engines", "x")

    assert done.exit_code == 2
    assert "Invalid value for '--engines': must be a whole number, not 'x'." in done.stderr


def test_an_unknown_option_is_wrong_usage(seaway: Seaway) -> None:
    assert seaway("status", "--verbos").exit_code == 2


def test_the_version_is_printed(seaway: Seaway) -> None:
    assert seaway("--version").stdout == f"seaway {__version__}\n"


def test_every_setting_is_a_flag_of_serve() -> None:
    assert {settings.flag(name) for name in Settings.model_fields} <= OPTIONS["serve"]


def test_a_wrong_setting_is_one_sentence(seaway: Seaway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    done = seaway("serve", "--port", "99999")

    assert done.exit_code == 2
    assert done.stderr.startswith("Error: The setting 'port' is wrong: ")


def test_a_server_that_anyone_could_use_does_not_start(
    seaway: Seaway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    done = seaway("serve", "--host", "0.0.0.0", "--port", "0")

    assert done.exit_code == 1
    assert "without an API key" in done.stderr


def test_the_example_settings_are_the_defaults(seaway: Seaway) -> None:
    written = (ROOT / "configs" / "seaway.example.toml").read_text()

    assert seaway("serve", "--print-config").stdout == written, (
        "run: seaway serve --print-config > configs/seaway.example.toml"
    )
    loaded = tomllib.loads(written)
    defaults = Settings.model_construct().model_dump(mode="json")
    assert loaded == {name: value for name, value in defaults.items() if value is not None}
    for name in Settings.model_fields:
        assert f"\n{name} = " in written or f"\n# {name} = " in written


def test_the_reference_is_what_the_commands_say() -> None:
    written = (ROOT / "docs" / "reference" / "cli.md").read_text()

    assert written == reference.page(), "run: python -m seaway.cli.reference > docs/reference/cli.md"


def test_help_waits_for_no_library_it_does_not_need() -> None:
    program = "import sys; from seaway.cli.app import app; app(['--help'], standalone_mode=False); print(*sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)

    heavy = {"pydantic", "fastapi", "sqlalchemy", "numpy", "onnxruntime", "httpx", "uvicorn", "structlog", "asyncio"}
    assert heavy & set(loaded.stdout.split()) == set()
