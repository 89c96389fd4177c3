"""examples/flights: the data are whole, the packages answer as scikit-learn did, and training gives the same again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import yaml
from examples.flights import train

HERE = Path(train.__file__).parent
SMALL = {"max_iter": 8, "max_leaf_nodes": 7, "early_stopping": False, "random_state": 0}
ROWS = 4000

packages = pytest.mark.parametrize("package", [HERE / "package", HERE / "package_v2"], ids=lambda path: path.name)


@pytest.fixture(scope="module")
def flights() -> train.Flights:
    return train.read()


@pytest.fixture(scope="module")
def small(flights: train.Flights) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A few flights as the model's input, and whether they were late."""
    columns = flights.part(np.arange(ROWS))
    late = flights.late[:ROWS]
    categories = {name: train.order_categories(columns[name], late) for name in train.CATEGORIES}
    return train.encode(columns, categories), late


def run(graph: bytes | Path, inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"features": inputs})[0]


def encoded(package: Path, sample: dict[str, Any]) -> np.ndarray[Any, Any]:
    """A named flight as seaway.yaml says it goes into the graph."""
    row = []
    for feature in yaml.safe_load((package / "seaway.yaml").read_text())["input"]["features"]:
        value = sample.get(feature["name"], np.nan)
        if feature["type"] == "category":
            known = feature["categories"]
            value = known.index(value if value in known else feature["unknown"])
        row.append(value)
    return np.array([row], np.float32)


def test_every_third_flight_of_2013_is_in_the_data() -> None:
    table = pq.read_table(train.DATA)
    assert table.num_rows == 112_259
    assert {*train.CATEGORIES, *train.NUMBERS, "date", "arrival_delay_minutes"} <= set(table.column_names)


def test_the_hold_out_is_later_than_everything_learned_from(flights: train.Flights) -> None:
    first = int(flights.held_out.argmax())
    assert flights.held_out[first:].all()
    assert flights.held_out.sum() == 27_539


@packages
def test_plain_onnxruntime_gives_the_known_answers(package: Path) -> None:
    answers = json.loads((package / "known_answers.json").read_text())
    for answer in [answer for answer in answers if isinstance(answer["inputs"], dict)]:
        probabilities = run(package / "model.onnx", encoded(package, answer["inputs"]))[0]
        scores = dict(zip(train.LABELS, probabilities.tolist(), strict=True))
        assert scores == pytest.approx(answer["outputs"]["scores"], abs=answer["tolerance"])
        assert answer["outputs"]["label"] == max(scores, key=scores.__getitem__)


@packages
def test_a_known_answer_covers_missing_weather_and_an_unknown_destination(package: Path) -> None:
    features = yaml.safe_load((package / "seaway.yaml").read_text())["input"]["features"]
    known = next(feature["categories"] for feature in features if feature["name"] == "dest")
    samples = [answer["inputs"] for answer in json.loads((package / "known_answers.json").read_text())[:-1]]
    assert any("gust_mph" not in sample for sample in samples)
    assert any(sample["dest"] not in known for sample in samples)


def test_the_two_versions_answer_one_flight_differently() -> None:
    sample = json.loads((HERE / "one_flight.json").read_text())["inputs"]
    first, second = (
        run(HERE / name / "model.onnx", encoded(HERE / name, sample)) for name in ("package", "package_v2")
    )
    assert abs(first - second).max() > 1e-3


def test_training_gives_the_same_bytes_again(small: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> None:
    first, second = (train.export(train.train({"hyper_parameters": SMALL}, *small)) for _ in range(2))
    assert first == second


def test_the_graph_answers_as_scikit_learn_does(small: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> None:
    inputs, late = small
    assert np.isnan(inputs).any()
    model = train.train({"hyper_parameters": SMALL}, inputs, late)
    assert run(train.export(model), inputs) == pytest.approx(model.predict_proba(inputs), abs=1e-6)


@packages
def test_the_metrics_on_record_beat_both_baselines(package: Path) -> None:
    metrics = json.loads((HERE / "metrics.json").read_text())
    for baseline in metrics["baseline"].values():
        assert metrics[package.name]["auc"] > baseline["auc"]
        assert metrics[package.name]["log_loss"] < baseline["log_loss"]
