"""Put the flights model into a running Seaway, with its data and its experiment, and ask it about one flight.

`make run` runs this once the server listens; by hand, `python examples/quickstart.py` against SEAWAY_URL (else
http://127.0.0.1:8080). Running it again changes nothing: the same bytes are the same versions, and what is deployed
stays.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from seaway.client import Client, Prediction, wait_until_settled
from seaway.config import client_address
from seaway.errors import NotFound, SeawayError, ServerNotReached, Unavailable

FLIGHTS = Path(__file__).parent / "flights"
START_SECONDS = 60.0
"""How long the server and the model may take to get ready."""
REACH_SECONDS = 3.0
"""How long nobody may listen at the server's address."""

T = TypeVar("T")


def main() -> int:
    url, api_key = client_address()
    try:
        with Client(url, api_key) as client:
            put_flights(client)
            prediction = once_ready(lambda: client.predict("flights", one_flight()))
    except SeawayError as error:
        print(f"The quickstart failed: {error}", file=sys.stderr)
        return 1
    show(prediction)
    show_next(url, prediction)
    return 0


def put_flights(client: Client) -> None:
    """The dataset, the experiment on it, the model version that came of it, and its deployment."""
    dataset = once_ready(lambda: client.add_dataset_version("flights-2013", FLIGHTS / "data")).version
    megabytes = f"{dataset['n_bytes'] / 1e6:.1f} MB, kept by content"
    size = f"{dataset['n_rows']} flights" if dataset["n_rows"] else megabytes
    print(f"dataset     flights-2013 version {dataset['version']}: {size}")

    specification = {**read("experiment.json"), **code_commit()}
    wanted = {"dataset": "flights-2013", "dataset_version": dataset["version"], "model": "flights", **specification}
    experiment = client.create_experiment(wanted)["experiment_id"]
    print(f"experiment  {experiment}: {specification['architecture']}")

    metrics = read("metrics.json")["package"]
    uploaded = client.register("flights", FLIGHTS / "package", experiment_id=experiment, metrics=metrics)
    version = uploaded.version["version"]
    print(
        f"model       flights version {version}: AUC {metrics['auc']}, log loss {metrics['log_loss']} on later flights"
    )

    if is_deployed(client):
        print("deployment  flights is deployed already; left as it is")
        return
    revision = client.deploy("flights", version, reason="quickstart")
    settled = wait_until_settled(client, revision, timeout_seconds=START_SECONDS)
    if settled["state"] != "ready":
        raise Unavailable(f"flights didn't get ready: {settled['state']}. {settled['state_reason']}")
    print(f"deployment  flights version {version} answers at /predict/flights")


def is_deployed(client: Client) -> bool:
    try:
        return bool(client.get_deployment("flights")["arms"])
    except NotFound:
        return False


def once_ready(ask: Callable[[], T]) -> T:
    """What `ask` gives, asked again while the server or the model is still starting; the first wait is told."""
    began = time.monotonic()
    told = False
    while True:
        try:
            return ask()
        except Unavailable as error:
            patience = REACH_SECONDS if isinstance(error, ServerNotReached) else START_SECONDS
            if time.monotonic() - began > patience:
                raise
            if not told:
                print(f"Trying again for {patience:g} s: {error}", file=sys.stderr, flush=True)
                told = True
            time.sleep(0.2)


def show(prediction: Prediction) -> None:
    flight, outputs = one_flight(), prediction.outputs
    hour, minutes = divmod(round(flight["scheduled_hour"] * 60), 60)
    what = f"{flight['carrier']} from {flight['origin']} to {flight['dest']} at {hour}:{minutes:02}, in the rain"
    times = ", ".join(f"{name} {taken:.2f} ms" for name, taken in prediction.milliseconds.items())
    print()
    print(f"Will {what}, be late?")
    for label, score in outputs["scores"].items():
        print(f"  {label.replace('_', ' '):8} {score:6.1%}  {'#' * round(score * 40)}")
    print(f"  version {prediction.answer['version']}, prediction {prediction.answer['prediction_id']} ({times})")


def show_next(url: str, prediction: Prediction) -> None:
    print(f"""
Try next, from a second terminal in this directory (`source .venv/bin/activate` finds the command `seaway`):

  curl {url}/predict/flights --data @examples/flights/one_flight.json
  curl {url}/v2/models/flights
  curl {url}/api/predictions/{prediction.answer["prediction_id"]}

  export SEAWAY_URL={url}
  seaway status
  seaway register flights examples/flights/package_v2
  seaway deploy flights 2
  seaway rollback flights

Every endpoint: {url}/docs   Metrics: {url}/metrics   More models: examples/""")


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FLIGHTS / name).read_text())
    return content


def one_flight() -> dict[str, Any]:
    inputs: dict[str, Any] = read("one_flight.json")["inputs"]
    return inputs


def code_commit() -> dict[str, str]:
    """The commit that last changed the training script, where git knows it."""
    git = shutil.which("git")
    if git is None:
        return {}
    command = [git, "-C", str(FLIGHTS), "log", "-1", "--format=%H", "--", "train.py"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {"code_commit": found} if found else {}


if __name__ == "__main__":
    sys.exit(main())
