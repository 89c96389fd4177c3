"""`seaway predict`: ask a served model, from the terminal."""

from __future__ import annotations

import json
import mimetypes
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seaway.cli import table, values
from seaway.cli.command import Call, asks_server
from seaway.cli.models import tensors
from seaway.cli.values import checked_name
from seaway.errors import InvalidRequest, SeawayError

if TYPE_CHECKING:
    from seaway.client import Prediction

_SHOWN_NUMBERS = 8
_SHAPE = re.compile(r"\b(shapes?|list|lengths|nested)\b")
"""In what the server says of an input of another shape than the model takes."""
_NAMED = re.compile(r" takes \[|\bfeatures\b")
"""In what it says where it names the right size, or the features that go into the graph's tensors, itself."""


@asks_server
def predict(
    call: Call,
    model: Annotated[str, typer.Argument(metavar="MODEL", callback=checked_name, help="Name of a served model.")],
    inputs: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT|@FILE|-",
            help="A sample or a list of samples as JSON; a file with that, or a picture; - is standard input.",
        ),
    ] = None,
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="A plain string as the input, without JSON.")] = None,
    version: Annotated[str | None, typer.Option(metavar="VERSION", help="Ask this version, if it is served.")] = None,
) -> None:
    """Ask a model. Prints its outputs; how long it took goes to standard error."""
    if (inputs is None) == (text is None):
        raise typer.BadParameter("Give one input: JSON, @file, - for standard input, or --text.")
    kind = mimetypes.guess_type(inputs)[0] if inputs is not None and inputs.startswith("@") else None
    if inputs is not None and kind is not None and kind.startswith("image/"):
        prediction = call.client.predict_image(model, values.read_file(inputs[1:]), kind, version=version)
    else:
        value = text if inputs is None else values.read_json(inputs, "The input", otherwise="A plain string is --text.")
        if isinstance(value, dict) and value.keys() == {"inputs"}:
            value = value["inputs"]  # a whole body of /predict, as curl sends it
        prediction = _ask(call, model, value, version)
    call.show(prediction.answer, lambda _: _print(prediction))


def _ask(call: Call, model: str, value: Any, version: str | None) -> Prediction:
    """The prediction. Raises what the server refused, with the inputs that the model takes if it was about a shape."""
    try:
        return call.client.predict(model, value, version=version)
    except InvalidRequest as error:
        told = str(error)
        taken = _inputs(call, model, version) if _SHAPE.search(told) and not _NAMED.search(told) else ""
        if not taken:
            raise
        raise InvalidRequest(f"{error} {model} takes {taken}; * is any size.") from error


def _inputs(call: Call, model: str, version: str | None) -> str:
    try:
        return tensors(call.client.get_metadata(model, version)["inputs"])
    except (SeawayError, KeyError, TypeError):
        return ""  # the refusal matters, not that its explanation can't be had


def _print(prediction: Prediction) -> None:
    outputs = prediction.outputs
    if isinstance(outputs, list) and outputs and all(_is_labelled(output) for output in outputs):
        _print_labelled(outputs)
    elif _is_labelled(outputs):
        _print_labelled([outputs])
    else:
        table.say(_short(outputs))
    answer = prediction.answer
    times = ", ".join(f"{name} {duration:.3g} ms" for name, duration in prediction.milliseconds.items())
    table.note(f"{answer['model']} version {answer['version']}, prediction {answer['prediction_id']}, {times}")
    if prediction.truncated:
        table.note(f"Too long for the model, which saw only the beginning: {prediction.truncated} (input.max_tokens)")


def _is_labelled(output: Any) -> bool:
    return isinstance(output, dict) and output.keys() >= {"label", "score"}


def _print_labelled(outputs: list[dict[str, Any]]) -> None:
    """A line for each sample: its label, the score, and the runners-up."""
    rows = []
    for output in outputs:
        scores = sorted((output.get("scores") or {}).items(), key=lambda item: -(item[1] or 0.0))
        others = [f"{label} {_number(score)}" for label, score in scores if label != output["label"]]
        rows.append([output["label"], _number(output["score"]), ", ".join(others[:_SHOWN_NUMBERS]) or None])
    table.print_table(["label", "score", "others"], rows, empty="")


def _number(value: Any) -> str:
    return "null" if value is None else f"{value:.4g}"


def _short(value: Any) -> str:
    """Outputs for people: long lists cut, numbers to six digits; --json has everything.

    >>> _short({"embedding": [0.123456789] * 384})
    '{"embedding": [0.123457, 0.123457, 0.123457, ... 384 values]}'
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_short(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        if len(value) > _SHOWN_NUMBERS and not isinstance(value[0], list | dict):
            return f"[{', '.join(_short(item) for item in value[:3])}, ... {len(value)} values]"
        return "[" + ", ".join(_short(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False)
