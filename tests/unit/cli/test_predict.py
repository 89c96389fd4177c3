"""predict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from support.scripted import ScriptedServer

Seaway = Callable[..., Result]


def answer(outputs: Any) -> dict[str, Any]:
    return {"model": "churn", "version": 2, "prediction_id": "01ABC", "outputs": outputs}


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.json"
    path.write_text('{"age": 41}')
    return path


def test_outputs_go_to_stdout_and_durations_to_stderr(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("POST /predict/churn", answer([0.5, 0.25]), headers={"Server-Timing": "queue;dur=0.1, run;dur=2"})

    done = seaway("predict", "churn", "[[1, 2], [3, 4]]")

    assert done.exit_code == 0, done.output
    assert done.stdout == "[0.5, 0.25]\n"
    assert done.stderr.startswith("churn version 2, prediction 01ABC, queue 0.1 ms, run 2 ms, total ")
    assert server.asked[0].json == {"inputs": [[1, 2], [3, 4]]}


def test_a_text_that_the_model_saw_only_the_beginning_of_is_no_secret(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("POST /predict/churn", answer(0.5), headers={"Seaway-Truncated": "1"})

    done = seaway("predict", "churn", "--text", "a book")

    assert "saw only the beginning: 1" in done.stderr


def test_the_input_may_be_in_a_file_or_on_stdin(server: ScriptedServer, seaway: Seaway, sample: Path) -> None:
    server.answers("POST /predict/churn", answer(1.0))

    assert seaway("predict", "churn", f"@{sample}").exit_code == 0
    assert seaway("predict", "churn", "-", stdin='{"age": 41}').exit_code == 0
    assert [asked.json for asked in server.asked] == [{"inputs": {"age": 41}}] * 2


def test_a_plain_string_needs_no_quotes(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("POST /predict/churn", answer(1.0))

    seaway("predict", "churn", "--text", 'they said: "no"', "--version", "3")

    assert server.asked[0].json == {"inputs": 'they said: "no"'}
    assert server.asked[0].query == {"version": "3"}


def test_a_picture_is_sent_as_it_is(server: ScriptedServer, seaway: Seaway, tmp_path: Path) -> None:
    (tmp_path / "digit.png").write_bytes(b"\x89PNG")
    server.answers("POST /predict/churn", answer(1.0))

    seaway("predict", "churn", f"@{tmp_path / 'digit.png'}")

    assert (server.asked[0].body, server.asked[0].headers["content-type"]) == (b"\x89PNG", "image/png")


def test_labels_are_a_table_with_the_runners_up(server: ScriptedServer, seaway: Seaway) -> None:
    labelled = {"label": "late", "score": 0.801, "scores": {"on time": 0.199, "late": 0.801}}
    server.answers("POST /predict/churn", answer(labelled))

    assert seaway("predict", "churn", "{}").stdout.splitlines()[-1].split() == ["late", "0.801", "on", "time", "0.199"]


def test_long_outputs_are_cut_for_people_and_whole_for_programs(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("POST /predict/churn", answer([0.123456789] * 384))

    assert seaway("predict", "churn", "{}").stdout == "[0.123457, 0.123457, 0.123457, ... 384 values]\n"
    assert json.loads(seaway("predict", "churn", "{}", "--json").stdout) == answer([0.123456789] * 384)


def test_an_output_that_is_no_number_is_null(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("POST /predict/churn", answer([None, 1.0]))

    assert seaway("predict", "churn", "[1]").stdout == "[null, 1]\n"


@pytest.mark.parametrize("typed", [[], ["{}", "--text", "a"], ["{"], ["@no-such-file"]])
def test_an_input_that_is_none_is_wrong_usage(server: ScriptedServer, seaway: Seaway, typed: list[str]) -> None:
    assert seaway("predict", "churn", *typed).exit_code == 2
    assert not server.asked


def test_a_file_name_without_its_at_sign_is_understood(seaway: Seaway, sample: Path) -> None:
    assert f"write @{sample}" in " ".join(seaway("predict", "churn", str(sample)).stderr.split())


def test_an_input_that_is_no_json_is_told_of_text(seaway: Seaway) -> None:
    assert "A plain string is --text." in " ".join(seaway("predict", "churn", "hello").stderr.replace("│", "").split())


def test_a_picture_that_is_not_there_is_named(server: ScriptedServer, seaway: Seaway) -> None:
    done = seaway("predict", "churn", "@no-such.png")

    assert done.exit_code == 2
    assert "no-such.png can't be read: No such file or directory." in done.stderr
    assert not server.asked


REFUSED = "inputs has rows of different lengths; a tensor needs equal ones."


@pytest.mark.parametrize(
    ("typed", "path"), [([], "/v2/models/churn"), (["--version", "2"], "/v2/models/churn/versions/2")]
)
def test_an_input_of_another_shape_is_told_what_the_version_takes(
    server: ScriptedServer, seaway: Seaway, typed: list[str], path: str
) -> None:
    server.answers("POST /predict/churn", {"error": REFUSED}, status=400)
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "words", "datatype": "BYTES", "shape": [-1]},
    ]
    server.answers(f"GET {path}", {"name": "churn", "versions": ["2"], "inputs": inputs, "outputs": []})

    done = seaway("predict", "churn", "[1, 2]", *typed)

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"Error: {REFUSED} churn takes x FP32[*,3], words BYTES[*]; * is any size.\n"


def test_a_shape_that_the_server_has_named_is_not_named_again(server: ScriptedServer, seaway: Seaway) -> None:
    refused = "inputs has shape [2]; 'x' takes [3]."
    server.answers("POST /predict/churn", {"error": refused}, status=400)

    assert seaway("predict", "churn", "[1, 2]").stderr == f"Error: {refused}\n"
    assert len(server.asked) == 1


def test_a_model_of_named_features_is_not_explained_by_the_tensor_they_go_into(
    server: ScriptedServer, seaway: Seaway
) -> None:
    refused = "inputs must be an object of features or a list of them, not 'hi'; the features are: 'age', 'plan'."
    server.answers("POST /predict/churn", {"error": refused}, status=400)
    server.answers("GET /v2/models/churn", {"inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 2]}]})

    assert seaway("predict", "churn", "--text", "hi").stderr == f"Error: {refused}\n"


def test_a_refusal_stays_what_it_is_when_nobody_says_what_the_version_takes(
    server: ScriptedServer, seaway: Seaway
) -> None:
    server.answers("POST /predict/churn", {"error": REFUSED}, status=400)

    assert seaway("predict", "churn", "[1, 2]").stderr == f"Error: {REFUSED}\n"


def test_a_refusal_about_something_else_says_nothing_of_shapes(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("POST /predict/churn", {"error": "inputs: the feature 'age' is missing."}, status=400)

    assert seaway("predict", "churn", "{}").stderr == "Error: inputs: the feature 'age' is missing.\n"
    assert len(server.asked) == 1
