"""deploy, rollback, undeploy, status, logs."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from support.scripted import ScriptedServer
from support.shapes import live, revision

Seaway = Callable[..., Result]


def test_deploy_returns_when_the_version_answers(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("PUT /api/deployments/churn", revision("pending"))
    server.answers("GET /api/deployments/churn", revision("ready"))

    done = seaway(
        "deploy", "churn", "2", "--engines", "1", "--timeout-seconds", "0.5", "--placement", "worker",
        "--joint-runs", "never", "--reason", "better",
    )  # fmt: skip

    assert done.exit_code == 0, done.output
    assert done.stdout == f"churn version 2 is ready: {server.url}/predict/churn\n"
    assert server.asked[0].json == {
        "version": 2, "engines": 1, "timeout_seconds": 0.5, "placement": "worker", "joint_runs": "never",
        "reason": "better",
    }  # fmt: skip


@pytest.mark.parametrize(("typed", "asked"), [([], None), (["champion"], "champion"), (["3"], 3)])
def test_a_version_is_a_number_an_alias_or_the_newest(
    server: ScriptedServer, seaway: Seaway, typed: list[str], asked: object
) -> None:
    server.answers("PUT /api/deployments/churn", revision("ready"))

    assert seaway("deploy", "churn", *typed).exit_code == 0
    assert server.asked[0].json["version"] == asked


def test_a_deploy_that_fails_says_why_and_what_keeps_serving(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("PUT /api/deployments/churn", revision("failed", reason="Known answer 3 differs by 0.2."))
    server.answers("GET /api/status", live(version=1))

    done = seaway("deploy", "churn", "2")

    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr == ("Error: churn version 2 failed: Known answer 3 differs by 0.2. Version 1 keeps serving.\n")


def test_a_first_deploy_that_fails_says_that_nothing_serves(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("PUT /api/deployments/churn", revision("failed", reason="Out of memory."))
    server.answers("GET /api/status", live(version=None, state="UNAVAILABLE"))

    assert seaway("deploy", "churn").stderr.endswith("Out of memory. Nothing serves churn now.\n")


def test_a_deploy_that_takes_too_long_fails(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("PUT /api/deployments/churn", revision("pending"))
    server.answers("GET /api/deployments/churn", revision("pending"))
    server.answers("GET /api/status", live(version=1))

    done = seaway("deploy", "churn", "--wait", "0.01")

    assert done.exit_code == 1
    assert "is not ready after 0.01 s. Version 1 keeps serving." in done.stderr


def test_deploy_need_not_wait(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("PUT /api/deployments/churn", revision("pending"))

    done = seaway("deploy", "churn", "--wait", "0")

    assert done.exit_code == 0
    assert "is on its way" in done.stdout
    assert len(server.asked) == 1


def test_a_failed_deploy_is_json_too(server: ScriptedServer, seaway: Seaway) -> None:
    failed = revision("failed", reason="No.")
    server.answers("PUT /api/deployments/churn", failed)
    server.answers("GET /api/status", live())

    done = seaway("deploy", "churn", "--json")

    assert done.exit_code == 1
    assert json.loads(done.stdout) == failed


def test_rollback_waits_like_deploy(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("POST /api/deployments/churn/rollback", revision("pending", version=1))
    server.answers("GET /api/deployments/churn", revision("ready", version=1))

    done = seaway("rollback", "churn", "--reason", "worse")

    assert done.stdout.startswith("churn version 1 is ready")
    assert server.asked[0].json == {"reason": "worse"}


def test_rollback_without_a_past_says_what_the_server_says(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("POST /api/deployments/churn/rollback", {"error": "Nothing was ready before."}, status=409)

    done = seaway("rollback", "churn")

    assert (done.exit_code, done.stderr) == (1, "Error: Nothing was ready before.\n")


def test_undeploy_says_that_it_is_done(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("DELETE /api/deployments/churn", revision("undeployed"))

    assert seaway("undeploy", "churn").stdout == "churn is no longer served.\n"


def test_status_is_a_table_of_models_and_their_workers(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("GET /api/status", live())

    done = seaway("status")

    heading, _, row = [line.rstrip() for line in done.stdout.splitlines()]
    assert heading.split() == [
        "model", "state", "version", "placement", "engines", "worker", "pids", "answered", "memory", "reason"
    ]  # fmt: skip
    assert row.split() == ["churn", "READY", "1", "worker", "2", "4242", "17", "60.0", "MB", "-"]
    assert done.stderr == "churn: A run takes 5 ms.\n1 gateway (pid 77)\n"


def test_status_says_what_a_batch_may_have_now(server: ScriptedServer, seaway: Seaway) -> None:
    status = live()
    limits = {"max_rows": 16, "max_tokens": 4096, "max_queue_delay_seconds": 0.005}
    status["models"]["churn"]["workers"][0]["batches"] = limits
    server.answers("GET /api/status", status)

    told = seaway("status").stderr.splitlines()[1]

    assert told == ("churn: Batches of up to 16 samples and 4,096 tokens with padding, waiting up to 5 ms for company.")


def test_status_says_how_batches_are_made_and_what_they_were_like(server: ScriptedServer, seaway: Seaway) -> None:
    status = live()
    worker = status["models"]["churn"]["workers"][0]
    worker["batches"] = {
        "max_rows": 16, "max_tokens": None, "max_queue_delay_seconds": 0.0, "length_bucketing": False,
        "preferred_rows": [4, 16], "latency_target_seconds": 0.2, "target_missed": True,
    }  # fmt: skip
    worker["batched"] = {"batches": 1200, "rows": 8520, "padding": 0.034}
    server.answers("GET /api/status", status)

    told = seaway("status").stderr.splitlines()[1]

    assert told == (
        "churn: Batches of up to 16 samples, lengths mixed, preferably 4 or 16, kept below half of 200 ms. "
        "Not even a single sample is fast enough for that. "
        "So far 1,200, of 7.1 samples on average; 3% was padding."
    )


def test_status_says_what_runs_were_like_that_requests_may_share(server: ScriptedServer, seaway: Seaway) -> None:
    status = live()
    workers = status["models"]["churn"]["workers"]
    workers[0]["batched"] = {"batches": 1000, "rows": 1500, "padding": 0.0}
    workers.append(workers[0] | {"batched": {"batches": 500, "rows": 1500, "padding": 0.0}})
    server.answers("GET /api/status", status)

    assert (
        "churn: So far its workers made 1,500 runs, of 2.0 samples on average." in seaway("status").stderr.splitlines()
    )


def test_a_long_reason_stands_below_the_table(server: ScriptedServer, seaway: Seaway) -> None:
    status = live()
    status["models"]["churn"]["reason"] = "its known answers differ " * 10
    server.answers("GET /api/status", status)

    done = seaway("status")

    assert max(len(line) for line in done.stdout.splitlines()) < 130
    assert "churn: its known answers differ its" in done.stderr


def test_one_sample_is_no_plural(server: ScriptedServer, seaway: Seaway) -> None:
    status = live()
    limits = {"max_rows": 1, "max_tokens": 1, "max_queue_delay_seconds": 0}
    status["models"]["churn"]["workers"][0]["batches"] = limits
    server.answers("GET /api/status", status)

    assert "Batches of up to 1 sample and 1 token with padding." in seaway("status").stderr


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--device", "gpu"], "'--device': must be auto, cpu, cuda or cuda:N, not 'gpu'."),
        (["--lane", "bath"], "'--lane': 'bath' is not one of 'auto', 'cpu', 'batch'."),
        (["--dtype", "fp8"], "'--dtype': 'fp8' is not one of "),
        (["--engines", "x"], "'--engines': must be a whole number, not 'x'."),
        (["--engines", "0"], "'--engines': must be at least 1, not '0'."),
        (["--engines", "1025"], "'--engines': must be at most 1024, not '1025'."),
        (["--processes", "257"], "'--processes': must be at most 256"),
        (["--max-queue-size", "1000001"], "'--max-queue-size': must be at most 1000000, not '1000001'."),
        (["--max-batch-rows", "65537"], "'--max-batch-rows': must be at most 65536"),
        (["--max-batch-tokens", "100000001"], "'--max-batch-tokens': must be at most 100000000"),
        (["--max-queue-delay-seconds", "-1"], "'--max-queue-delay-seconds': must be at least 0, not '-1'."),
        (["--max-queue-delay-seconds", "100"], "'--max-queue-delay-seconds': must be at most 60, not '100'."),
        (["--latency-target-seconds", "0"], "'--latency-target-seconds': must be more than 0, not 0."),
        (["--latency-target-seconds", "x"], "'--latency-target-seconds': must be a number, not 'x'."),
        (["--timeout-seconds", "-3"], "'--timeout-seconds': must be more than 0, not -3."),
    ],
)
def test_a_value_that_cannot_be_is_wrong_usage_and_told_in_words(
    server: ScriptedServer, seaway: Seaway, typed: list[str], told: str
) -> None:
    done = seaway("deploy", "churn", *typed)

    assert done.exit_code == 2
    assert f"Invalid value for {told}" in " ".join(done.stderr.split())
    assert not server.asked


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_a_device_is_passed_on(server: ScriptedServer, seaway: Seaway, device: str) -> None:
    server.answers("PUT /api/deployments/churn", revision("ready"))

    assert seaway("deploy", "churn", "--device", device).exit_code == 0
    assert server.asked[0].json["device"] == device


def test_an_empty_server_says_what_to_do_next(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("GET /api/status", live() | {"models": {}})

    assert "register one with `seaway register MODEL PATH`" in seaway("status").stdout


def test_what_a_terminal_would_obey_is_written_out(server: ScriptedServer, seaway: Seaway) -> None:
    status = live()
    status["models"]["churn"]["reason"] = "\x1b]0;owned\x07"
    server.answers("GET /api/status", status)

    done = seaway("status")

    assert "\x1b" not in done.stdout
    assert "\\x1b]0;owned\\x07" in done.stdout


def test_an_answer_of_another_version_is_an_error_and_no_traceback(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("GET /api/status", {"version": "9.0", "served": []})

    done = seaway("status")

    assert done.exit_code == 1
    assert "is not as this version of Seaway" in done.stderr
    assert json.loads(seaway("status", "--json").stdout) == {"version": "9.0", "served": []}


def test_logs_are_the_lines_as_they_are(server: ScriptedServer, seaway: Seaway) -> None:
    lines = ['{"event": "[bold]a[/bold]"}', '{"event": "' + "b" * 300 + '"}']
    server.answers("GET /api/logs", {"lines": lines})

    assert seaway("logs", "churn", "--lines", "2").stdout.splitlines() == lines
    assert server.asked[0].query == {"model": "churn", "lines": "2"}


def test_logs_in_a_pipe_stay_as_they_were_written(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("GET /api/logs", {"lines": ['{"took": "4 \\u00b5s"}']})

    assert seaway("logs").stdout == '{"took": "4 \\u00b5s"}\n'


def test_logs_are_objects_for_programs_and_a_cut_line_is_text(server: ScriptedServer, seaway: Seaway) -> None:
    server.answers("GET /api/logs", {"lines": ['l": 1}', '{"event": "a"}']})

    assert json.loads(seaway("--json", "logs").stdout) == ['l": 1}', {"event": "a"}]


@pytest.mark.parametrize(
    ("model", "said"), [(["nobody"], "No line of the log is about nobody."), ([], "Nothing was logged yet.")]
)
def test_a_log_without_such_lines_says_so_to_people_only(
    server: ScriptedServer, seaway: Seaway, model: list[str], said: str
) -> None:
    server.answers("GET /api/logs", {"lines": []})
    told = seaway("logs", *model)
    assert (told.stdout, told.stderr.strip()) == ("", said)
