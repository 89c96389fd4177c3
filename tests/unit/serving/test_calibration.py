"""What a version costs, and where it therefore runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from seaway.serving import calibration
from seaway.serving.calibration import choose, inline_spec, machine, measure, most_engines
from seaway.serving.predictor import Predictor
from seaway.types import Calibration, Choice, JointRuns, Rewriting, ServingSettings
from support import torches
from support.tiny import endless_model, scale_model, write_package

TINY = Calibration(10_000, 5_000, 5_000, 0.1, 60_000_000, (), True, "here")
SMALL = replace(TINY, run_ns=500_000)
SLOW = replace(TINY, run_ns=2_000_000)
LOOP = replace(TINY, subgraph_operators=("Loop",))
TEXT = replace(SLOW, numeric_inputs=False)

JOINT = JointRuns(rows=4, numbers=1280, alone_ns=500_000, together_ns=300_000)

Asked = ServingSettings


@pytest.mark.parametrize(
    ("measured", "asked", "cores", "expected"),
    [
        # nothing is asked for: (placement, processes, engines over all of them)
        (TINY, Asked(), 4, ("inline", 1, 1)),
        (TINY, Asked(placement="auto"), 4, ("inline", 1, 1)),
        (replace(TINY, run_ns=184_999), Asked(), 4, ("inline", 1, 1)),
        (replace(TINY, run_ns=185_000), Asked(), 4, ("worker", 4, 4)),
        (replace(TINY, prepare_ns=200_000), Asked(), 4, ("worker", 4, 4)),
        (replace(TINY, encode_ns=200_000), Asked(), 4, ("worker", 4, 4)),
        (SMALL, Asked(), 4, ("worker", 4, 4)),
        (SMALL, Asked(), 1, ("worker", 1, 1)),
        (replace(TINY, run_ns=1_999_999), Asked(), 4, ("worker", 4, 4)),
        (SLOW, Asked(), 4, ("worker", 1, 4)),
        (LOOP, Asked(), 4, ("worker", 4, 4)),
        (replace(TINY, numeric_inputs=False), Asked(), 4, ("worker", 4, 4)),
        (replace(TINY, fixed_size=False), Asked(), 4, ("worker", 4, 4)),
        (replace(TINY, value_sized_operators=("Range",)), Asked(), 4, ("worker", 4, 4)),
        (replace(TINY, fixed_size=False, model_bytes=90_000_000), Asked(), 4, ("worker", 1, 4)),
        (TEXT, Asked(), 4, ("worker", 1, 4)),
        (replace(TEXT, shares_weights=True, run_ns=9_999_999), Asked(), 4, ("worker", 4, 4)),
        (replace(TEXT, shares_weights=True, run_ns=10_000_000), Asked(), 4, ("worker", 1, 4)),
        (replace(SMALL, shares_weights=True, fixed_size=False, model_bytes=90_000_000), Asked(), 4, ("worker", 4, 4)),
        # what is asked for wins
        (TINY, Asked(placement="worker"), 4, ("worker", 4, 4)),
        (TINY, Asked(placement="inline"), 4, ("inline", 1, 1)),
        (TINY, Asked(engines=3), 4, ("inline", 1, 3)),
        (TINY, Asked(processes=2), 4, ("inline", 2, 2)),
        (TINY, Asked(engines=4, processes=2), 4, ("inline", 2, 4)),
        (SMALL, Asked(engines=2), 4, ("worker", 2, 2)),
        (SMALL, Asked(processes=1), 4, ("worker", 1, 4)),
        (SMALL, Asked(engines=6, processes=2), 4, ("worker", 2, 6)),
        (SLOW, Asked(engines=8), 4, ("worker", 1, 8)),
        (SLOW, Asked(processes=2), 4, ("worker", 2, 4)),
        (SLOW, Asked(processes=8), 4, ("worker", 8, 8)),
        # processes with as many engines each, and at least one
        (SLOW, Asked(engines=5, processes=2), 4, ("worker", 2, 4)),
        (SLOW, Asked(engines=2, processes=4), 4, ("worker", 2, 2)),
    ],
)
def test_a_version_is_placed_by_what_it_costs_unless_something_is_asked_for(
    measured: Calibration, asked: ServingSettings, cores: int, expected: tuple[str, int, int]
) -> None:
    choice = choose(measured, cores=cores, asked=asked)
    assert (choice.placement, choice.processes, choice.engines) == expected
    assert choice.engines // choice.processes <= most_engines(cores, asked)
    assert (choice.refusal, choice.why[-1]) == ("", ".")


@pytest.mark.parametrize(
    ("measured", "reason"), [(LOOP, "has Loop"), (TEXT, "not numbers"), (SLOW, "takes 2 ms"), (SMALL, "515 µs")]
)
def test_inline_that_cannot_be_is_refused_with_the_reason_and_falls_back_to_workers(
    measured: Calibration, reason: str
) -> None:
    choice = choose(measured, cores=2, asked=ServingSettings(placement="inline"))
    assert choice.placement == "worker"
    assert "placement inline was asked for and can't be" in choice.refusal
    assert reason in choice.refusal


@pytest.mark.parametrize(
    ("measured", "asked", "words"),
    [
        (TINY, Asked(), ["20 µs of CPU time", "200 µs", "gateways", "1 process with 1 engine stands by"]),
        (TINY, Asked(placement="worker"), ["asked to run in workers"]),
        (LOOP, Asked(), ["Loop", "depends on the input"]),
        (SLOW, Asked(), ["a run takes 2 ms", "1 process with 2 engines"]),
        (SMALL, Asked(), ["500 µs", "2 processes with 1 engine each"]),
        (SMALL, Asked(engines=1), ["as asked"]),
    ],
)
def test_a_choice_says_why(measured: Calibration, asked: ServingSettings, words: list[str]) -> None:
    why = choose(measured, cores=2, asked=asked).why
    assert [word for word in words if word not in why] == []


@pytest.mark.parametrize(
    ("prepare_ns", "run_ns", "rows"),
    [(0, 0, 64), (0, 3_125, 64), (0, 5_000, 40), (10_000, 5_000, 13), (190_000, 0, 1), (0, 10**9, 1)],
)
def test_a_gateway_may_take_as_many_rows_as_its_budget_allows(prepare_ns: int, run_ns: int, rows: int) -> None:
    measured = replace(TINY, prepare_ns=prepare_ns, run_ns=run_ns, encode_ns=0)
    spec = inline_spec(measured, Choice("inline", 1, 1, ""), Path("/package"), Path("/weights"))
    assert spec is not None
    assert (spec.alone, spec.weights, spec.max_numbers) == (False, None, None)
    assert (spec.max_rows, spec.max_body_bytes, spec.budget_ns, spec.package) == (rows, 16_384, 200_000, "/package")


SHARING = replace(SMALL, shares_weights=True, model_bytes=90_000_000)


@pytest.mark.parametrize(
    ("measured", "asked", "assisted"),
    [
        (SMALL, Asked(), True),
        (SHARING, Asked(), True),
        (replace(SHARING, run_ns=980_000), Asked(), True),
        (replace(SHARING, run_ns=1_000_000), Asked(), False),
        (replace(SMALL, model_bytes=4 << 20), Asked(), False),
        (replace(SMALL, fixed_size=False, numbers=48), Asked(), True),
        (replace(SMALL, fixed_size=False, numbers=0), Asked(), False),
        (replace(SMALL, subgraph_operators=("Loop",)), Asked(), False),
        (replace(SMALL, value_sized_operators=("Range",)), Asked(), False),
        (replace(SMALL, numeric_inputs=False), Asked(), False),
        (replace(SMALL, obstacle="Its runtime is torch"), Asked(), False),
        (replace(SMALL, joint=JOINT), Asked(), False),
        (replace(SMALL, joint=JOINT), Asked(joint_runs="never"), True),
        (replace(SMALL, joint=replace(JOINT, together_ns=450_000)), Asked(), True),
        (replace(SMALL, joint=JointRuns(why="it is no faster so")), Asked(), True),
        (SMALL, Asked(placement="worker"), False),
        (SMALL, Asked(engines=2), False),
        (SMALL, Asked(processes=2), False),
        (TINY, Asked(), False),
    ],
)
def test_gateways_lend_workers_a_hand_where_what_a_request_costs_shows_before_it_runs(
    measured: Calibration, asked: ServingSettings, assisted: bool
) -> None:
    choice = choose(measured, cores=2, asked=asked, gateways=2)
    assert choice.assisted is assisted
    assert ("gateways run it, too" in choice.why) is assisted
    spec = inline_spec(measured, choice, Path("/package"), Path("/weights"))
    assert (spec is not None and spec.alone) is assisted


@pytest.mark.parametrize(
    ("gateways", "cores", "assisted"), [(0, 2, False), (1, 2, False), (2, 2, True), (4, 16, False)]
)
def test_gateways_that_are_fewer_than_the_cores_leave_them_to_the_engines(
    gateways: int, cores: int, assisted: bool
) -> None:
    assert choose(SMALL, cores=cores, asked=Asked(), gateways=gateways).assisted is assisted


def test_what_gateways_need_to_lend_a_hand_is_in_the_table() -> None:
    choice = choose(replace(SHARING, fixed_size=False, numbers=48), cores=2, asked=Asked(), gateways=2)
    spec = inline_spec(replace(SHARING, fixed_size=False, numbers=48), choice, Path("/package"), Path("/weights"))
    assert spec is not None
    assert (spec.max_rows, spec.max_numbers, spec.weights, spec.budget_ns) == (1, 48, "/weights", 1_000_000)


@pytest.mark.parametrize(
    ("joint", "asked", "said"),
    [
        (JOINT, Asked(), "Up to 4 samples of one shape that wait share a run, in which each costs 40% less CPU time "
         "(as many as have 1,280 numbers together)."),
        (JOINT, Asked(joint_runs="never"), "Each request runs alone, as asked for."),
        (JointRuns(why="it is no faster so"), Asked(), "Each request runs alone: it is no faster so."),
        (None, Asked(), "has a process of its own."),
    ],
    ids=["joint", "never", "none", "nobody looked"],
)  # fmt: skip
def test_people_are_told_whether_requests_share_runs(
    joint: JointRuns | None, asked: ServingSettings, said: str
) -> None:
    assert choose(replace(SMALL, joint=joint), cores=2, asked=asked).why.endswith(said)


@pytest.mark.parametrize("measured", [TINY, SMALL, SLOW])
def test_gateways_and_people_are_told_of_a_graph_that_was_rewritten(measured: Calibration) -> None:
    found = Rewriting(used=True, what="2 of them", exported_ns=20_000, rewritten_ns=15_000, max_difference=0.0, why="")
    rewritten = replace(measured, rewriting=found)
    choice = choose(rewritten, cores=2, asked=Asked(), gateways=2)
    assert "Its graph was rewritten (2 of them): runs take 25% less." in choice.why
    doubtful = replace(measured, rewriting=replace(found, doubt="it rounds"))
    assert "25% less, and answers may differ: it rounds." in choose(doubtful, cores=2, asked=Asked(), gateways=2).why
    spec = inline_spec(rewritten, choice, Path("/package"), Path("/weights"))
    assert spec is None or spec.rewritten
    left = replace(measured, rewriting=replace(found, used=False, why="it rounds"))
    choice = choose(left, cores=2, asked=Asked(), gateways=2)
    assert "runs would take 25% less, but it rounds; it runs as exported" in choice.why
    spec = inline_spec(left, choice, Path("/package"), Path("/weights"))
    assert spec is None or not spec.rewritten
    no_faster = replace(left, rewriting=replace(found, used=False, rewritten_ns=20_000, why="it is no faster so"))
    assert "graph" not in choose(no_faster, cores=2, asked=Asked(), gateways=2).why


def opened(package: Path) -> Predictor:
    predictor = Predictor.open(package, model="m", version=1, max_body_bytes=1 << 20)
    predictor.warm_up()
    return predictor


def test_measuring_gives_times_memory_operators_and_the_kind_of_input(tmp_path: Path) -> None:
    package = write_package(tmp_path, scale_model(2.0))
    found = measure(opened(package), package, load_seconds=0.25, machine="here")
    assert min(found.prepare_ns, found.run_ns, found.encode_ns) > 0
    assert found.request_ns < 5_000_000
    assert found.memory_bytes > 1_000_000
    assert (found.subgraph_operators, found.numeric_inputs, found.numbers) == ((), True, 3)
    assert (found.load_seconds, found.machine) == (0.25, "here")


def test_a_loop_is_found_and_runs_once_for_the_sample(tmp_path: Path) -> None:
    package = write_package(tmp_path, endless_model())
    assert measure(opened(package), package, load_seconds=0, machine="").subgraph_operators == ("Loop",)


def test_known_answers_are_the_sample_where_there_are_some(tmp_path: Path) -> None:
    package = write_package(tmp_path, scale_model(2.0), "known_answers: answers.json")
    (package / "answers.json").write_text('[{"inputs": [[7, 8, 9], [1, 2, 3]], "outputs": [[14, 16, 18], [2, 4, 6]]}]')
    assert opened(package).sample() == [7, 8, 9]


@pytest.mark.parametrize(
    ("run_seconds", "least", "most"), [(0.00001, 100, 500), (0.005, 20, 22), (1.0, 3, 3), (9.0, 1, 1)]
)
def test_measuring_takes_a_tenth_of_a_second_or_three_runs(
    run_seconds: float, least: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_package(tmp_path, scale_model(2.0))
    predictor = opened(package)
    clock = [0.0]
    runs = []

    def run(_predictor: Predictor, _payload: object) -> tuple[int, int, int]:
        clock[0] += run_seconds
        runs.append(1)
        return 1, len(runs), 3

    monkeypatch.setattr(calibration, "step_times", run)
    monkeypatch.setattr(calibration.time, "monotonic", lambda: clock[0])
    found = measure(predictor, package, load_seconds=0, machine="")
    assert least <= len(runs) <= most
    assert (found.prepare_ns, found.run_ns, found.encode_ns) == (1, len(runs) // 2 + 1, 3)


def test_the_machine_is_named_with_what_its_figures_depend_on() -> None:
    named = machine(7)
    assert "7 cores" in named
    assert "onnxruntime " in named
    assert len(named) <= 300


def test_a_runtime_that_gateways_do_not_load_keeps_its_versions_in_workers() -> None:
    obstacle = "It runs on torch, which gateways don't load"
    choice = choose(replace(TINY, obstacle=obstacle), cores=4, asked=Asked())

    assert (choice.placement, choice.why.startswith(obstacle)) == ("worker", True)
    assert obstacle in choose(replace(TINY, obstacle=obstacle), cores=4, asked=Asked(placement="inline")).refusal


def test_a_model_of_torch_is_measured(tmp_path: Path) -> None:
    torches.write_layers(tmp_path)
    predictor = Predictor.open(tmp_path, model="m", version=1, max_body_bytes=1 << 20)

    measured = measure(predictor, tmp_path, load_seconds=1.0, machine="here")

    assert measured.run_ns > 0
    assert "torch" in measured.obstacle
    assert "torch" in machine(2)
