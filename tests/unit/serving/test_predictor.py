"""The predictor: bytes in, bytes out, against real graphs."""

from __future__ import annotations

import base64
import gzip
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.support import graphs, tiny
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from seaway.errors import (
    Cancelled,
    InferenceFailed,
    InvalidPackage,
    InvalidRequest,
    PayloadTooLarge,
    UnsupportedEncoding,
    WarmUpFailed,
)
from seaway.runtimes.base import RunHandle
from seaway.serving.infer import MAX_REMEMBERED
from seaway.serving.predictor import Payload, Predictor, Reply


def open_package(directory: Path, model: bytes, spec: str = "", **files: str) -> Predictor:
    for name, content in files.items():
        (directory / name.replace("__", ".")).write_text(content)
    tiny.write_package(directory, model, spec)
    return Predictor.open(directory, model="m", version=3, max_body_bytes=1 << 20)


def answer(predictor: Predictor, payload: Payload) -> Reply:
    prepared = predictor.prepare(payload)
    (outputs,) = predictor.run([prepared])
    return predictor.encode(prepared, outputs, "id-1")


def predict(predictor: Predictor, inputs: Any) -> Any:
    """`outputs` of the answer, as a client of /predict reads them."""
    reply = answer(predictor, Payload("predict", json.dumps({"inputs": inputs}).encode()))
    return json.loads(b"".join(reply.chunks))["outputs"]


def infer(predictor: Predictor, body: Any, **payload: Any) -> Any:
    return json.loads(b"".join(answer(predictor, Payload("infer", json.dumps(body).encode(), **payload)).chunks))


def tensor(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


@pytest.fixture
def doubled(tmp_path: Path) -> Predictor:
    """y = 2 x over any number of rows of three numbers."""
    return open_package(tmp_path, tiny.scale_model(2.0))


# --------------------------------------------------------------------------- /predict


def test_an_answer_says_which_version_gave_it(doubled: Predictor) -> None:
    reply = answer(doubled, Payload("predict", b'{"inputs": [1, 2, 3]}'))

    assert json.loads(reply.chunks[0]) == {
        "model": "m", "version": 3, "prediction_id": "id-1", "outputs": [2.0, 4.0, 6.0],
    }  # fmt: skip
    assert (reply.header_length, reply.content_type, reply.content_encoding) == (None, "application/json", "")
    assert reply.n_bytes == len(reply.chunks[0])
    assert reply.rows == 1


def test_outputs_have_the_shape_of_the_inputs(doubled: Predictor) -> None:
    assert predict(doubled, [1, 2, 3]) == [2, 4, 6]
    assert predict(doubled, [[1, 2, 3]]) == [[2, 4, 6]]
    assert predict(doubled, [[1, 2, 3], [4, 5, 6]]) == [[2, 4, 6], [8, 10, 12]]


def test_several_inputs_and_outputs_are_objects_by_name(tmp_path: Path) -> None:
    pair = open_package(tmp_path, graphs.two_inputs())

    assert predict(pair, {"a": [5, 6], "b": [1, 2]}) == {"sum": [6, 8], "difference": [4, 4]}
    assert predict(pair, [{"a": [5, 6], "b": [1, 2]}, {"a": [0, 0], "b": [0, 1]}]) == [
        {"sum": [6, 8], "difference": [4, 4]},
        {"sum": [0, 1], "difference": [0, -1]},
    ]


def test_one_of_several_outputs_may_be_chosen(tmp_path: Path) -> None:
    assert predict(
        open_package(tmp_path, graphs.two_inputs(), "output: {tensor: sum}"), {"a": [5, 6], "b": [1, 2]}
    ) == [6, 8]


def test_a_graph_of_fixed_shape_takes_whole_tensors_one_by_one(tmp_path: Path) -> None:
    fixed = open_package(tmp_path, graphs.identity(shape=(2, 2)))

    assert predict(fixed, [[1, 2], [3, 4]]) == [[1, 2], [3, 4]]
    assert predict(fixed, [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]) == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]


def test_strings_go_in_and_out(tmp_path: Path) -> None:
    words = open_package(tmp_path, graphs.identity(graphs.STRING, ("n", 2)))

    assert words.signature.inputs[0].datatype == "BYTES"
    assert predict(words, ["a", "é\n"]) == ["a", "é\n"]
    assert predict(words, [["a", "b"], ["c", ""]]) == [["a", "b"], ["c", ""]]


def test_tabular_features_go_to_their_columns(tmp_path: Path) -> None:
    spec = """
    input:
      type: tabular
      features:
        - {name: years, tensor: age}
        - {name: home, type: category, categories: [Bern, Oslo], unknown: Bern, tensor: city}
    """
    people = open_package(tmp_path, graphs.columns(), spec)

    assert predict(people, {"years": 3, "home": "Oslo"}) == {"years": [3], "place": ["Oslo"]}
    assert predict(people, [{"years": 3, "home": "Rome"}]) == [{"years": [3], "place": ["Bern"]}]


def test_a_tabular_graph_of_one_row_answers_each_row(tmp_path: Path) -> None:
    spec = "input: {type: tabular, features: [{name: a}, {name: b}]}"
    single = open_package(tmp_path, graphs.linear(np.array([[1], [10]]), batch=1), spec)

    assert predict(single, {"a": 1, "b": 2}) == [21]
    assert predict(single, [[1, 2], [3, 4]]) == [[21], [43]]


def test_labels_give_the_best_and_all_scores(tmp_path: Path) -> None:
    scores = open_package(tmp_path, graphs.identity(), "output: {softmax: true, labels: [red, green, blue]}")

    one = predict(scores, [0, 1, 0])

    assert one["label"] == "green"
    assert one["score"] == pytest.approx(0.576, abs=1e-3) == one["scores"]["green"]
    assert sum(one["scores"].values()) == pytest.approx(1)
    assert [each["label"] for each in predict(scores, [[1, 0, 0], [0, 0, 1e4]])] == ["red", "blue"]


def test_numbers_that_are_not_finite_leave_as_null(tmp_path: Path) -> None:
    logarithm = graphs.model(
        [("Log", ["x"], ["y"], {})], [("x", graphs.FLOAT, ["n", 3])], [("y", graphs.FLOAT, ["n", 3])]
    )

    assert predict(open_package(tmp_path, logarithm), [1, 0, -1]) == [0, None, None]


@pytest.fixture
def tokenizer() -> str:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "cat": 1, "sat": 2, "[PAD]": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return str(tokenizer.to_str())


def test_padding_does_not_change_a_pooled_text(tmp_path: Path, tokenizer: str) -> None:
    vectors = np.array([[0, 0], [3, 4], [5, 0], [100, 100]])
    embed = open_package(
        tmp_path,
        graphs.embedding(vectors, with_mask=False),
        "{input: {type: text}, output: {pooling: mean, normalize: true}}",
        tokenizer__json=tokenizer,
    )

    alone = predict(embed, "cat")
    first, second = predict(embed, ["cat", "sat sat sat"])

    assert alone == pytest.approx([0.6, 0.8])
    assert first == alone
    assert second == pytest.approx([1, 0])


def test_cls_pooling_takes_the_first_token(tmp_path: Path, tokenizer: str) -> None:
    vectors = np.array([[0, 0], [3, 4], [5, 0], [100, 100]])
    spec = "{input: {type: text}, output: {pooling: cls}}"
    embed = open_package(tmp_path, graphs.embedding(vectors, with_mask=False), spec, tokenizer__json=tokenizer)

    assert predict(embed, ["cat sat", "sat"]) == [[3, 4], [5, 0]]


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def camera(tmp_path: Path) -> Predictor:
    """Gives the mean of each channel."""
    model = graphs.model(
        [("ReduceMean", ["x", "axes"], ["y"], {"keepdims": 0})],
        [("x", graphs.FLOAT, ["n", 3, 4, 4])],
        [("y", graphs.FLOAT, ["n", 3])],
        {"axes": np.array([2, 3], np.int64)},
    )
    return open_package(tmp_path, model, "input: {type: image}")


def test_an_image_is_base64_or_the_body_or_a_file_of_a_form(camera: Predictor) -> None:
    form = b'--B\r\nContent-Disposition: form-data; name="f"; filename="x.png"\r\n\r\n' + picture() + b"\r\n--B--\r\n"

    as_body = answer(camera, Payload("predict", picture(), content_type="image/png"))
    as_form = answer(camera, Payload("predict", memoryview(form), content_type="multipart/form-data; boundary=B"))

    assert predict(camera, base64.b64encode(picture()).decode()) == [1, 0, 0]
    assert json.loads(as_body.chunks[0])["outputs"] == [1, 0, 0]
    assert json.loads(as_form.chunks[0])["outputs"] == [1, 0, 0]


@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data; boundary=x", "application/x-python-pickle"])
def test_other_models_take_no_files(doubled: Predictor, kind: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="JSON"):
        doubled.prepare(Payload("predict", b"x", content_type=kind))


@pytest.mark.parametrize("kind", ["", "application/x-www-form-urlencoded", "text/plain"])
def test_json_is_read_whatever_the_content_type(doubled: Predictor, kind: str) -> None:
    assert doubled.prepare(Payload("predict", b'{"inputs": [1, 2, 3]}', content_type=kind)).rows == 1


def test_compressed_bodies_are_unpacked_up_to_the_limit(doubled: Predictor) -> None:
    body = gzip.compress(b'{"inputs": [1, 2, 3]}')
    bomb = gzip.compress(b" " * (2 << 20))

    assert doubled.prepare(Payload("predict", body, content_encoding="gzip")).rows == 1
    with pytest.raises(PayloadTooLarge):
        doubled.prepare(Payload("predict", bomb, content_encoding="gzip"))


def test_a_batch_over_the_limit_is_refused_naming_it(tmp_path: Path) -> None:
    small = open_package(tmp_path, tiny.scale_model(1.0), "serving: {max_batch_size: 2}")

    assert small.prepare(Payload("predict", b'{"inputs": [[1,2,3],[1,2,3]]}')).rows == 2
    with pytest.raises(InvalidRequest, match=r"max_batch_size"):
        small.prepare(Payload("predict", b'{"inputs": [[1,2,3],[1,2,3],[1,2,3]]}'))


# --------------------------------------------------------------------------- /v2


def test_the_protocol_gets_the_graphs_own_tensors(tmp_path: Path) -> None:
    scores = open_package(tmp_path, graphs.identity(), "output: {softmax: true, labels: [red, green, blue]}")

    reply = infer(scores, {"id": "7", "inputs": [tensor("x", "FP32", [1, 3], [0, 1, 0])]})

    assert reply["outputs"] == [tensor("y", "FP32", [1, 3], [0, 1, 0])]
    assert (reply["id"], reply["model_name"], reply["model_version"]) == ("7", "m", "3")


def test_classification_uses_the_labels(tmp_path: Path) -> None:
    scores = open_package(tmp_path, graphs.identity(), "output: {labels: [red, green, blue]}")

    reply = infer(scores, {
        "inputs": [tensor("x", "FP32", [1, 3], [0, 1, 0.5])],
        "outputs": [{"name": "y", "parameters": {"classification": 2}}],
    })  # fmt: skip

    assert [entry.rpartition(":")[2] for entry in np.ravel(reply["outputs"][0]["data"])] == ["green", "blue"]


def test_binary_tensors_at_odd_offsets_are_read(doubled: Predictor) -> None:
    head = json.dumps({
        "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}],
        "parameters": {"binary_data_output": True},
    }).encode()  # fmt: skip
    for spaces in range(4):
        body = head + b" " * spaces + np.array([1, 2, 3], "<f4").tobytes()
        reply = answer(doubled, Payload("infer", memoryview(body), header_length=len(head) + spaces))
        assert reply.content_type == "application/octet-stream"
        assert b"".join(reply.chunks)[reply.header_length :] == np.array([2, 4, 6], "<f4").tobytes()


def test_the_raw_form_is_one_sample(doubled: Predictor) -> None:
    reply = answer(doubled, Payload("infer", np.array([1, 2, 3], "<f4").tobytes(), header_length=0))

    assert b"".join(reply.chunks)[reply.header_length :] == np.array([2, 4, 6], "<f4").tobytes()


def test_only_the_outputs_asked_for_are_computed(tmp_path: Path) -> None:
    pair = open_package(tmp_path, graphs.two_inputs())
    inputs = [tensor("a", "FP32", [1, 2], [5, 6]), tensor("b", "FP32", [1, 2], [1, 2])]

    reply = infer(pair, {"inputs": inputs, "outputs": [{"name": "difference"}]})

    assert [output["name"] for output in reply["outputs"]] == ["difference"]


def test_strings_are_bytes_in_the_protocol(tmp_path: Path) -> None:
    words = open_package(tmp_path, graphs.identity(graphs.STRING, ("n", 2)))

    reply = infer(words, {"inputs": [tensor("x", "BYTES", [1, 2], ["a", "é"])]})

    assert reply["outputs"] == [tensor("y", "BYTES", [1, 2], ["a", "é"])]


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    words = open_package(tmp_path, graphs.identity(graphs.STRING, ("n",)))
    head = b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}}]}'

    with pytest.raises(InvalidRequest, match="UTF-8"):
        words.prepare(Payload("infer", head + b"\x01\0\0\0\xff", header_length=len(head)))


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([tensor("z", "FP32", [1, 3], [1, 2, 3])], "no input 'z'; it has: 'x'"),
        ([tensor("x", "FP64", [1, 3], [1, 2, 3])], "'FP64'; the model takes FP32"),
        ([tensor("x", "FP32", [3], [1, 2, 3])], r"shape \[3\]; 'x' takes \[-1, 3\]"),
        ([tensor("x", "FP32", [1, 4], [1, 2, 3, 4])], r"shape \[1, 4\]"),
        ([tensor("x", "FP32", [0, 3], [])], "at least one"),
        ([tensor("x", "FP32", [2**62, 4], [1])], "x|shape"),
        ([tensor("x", "FP32", [1, 3], [1, 2, 3]), tensor("y", "FP32", [1, 3], [1, 2, 3])], "no input 'y'"),
    ],
)
def test_tensors_that_do_not_fit_the_signature_are_refused(doubled: Predictor, inputs: list[Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        doubled.prepare(Payload("infer", json.dumps({"inputs": inputs}).encode()))


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    pair = open_package(tmp_path, graphs.two_inputs())

    with pytest.raises(InvalidRequest, match="'b' is missing"):
        infer(pair, {"inputs": [tensor("a", "FP32", [1, 2], [5, 6])]})


def test_an_unknown_output_is_named(doubled: Predictor) -> None:
    with pytest.raises(InvalidRequest, match="no output 'z'"):
        infer(doubled, {"inputs": [tensor("x", "FP32", [1, 3], [1, 2, 3])], "outputs": [{"name": "z"}]})


def binary_nan() -> Payload:
    head = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","parameters":{"binary_data_size":12}}]}'
    return Payload("infer", head + np.array([1, np.nan, 2], "<f4").tobytes(), header_length=len(head))


def test_nan_is_refused_unless_the_package_allows_it(doubled: Predictor, tmp_path: Path) -> None:
    lenient = open_package(tmp_path / "lenient", tiny.scale_model(1.0), "input: {allow_nonfinite: true}")

    with pytest.raises(InvalidRequest, match="element 1"):
        doubled.prepare(binary_nan())
    assert np.isnan(lenient.prepare(binary_nan()).samples.feeds[0]["x"][0, 1])


def test_a_binary_request_sent_again_is_held_to_the_same(doubled: Predictor) -> None:
    head = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","parameters":{"binary_data_size":12}}]}'

    def send(values: Any, size: int = 12) -> Any:
        data = np.array(values, "<f4").tobytes()[:size]
        return json.loads(answer(doubled, Payload("infer", memoryview(head + data), header_length=len(head))).chunks[0])

    for values in ([1, 2, 3], [4, 5, 6], [7, 8, 9]):
        assert send(values)["outputs"][0]["data"] == [2 * value for value in values]
    with pytest.raises(InvalidRequest, match="'x': element 2 is not a finite FP32"):
        send([1, 2, np.inf])
    with pytest.raises(InvalidRequest, match="additional"):
        send([1, 2, 3], size=8)
    with pytest.raises(InvalidRequest, match="unexpected additional"):
        send([1, 2, 3, 4], size=16)
    assert send([1, 0, 0])["outputs"][0]["data"] == [2, 0, 0]


def test_few_layouts_of_binary_requests_are_remembered(doubled: Predictor) -> None:
    for spaces in range(3 * MAX_REMEMBERED):
        head = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","parameters":{"binary_data_size":12}}]}'
        head += b" " * spaces
        payload = Payload("infer", head + np.array([1, 2, 3], "<f4").tobytes(), header_length=len(head))
        for _ in range(2):
            assert doubled.prepare(payload).rows == 1
    assert len(doubled._infer_reader._layouts) <= MAX_REMEMBERED


@pytest.mark.parametrize(
    "payload",
    [
        Payload("predict", b'{"inputs": [1, 2, 3]}'),
        Payload("predict", memoryview(b'{"inputs": [[1, 2, 3]], "parameters": {}}')),
        Payload("infer", b'{"id":"7","inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}'),
        Payload("infer", np.array([1, 2, 3], "<f4").tobytes(), header_length=0),
    ],
)
def test_one_call_answers_as_the_three_steps_do(doubled: Predictor, payload: Payload) -> None:
    reply, input_ns, infer_ns, output_ns = doubled.answer(payload, "id-1", RunHandle())

    assert reply == answer(doubled, payload)
    assert min(input_ns, infer_ns, output_ns) > 0


def test_a_body_for_another_model_is_refused(doubled: Predictor) -> None:
    assert doubled.prepare(Payload("predict", b'{"inputs": [1, 2, 3], "model": "m"}')).rows == 1
    with pytest.raises(InvalidRequest, match='"model" in the body'):
        doubled.prepare(Payload("predict", b'{"inputs": [1, 2, 3], "model": "other"}'))


def test_long_answers_are_compressed_when_the_client_asks(doubled: Predictor) -> None:
    body = json.dumps({"inputs": [tensor("x", "FP32", [500, 3], [1] * 1500)]}).encode()

    reply = answer(doubled, Payload("infer", body, accept_encoding="gzip"))

    assert reply.content_encoding == "gzip"
    assert reply.n_bytes == len(reply.chunks[0])
    assert json.loads(gzip.decompress(reply.chunks[0]))["outputs"][0]["data"][:2] == [2, 2]
    assert infer(doubled, json.loads(body))["outputs"]


# --------------------------------------------------------------------------- running


def test_threads_share_one_predictor(doubled: Predictor) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda number: predict(doubled, [number, 0, 0])[0], range(200)))

    assert answers == [2 * number for number in range(200)]


def test_a_run_that_never_ends_is_stopped_from_another_thread(tmp_path: Path) -> None:
    endless = open_package(tmp_path, tiny.endless_model())
    handle = RunHandle()
    stuck = endless.prepare(Payload("predict", b'{"inputs": {"go": [true], "x": [1]}}'))
    threading.Timer(0.1, handle.terminate).start()

    with pytest.raises(Cancelled):
        endless.run([stuck], handle)

    handle.reset()
    fine = endless.prepare(Payload("predict", b'{"inputs": {"go": [false], "x": [1]}}'))
    assert endless.run([fine], handle)[0][0][0].tolist() == [1]


def test_an_input_that_the_graph_fails_on_is_an_error_of_that_request_only(tmp_path: Path) -> None:
    reshape = graphs.model(
        [("Reshape", ["x", "shape"], ["y"], {})],
        [("x", graphs.FLOAT, ["n", "k"]), ("shape", graphs.INT64, [2])],
        [("y", graphs.FLOAT, ["a", "b"])],
    )
    predictor = open_package(tmp_path, reshape)

    with pytest.raises((InferenceFailed, InvalidRequest)) as caught:
        predict(predictor, {"x": [[1, 2, 3]], "shape": [2, 2]})
    assert "/" not in str(caught.value)
    assert predict(predictor, {"x": [[1, 2]], "shape": [2, 1]}) == [[1], [2]]


def test_more_memory_than_there_is_is_an_error_of_that_request_only(tmp_path: Path) -> None:
    fill = graphs.model(
        [("ConstantOfShape", ["x"], ["y"], {})], [("x", graphs.INT64, ["r"])], [("y", graphs.FLOAT, None)]
    )
    predictor = open_package(tmp_path, fill)

    with pytest.raises(InferenceFailed) as caught:
        predict(predictor, [2**61])
    assert "onnxruntime" not in str(caught.value)
    assert predict(predictor, [2]) == [0, 0]


# --------------------------------------------------------------------------- opening and warming up


@pytest.mark.parametrize(
    ("model", "spec", "says"),
    [
        (tiny.scale_model(1.0), "output: {tensor: z}", r"output\.tensor: .*no output tensor 'z'; it has: 'y'"),
        (tiny.scale_model(1.0), "output: {labels: [a, b]}", r"output\.labels: 2 labels for 'y', which has 3"),
        (tiny.scale_model(1.0), "output: {labels: [a, a, b]}", r"output\.labels"),
        (tiny.scale_model(1.0), "output: {pooling: mean}", r"output\.pooling"),
        (graphs.two_inputs(), "output: {softmax: true}", r"output\.tensor: .*'sum', 'difference'"),
        (graphs.identity(graphs.INT64), "output: {normalize: true}", r"need floats"),
        (tiny.scale_model(1.0), "input: {type: sound}", r"input\.type.*'sound'.*image, tabular, tensor, text"),
        (tiny.scale_model(1.0), "runtime: torchscript", r"runtime: .*'torchscript'; there are: onnx"),
        (tiny.scale_model(1.0), "model: other.onnx", "model names 'other.onnx'"),
        (tiny.scale_model(1.0), "known_answers: none.json", "known_answers names 'none.json'"),
        (
            tiny.scale_model(1.0),
            "input: {type: tabular, features: [{name: a}]}",
            "1 features go into 'x', which takes 3",
        ),
        (tiny.scale_model(1.0), "input: {type: text}", "input_ids"),
    ],
)
def test_a_package_that_contradicts_its_graph_is_refused(tmp_path: Path, model: bytes, spec: str, says: str) -> None:
    with pytest.raises(InvalidPackage, match=says) as caught:
        open_package(tmp_path, model, spec)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '[{"inputs": 1}]', '[{"inputs": 1, "outputs": 1, "x": 1}]'])
def test_broken_known_answers_are_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InvalidPackage, match="known_answers"):
        open_package(tmp_path, tiny.scale_model(1.0), "known_answers: a.json", a__json=content)


def test_known_answers_are_replayed(tmp_path: Path) -> None:
    content = json.dumps(
        [{"inputs": [1, 2, 3], "outputs": [2, 4, 6]}, {"inputs": [[1, 2, 3]], "outputs": [[2, 4, 6.00001]]}]
    )

    open_package(tmp_path, tiny.scale_model(2.0), "known_answers: a.json", a__json=content).warm_up()


@pytest.mark.parametrize(
    ("known", "says"),
    [
        (
            {"inputs": [1, 2, 3], "outputs": [2, 4, 6.5]},
            r"Known answer 1 differs: outputs\[2\] is 6.0 instead of 6.5, off by 0.5",
        ),
        ({"inputs": [1, 2, 3], "outputs": [2, 4]}, "3 elements instead of 2"),
        ({"inputs": [1, 2, 3], "outputs": "x"}, "instead of"),
        ({"inputs": [1, 2], "outputs": [2, 4]}, "can't be replayed.*shape"),
    ],
)
def test_a_known_answer_that_differs_fails_the_warm_up(tmp_path: Path, known: Any, says: str) -> None:
    content = json.dumps([{"inputs": [0, 0, 0], "outputs": [0, 0, 0]}, known])

    with pytest.raises(WarmUpFailed, match=says):
        open_package(tmp_path, tiny.scale_model(2.0), "known_answers: a.json", a__json=content).warm_up()


def test_without_known_answers_made_up_inputs_must_run(tmp_path: Path, tokenizer: str, camera: Predictor) -> None:
    open_package(tmp_path / "a", tiny.scale_model(2.0)).warm_up()
    open_package(tmp_path / "b", graphs.identity(graphs.STRING, ("n", "k"))).warm_up()
    open_package(tmp_path / "c", graphs.two_inputs(), "output: {tensor: sum}").warm_up()
    camera.warm_up()


def test_a_model_that_fails_on_every_made_up_input_fails_the_warm_up(tmp_path: Path) -> None:
    gather = graphs.model(
        [("Gather", ["v", "x"], ["y"], {})],
        [("x", graphs.INT64, ["n", 2])],
        [("y", graphs.FLOAT, ["n", 2])],
        {"v": np.zeros(0, np.float32)},
    )

    with pytest.raises(WarmUpFailed, match="known_answers"):
        open_package(tmp_path, gather).warm_up()


def test_the_specification_is_told_with_its_defaults(tmp_path: Path) -> None:
    spec = "{input: {type: tabular, features: [{name: a}, {name: b}, {name: c}]}, output: {labels: [a, b, c]}}"
    predictor = open_package(tmp_path, tiny.scale_model(1.0), spec)

    assert predictor.spec_json["input"]["options"]["features"][0]["missing"] == "error"
    assert predictor.spec_json["output"]["tensor"] == "y"
    assert (predictor.spec_json["runtime"], predictor.spec_json["model"]) == ("onnx", "model.onnx")
    assert predictor.labels == {"y": ("a", "b", "c")}
    json.dumps(predictor.spec_json)
