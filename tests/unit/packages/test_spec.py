"""seaway.yaml: what is read, and that every mistake names its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from seaway.errors import InvalidPackage
from seaway.packages import PackageSpec, read_spec, refuse_misnamed


def read(directory: Path, text: str) -> PackageSpec:
    (directory / "seaway.yaml").write_text(text)
    return read_spec(directory)


def test_without_a_file_everything_is_default(tmp_path: Path) -> None:
    assert read_spec(tmp_path) == PackageSpec()


@pytest.mark.parametrize("name", ["seaway.yml", "Seaway.yaml", "seaway.YAML"])
def test_a_file_called_nearly_as_the_description_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("description: unread\n")

    with pytest.raises(InvalidPackage, match=rf"has {name}; its description is read from seaway\.yaml: rename it\.$"):
        refuse_misnamed(tmp_path)


def test_a_second_description_is_refused(tmp_path: Path) -> None:
    for name in ("seaway.yaml", "seaway.yml"):
        (tmp_path / name).write_text("description: which\n")

    with pytest.raises(InvalidPackage, match=r"has seaway\.yml.*: remove seaway\.yml, or make one file of the two\.$"):
        refuse_misnamed(tmp_path)


def test_other_names_are_nobodys_business(tmp_path: Path) -> None:
    (tmp_path / "nested").mkdir()
    for name in ("seaway.yaml", "model.yml", "seaway.yml.orig", "nested/seaway.yml"):
        (tmp_path / name).write_text("description: read\n")

    refuse_misnamed(tmp_path)


def test_an_empty_file_is_no_file(tmp_path: Path) -> None:
    assert read(tmp_path, "# nothing yet\n") == PackageSpec()


def test_every_section_is_read(tmp_path: Path) -> None:
    spec = read(
        tmp_path,
        """
        runtime: onnx
        model: models/m.onnx
        input: {type: text, max_tokens: 12, allow_nonfinite: true}
        output: {tensor: y, pooling: cls, normalize: true, softmax: true, labels: [a, b]}
        known_answers: answers.json
        serving: {engines: 1, processes: 2, max_queue_size: 3, timeout_seconds: 4, max_batch_size: 5}
        description: what it is
        """,
    )

    assert (spec.runtime, spec.model, spec.known_answers) == ("onnx", "models/m.onnx", "answers.json")
    assert (spec.input.type, spec.input.options, spec.input.allow_nonfinite) == ("text", {"max_tokens": 12}, True)
    assert (spec.output.tensor, spec.output.pooling, spec.output.labels) == ("y", "cls", ("a", "b"))
    assert (spec.serving.max_queue_size, spec.serving.timeout_seconds, spec.serving.max_batch_size) == (3, 4.0, 5)


def test_labels_may_be_a_file_of_lines(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\n\ndög\n", encoding="utf-8")

    assert read(tmp_path, "output: {labels: labels.txt}").output.labels == ("cat", "dög")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("modell: x", "'modell'"),
        ("output: {labelz: [a]}", "'output.labelz'"),
        ("output: {pooling: max}", "'output.pooling'"),
        ("output: {softmax: 1}", "'output.softmax'"),
        ("output: {labels: [a, 1]}", r"'output.labels\[1\]'"),
        ("output: {labels: nowhere.txt}", "output.labels"),
        ("output: {labels: ../../etc/passwd}", "relative"),
        ("input: {type: 3}", "'input.type'"),
        ("input: [a]", "'input'"),
        ("serving: {engines: 0}", "'serving.engines'"),
        ("serving: {placement: moon}", "'serving.placement'"),
        ("serving: {timeout_seconds: .nan}", "'serving.timeout_seconds'"),
        ("serving: {engines: 1025}", "'serving.engines' must be a whole number, at most 1024, not 1025"),
        ("serving: {processes: 257}", "'serving.processes' must be a whole number, at most 256, not 257"),
        ("serving: {max_queue_size: 1000001}", "'serving.max_queue_size' must be a whole number, at most 1000000"),
        ("serving: {max_batch_rows: many}", "'serving.max_batch_rows' must be a whole number, not 'many'."),
        ("serving: {length_bucketing: 3}", "'serving.length_bucketing' must be true or false, not 3."),
        ("serving: {timeout_seconds: [1]}", "'serving.timeout_seconds' must be a number, not a list."),
        ("serving: {preferred_batch_rows: []}", "'serving.preferred_batch_rows' must be a list of at least 1 values"),
        ("description: null", "'description' must be text, not nothing."),
        ("serving: {gpu: 1}", "'serving.gpu'"),
        ("model: ../model.onnx", "relative"),
        ("model: /etc/passwd", "relative"),
        ("known_answers: a/../../b", "relative"),
        ("- a list", "keys and values"),
        ("a: b: c", "line 1"),
        ("model: a\nmodel: b", "duplicate key 'model'"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("!!python/object/apply:os.system ['id']", "YAML"),
        ("input: " + "[" * 5000, "nested too deep|YAML"),
        ("modle: x.onnx", "unknown key 'modle'; did you mean 'model'\\?"),
        ("colour: red", "unknown key 'colour'; known are: runtime, model, task, .*, description\\."),
        ("output: {softmx: true}", "unknown key 'output.softmx'; did you mean 'softmax'\\?"),
        ("serving: {placement: moon}", "'serving.placement': there is no 'moon'; known are: auto, inline, worker\\."),
        ("description: 2020-99-99", "can't be read"),
        ("? [a]\n: b", "YAML"),
        ("\x00", "YAML: special characters"),
        ('runtime: onnx\ndescription: "a\\0b"', "line 2.*without NUL"),
        ('description: "\\ud800"', "line 1.*Unicode"),
        ('"a\\0b": 1', "line 1.*without NUL"),
    ],
)
def test_a_mistake_is_refused_with_its_key(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InvalidPackage, match=named) as caught:
        read(tmp_path, text)
    assert str(tmp_path) not in str(caught.value)


def test_a_file_that_would_take_long_to_parse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidPackage, match="at most"):
        read(tmp_path, "# " + "x" * 300_000)


def test_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "seaway.yaml").symlink_to("/etc/hostname")

    with pytest.raises(InvalidPackage, match="plain file"):
        read_spec(tmp_path)
