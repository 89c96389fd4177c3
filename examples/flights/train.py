"""Train the two versions of `flights` and write their packages: will this flight arrive 15 minutes late or later?

`python examples/flights/train.py` reads `data/flights_2013.parquet` (CC0), fits January to September, tells how good
the model is on October to December, and writes `package/` and `package_v2/`. Needs scikit-learn, onnx and pyarrow.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet as pq
import yaml
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

HERE = Path(__file__).parent
DATA = HERE / "data" / "flights_2013.parquet"
PACKAGES = {"experiment.json": HERE / "package", "experiment_v2.json": HERE / "package_v2"}
"""What is trained, and where the result goes."""

CATEGORIES = ("carrier", "origin", "dest")
NUMBERS = (
    "day_of_week",
    "scheduled_hour",
    "distance_miles",
    "temperature_f",
    "humidity_percent",
    "wind_mph",
    "gust_mph",
    "rain_inches",
    "pressure_mbar",
    "visibility_miles",
)
ALWAYS_KNOWN = 3
"""The first three numbers are in the schedule; the others come from a weather report, which can be missing."""
LABELS = ("on_time", "late")
LATE_MINUTES = 15
HOLD_OUT_FROM = date(2013, 10, 1)
OTHER = "other"
TOLERANCE = 1e-5
RARE = 100
"""A category with fewer flights to learn from is `other`."""

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]


@dataclass(frozen=True)
class Flights:
    """Flights that arrived, in order of their departure."""

    columns: Columns
    late: Array
    held_out: Array

    def part(self, rows: Array) -> Columns:
        return {name: values[rows] for name, values in self.columns.items()}


def read(path: Path = DATA) -> Flights:
    table = pq.read_table(path)
    table = table.filter(table["arrival_delay_minutes"].is_valid())
    columns = {name: table[name].to_numpy() for name in (*CATEGORIES, *NUMBERS)}
    held_out = table["date"].to_numpy() >= np.datetime64(HOLD_OUT_FROM)
    return Flights(columns, table["arrival_delay_minutes"].to_numpy() >= LATE_MINUTES, held_out)


def order_categories(values: Array, late: Array) -> list[str]:
    """The categories from the most punctual to the least, so that one threshold of a tree parts good from bad."""
    names, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    rates = np.bincount(codes, weights=late) / counts
    common = [str(names[code]) for code in np.argsort(rates, kind="stable") if counts[code] >= RARE]
    return common if len(common) == len(names) else [OTHER, *common]


def encode(columns: Columns, categories: dict[str, list[str]]) -> Array:
    """The model's input as Seaway makes it from named features: positions of categories, numbers, NaN where missing."""
    encoded = []
    for name, known in categories.items():
        code = {value: float(position) for position, value in enumerate(known)}
        encoded.append([code[value if value in code else OTHER] for value in columns[name]])
    encoded += [columns[name] for name in NUMBERS]
    return np.column_stack(encoded).astype(np.float32)


def train(experiment: dict[str, Any], inputs: Array, late: Array) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(**experiment["hyper_parameters"]).fit(inputs, late)


def export(model: HistGradientBoostingClassifier) -> bytes:
    """The model as a graph with one input `features` and one output `probabilities`."""
    node = onnx.helper.make_node(
        "TreeEnsembleClassifier",
        ["features"],
        ["label", "probabilities"],
        domain="ai.onnx.ml",
        base_values=[float(model._baseline_prediction.item())],  # noqa: SLF001 - scikit-learn has no public way to its trees
        classlabels_int64s=[0, 1],
        post_transform="LOGISTIC",
        **tree_attributes([predictors[0].nodes for predictors in model._predictors]),  # noqa: SLF001
    )
    width = len(CATEGORIES) + len(NUMBERS)
    graph = onnx.helper.make_graph(
        [node],
        "flights",
        [onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["batch", width])],
        # Not the label: Seaway takes it from the probabilities, with the labels' names.
        [onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["batch", len(LABELS)])],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    graph_model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(graph_model)
    return graph_model.SerializeToString(deterministic=True)


def tree_attributes(trees: list[Array]) -> dict[str, list[Any]]:
    """scikit-learn's trees as ONNX writes them: one flat list for each attribute of a node."""
    nodes = np.concatenate(trees)
    tree_ids = np.repeat(np.arange(len(trees)), [len(tree) for tree in trees])
    node_ids = np.concatenate([np.arange(len(tree)) for tree in trees])
    leaf = nodes["is_leaf"].astype(bool)
    # The input has four bytes a number: rounding a threshold down to that leaves every comparison as it was.
    threshold = nodes["num_threshold"].astype(np.float32)
    threshold = np.where(threshold > nodes["num_threshold"], np.nextafter(threshold, np.float32(-np.inf)), threshold)
    return {
        "nodes_treeids": tree_ids.tolist(),
        "nodes_nodeids": node_ids.tolist(),
        "nodes_featureids": np.where(leaf, 0, nodes["feature_idx"]).tolist(),
        "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        "nodes_values": np.where(leaf, 0, threshold).tolist(),
        "nodes_truenodeids": np.where(leaf, 0, nodes["left"].astype(int)).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, nodes["right"].astype(int)).tolist(),
        "nodes_missing_value_tracks_true": nodes["missing_go_to_left"].astype(int).tolist(),
        "class_treeids": tree_ids[leaf].tolist(),
        "class_nodeids": node_ids[leaf].tolist(),
        "class_ids": [0] * int(leaf.sum()),
        "class_weights": nodes["value"][leaf].tolist(),
    }


def measure(probability: Array, late: Array) -> dict[str, float]:
    """How good probabilities are: ranking (AUC), and how far they are from what happened."""
    # Equal probabilities in no order, lest a constant be judged by how the rate moved over the months.
    order = np.lexsort((np.random.default_rng(0).random(late.shape), probability))
    tenth = np.array_split(order, 10)
    gaps = [abs(probability[rows].mean() - late[rows].mean()) for rows in tenth]
    return {
        "auc": round(float(roc_auc_score(late, probability)), 4),
        "log_loss": round(float(log_loss(late, probability)), 4),
        "brier": round(float(brier_score_loss(late, probability)), 4),
        "mean_predicted": round(float(probability.mean()), 4),
        "rate_observed": round(float(late.mean()), 4),
        "calibration_error": round(float(np.mean(gaps)), 4),
    }


def baselines(flights: Flights) -> dict[str, dict[str, float]]:
    """What is known without a model: the late rate of the months before, over all or of the scheduled hour."""
    fit, test = ~flights.held_out, flights.held_out
    hours = flights.columns["scheduled_hour"].astype(int)
    count = np.bincount(hours[fit], minlength=24)
    rate = flights.late[fit].mean()
    by_hour = (np.bincount(hours[fit], weights=flights.late[fit], minlength=24) + 20 * rate) / (count + 20)
    late = flights.late[test]
    return {
        "constant": measure(np.full(late.shape, rate), late),
        "rate_of_the_hour": measure(by_hour[hours[test]], late),
    }


def package_yaml(experiment: dict[str, Any], categories: dict[str, list[str]]) -> str:
    features: list[dict[str, Any]] = [
        {"name": name, "type": "category", "categories": known, "unknown": OTHER if OTHER in known else "error"}
        for name, known in categories.items()
    ]
    for position, name in enumerate(NUMBERS):
        features.append({"name": name, "type": "number", "missing": "error" if position < ALWAYS_KNOWN else "nan"})
    content = {
        "description": f"Will a flight arrive {LATE_MINUTES} minutes late or later? {experiment['architecture']}.",
        "runtime": "onnx",
        "model": "model.onnx",
        "input": {"type": "tabular", "features": features},
        "output": {"tensor": "probabilities", "labels": list(LABELS)},
        "known_answers": "known_answers.json",
    }
    return yaml.safe_dump(content, sort_keys=False, width=110, default_flow_style=None)


def named(columns: Columns, row: int) -> dict[str, Any]:
    """A flight as a client writes it: what is missing is left out."""
    sample: dict[str, Any] = {name: str(columns[name][row]) for name in CATEGORIES}
    for name in NUMBERS:
        value = columns[name][row]
        if not np.isnan(value):
            # The shortest text that reads back as the same number: 62.96, not 62.959999084472656.
            sample[name] = value.item() if value.dtype.kind == "i" else float(str(value))
    return sample


def answer(probabilities: Array) -> dict[str, Any]:
    scores = dict(zip(LABELS, map(float, probabilities), strict=True))
    label = max(LABELS, key=scores.__getitem__)
    return {"label": label, "score": scores[label], "scores": scores}


def known_answers(columns: Columns, probabilities: Array, rows: list[int]) -> list[dict[str, Any]]:
    """Flights that Seaway replays before it lets the version take traffic: one by one, and as one list."""
    samples, answers = [named(columns, row) for row in rows], [answer(probabilities[row]) for row in rows]
    single = [
        {"inputs": sample, "outputs": expected, "tolerance": TOLERANCE}
        for sample, expected in zip(samples, answers, strict=True)
    ]
    return [*single, {"inputs": samples, "outputs": answers, "tolerance": TOLERANCE}]


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def fit_and_package(experiment: dict[str, Any], flights: Flights, package: Path) -> dict[str, float]:
    """Train one version on the months before the hold-out, write its package, and measure it on the hold-out."""
    fit, test = ~flights.held_out, flights.held_out
    categories = {name: order_categories(flights.columns[name][fit], flights.late[fit]) for name in CATEGORIES}
    inputs = encode(flights.columns, categories)
    model = train(experiment, inputs[fit], flights.late[fit])
    expected = model.predict_proba(inputs[test])
    graph = export(model)
    difference = compare(graph, inputs[test], expected)

    package.mkdir(parents=True, exist_ok=True)
    (package / "model.onnx").write_bytes(graph)
    (package / "seaway.yaml").write_text(package_yaml(experiment, categories))
    held_out = flights.part(test)
    rare = int(np.flatnonzero(~np.isin(held_out["dest"], categories["dest"]))[0])
    rows = [0, int(expected[:, 1].argmax()), int(expected[:, 1].argmin()), rare]
    write_json(package / "known_answers.json", known_answers(held_out, expected, rows))
    return measure(expected[:, 1], flights.late[test]) | {"graph_against_sklearn": float(f"{difference:.1e}")}


def compare(graph: bytes, inputs: Array, expected: Array) -> float:
    """The largest difference between ONNX Runtime's probabilities and scikit-learn's."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    difference = float(np.abs(session.run(None, {"features": inputs})[0] - expected).max())
    if difference > TOLERANCE:
        raise SystemExit(f"The exported graph differs from scikit-learn by {difference}.")
    return difference


def one_flight(flights: Flights) -> dict[str, Any]:
    """A request: a rainy evening at LaGuardia."""
    columns = flights.part(flights.held_out)
    evening = (columns["origin"] == "LGA") & (columns["scheduled_hour"] > 17) & (columns["rain_inches"] > 0.1)
    return {"inputs": named(columns, int(np.flatnonzero(evening)[0]))}


def main() -> None:
    flights = read()
    metrics: dict[str, Any] = {
        "flights_fitted": int((~flights.held_out).sum()),
        "flights_held_out": int(flights.held_out.sum()),
        "baseline": baselines(flights),
    }
    for file, package in PACKAGES.items():
        metrics[package.name] = fit_and_package(json.loads((HERE / file).read_text()), flights, package)
    write_json(HERE / "one_flight.json", one_flight(flights))
    write_json(HERE / "metrics.json", metrics)
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
