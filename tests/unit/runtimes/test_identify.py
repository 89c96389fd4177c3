"""Which runtime a package is for, told from its files, and what is said where that isn't clear."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support import torches

from seaway.errors import InvalidPackage
from seaway.packages import PackageSpec, read_spec
from seaway.runtimes import identify


def test_the_only_model_file_is_the_model(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()

    assert (identify(tmp_path, PackageSpec()).runtime, identify(tmp_path, PackageSpec()).model) == ("onnx", "net.onnx")


@pytest.mark.parametrize("names", [(), ("model.pt", "model.pkl")])
def test_without_a_model_file_there_is_nothing_to_run(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).touch()

    with pytest.raises(InvalidPackage, match=r"needs one model file \(\.onnx, \.pt2, \.safetensors.* and has none"):
        identify(tmp_path, PackageSpec())


@pytest.mark.parametrize("names", [("a.onnx", "b.onnx"), ("model.onnx", "model.pt2")])
def test_of_several_model_files_the_package_must_name_one(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).touch()

    with pytest.raises(InvalidPackage, match=r"has 2: .*name one as `model` in seaway.yaml"):
        identify(tmp_path, PackageSpec())
    assert identify(tmp_path, PackageSpec(model=names[0])).runtime == "onnx"


def test_the_runtime_alone_may_settle_it(tmp_path: Path) -> None:
    torches.write_bert(tmp_path, spec="task: embeddings")
    (tmp_path / "model.onnx").touch()

    assert identify(tmp_path, PackageSpec(runtime="onnx")).model == "model.onnx"
    assert identify(tmp_path, PackageSpec(runtime="transformers", task="embeddings")).model == "model.safetensors"


def test_a_file_of_another_kind_has_no_runtime(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()

    with pytest.raises(InvalidPackage, match=r"fits no runtime; accepted are: \.onnx"):
        identify(tmp_path, PackageSpec(model="model.pt"))


def test_a_runtime_is_not_given_another_ones_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()

    with pytest.raises(InvalidPackage, match=r"'model\.onnx' is not for the runtime torch, but onnx"):
        identify(tmp_path, PackageSpec(runtime="torch", model="model.onnx"))


def test_weights_need_somebody_who_says_what_to_do_with_them(tmp_path: Path) -> None:
    torches.write_layers(tmp_path)
    assert identify(tmp_path, read_spec(tmp_path)).runtime == "torch"

    with pytest.raises(InvalidPackage, match=r"add transformers' config\.json, or write the layers as `architecture`"):
        identify(tmp_path, PackageSpec())
    with pytest.raises(InvalidPackage, match=r"architecture: 'model\.safetensors' holds weights alone"):
        identify(tmp_path, PackageSpec(runtime="torch"))


def test_an_index_stands_for_its_parts(tmp_path: Path) -> None:
    model = torches.write_bert(tmp_path, spec="task: embeddings")
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="2KB")

    found = identify(tmp_path, read_spec(tmp_path))

    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert (found.runtime, found.model) == ("transformers", "model.safetensors.index.json")


@pytest.mark.parametrize("key", ["task: embeddings", "architecture: []", "signature: {}"])
def test_a_key_that_the_runtime_does_not_read_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "model.onnx").touch()
    (tmp_path / "seaway.yaml").write_text(key)

    with pytest.raises(InvalidPackage, match=rf"{key.partition(':')[0]} is for the runtime t\w+; 'model.onnx' is run"):
        identify(tmp_path, read_spec(tmp_path))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "deep/down/weights.PT", "x.ckpt", "scaler.joblib", "x.pth"])
def test_pickles_are_refused_wherever_they_are(tmp_path: Path, name: str) -> None:
    trap = tmp_path / "trap"
    package = tmp_path / "package"
    torches.write_bert(package, spec="task: embeddings")
    (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / name).write_bytes(torches.pickled(trap))

    with pytest.raises(InvalidPackage, match=r"is a pickle by its name, which could run code"):
        identify(package, read_spec(package))
    assert not trap.exists()


@pytest.mark.parametrize("name", ["modeling_mine.py", "lib/fast.so", "__init__.pyc"])
def test_code_is_refused(tmp_path: Path, name: str) -> None:
    torches.write_bert(tmp_path, spec="task: embeddings")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"")

    with pytest.raises(InvalidPackage, match=r"is code; a package's code is never run"):
        identify(tmp_path, read_spec(tmp_path))
