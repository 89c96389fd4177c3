"""Transformers' directories: answers as transformers gives them, and what is refused before anything is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support import torches

from seaway.errors import InvalidPackage, InvalidRequest, PayloadTooLarge
from seaway.packages import read_spec
from seaway.runtimes import identify, runtime
from seaway.runtimes.base import DeviceSession
from seaway.runtimes.transformers_files import positions
from seaway.serving.parity import against_cpu
from seaway.serving.predictor import Predictor

TEXTS = ["the cat sat", "dog", "the dog ran fast the cat ran slowly"]
LABELLED: dict[str, Any] = {"id2label": torches.LABELS, "label2id": {"bad": 0, "good": 1, "odd": 2}}


def load(package: Path, **options: Any) -> DeviceSession:
    spec = identify(package, read_spec(package))
    return runtime(spec.runtime or "").load(package, spec, threads=1, **options)


def predictor(package: Path) -> Predictor:
    return Predictor.open(package, model="m", version=1, max_body_bytes=1 << 20)


def predict(package: Path, inputs: Any) -> Any:
    return predictor(package)._outputs_for(inputs)


def by_transformers(model: Any, text: str) -> Any:
    """What transformers answers to one text alone."""
    words = [torches.WORDS.index(word) for word in text.split()]
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[2, *words, 3]]))


# --------------------------------------------------------------------------- answers


def test_a_classifier_answers_labels_as_transformers_scores_them(tmp_path: Path) -> None:
    model = torches.write_bert(tmp_path, "BertForSequenceClassification", **LABELLED)

    answers = predict(tmp_path, TEXTS)

    for text, answer in zip(TEXTS, answers, strict=True):
        expected = by_transformers(model, text).logits.softmax(-1)[0].numpy()
        np.testing.assert_allclose(list(answer["scores"].values()), expected, atol=1e-4)
        assert answer["label"] == torches.LABELS[int(expected.argmax())]


SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 32,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "mpnet": SMALL | {"pad_token_id": 0, "max_position_embeddings": 40},
    "roberta": SMALL | {"pad_token_id": 0, "max_position_embeddings": 40},
    "convbert": SMALL | {"embedding_size": 32},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "pad_token_id": 5},
    "llama": SMALL | {"pad_token_id": 5},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 32, "pad_token_id": 5},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_answered_alike_alone_and_beside_longer_ones(kind: str, tmp_path: Path) -> None:
    model = torches.write_classifier(tmp_path, kind, **KINDS[kind])
    opened = predictor(tmp_path)

    together = opened._outputs_for(TEXTS)

    for text, answer in zip(TEXTS, together, strict=True):
        alone = opened._outputs_for(text)
        expected = by_transformers(model, text).logits.softmax(-1)[0].numpy()
        np.testing.assert_allclose(list(alone["scores"].values()), expected, atol=1e-4)
        np.testing.assert_allclose(list(answer["scores"].values()), expected, atol=1e-4)


def test_models_that_look_at_padding_run_texts_apart_and_others_don_t(tmp_path: Path) -> None:
    for kind in ("bert", "gpt2", "convbert"):
        torches.write_classifier(tmp_path / kind, kind, **KINDS[kind])
    apart = {kind: bool(predictor(tmp_path / kind).why_alone) for kind in ("bert", "gpt2", "convbert")}
    assert apart == {"bert": False, "gpt2": False, "convbert": True}


def test_labels_that_exclude_nothing_are_scored_one_by_one(tmp_path: Path) -> None:
    model = torches.write_bert(
        tmp_path, "BertForSequenceClassification", **LABELLED, problem_type="multi_label_classification"
    )

    answers = predict(tmp_path, TEXTS)

    expected = by_transformers(model, TEXTS[0]).logits.sigmoid()[0].numpy()
    np.testing.assert_allclose(list(answers[0]["scores"].values()), expected, atol=1e-4)


def test_a_regression_answers_its_number(tmp_path: Path) -> None:
    model = torches.write_bert(tmp_path, "BertForSequenceClassification", num_labels=1)

    np.testing.assert_allclose(
        predict(tmp_path, TEXTS[0]), by_transformers(model, TEXTS[0]).logits[0].numpy(), atol=1e-4
    )


def test_token_classification_labels_each_token(tmp_path: Path) -> None:
    model = torches.write_bert(tmp_path, "BertForTokenClassification", **LABELLED)

    answer = predict(tmp_path, TEXTS[0])

    expected = by_transformers(model, TEXTS[0]).logits.softmax(-1)[0].numpy()
    np.testing.assert_allclose([list(token["scores"].values()) for token in answer], expected, atol=1e-4)


def test_token_labels_of_padding_are_left_out(tmp_path: Path) -> None:
    torches.write_bert(tmp_path, "BertForTokenClassification", **LABELLED)

    assert [len(answer) for answer in predict(tmp_path, TEXTS)] == [len(text.split()) + 2 for text in TEXTS]


def test_feature_extraction_gives_the_states(tmp_path: Path) -> None:
    model = torches.write_bert(tmp_path, spec="task: feature-extraction")

    expected = by_transformers(model, TEXTS[0]).last_hidden_state[0].numpy()
    np.testing.assert_allclose(predict(tmp_path, TEXTS[0]), expected, atol=1e-4)


POOLED = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "max": lambda states: states.amax(0),
    "lasttoken": lambda states: states[-1],
}


@pytest.mark.parametrize("how", sorted(POOLED))
@pytest.mark.parametrize("normalize", [True, False])
def test_embeddings_are_pooled_as_sentence_transformers_wrote_it_down(
    tmp_path: Path, how: str, normalize: bool
) -> None:
    model = torches.write_bert(tmp_path)
    kinds = ["Transformer", "Pooling"] + ["Normalize"] * normalize
    modules = [
        {"path": "1_Pooling" if kind == "Pooling" else "", "type": f"sentence_transformers.models.{kind}"}
        for kind in kinds
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    keys = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens", "lasttoken": "lasttoken"}
    config = {f"pooling_mode_{key}": name == how for name, key in keys.items()}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8} | config))

    answers = predict(tmp_path, TEXTS)

    for text, answer in zip(TEXTS, answers, strict=True):
        vector = POOLED[how](by_transformers(model, text).last_hidden_state[0])
        vector = torch.nn.functional.normalize(vector, dim=0) if normalize else vector
        np.testing.assert_allclose(answer, vector.numpy(), atol=1e-4)


def test_without_notes_embeddings_are_means_of_length_1(tmp_path: Path) -> None:
    model = torches.write_bert(tmp_path, spec="task: embeddings")

    vector = by_transformers(model, TEXTS[0]).last_hidden_state[0].mean(0)
    expected = torch.nn.functional.normalize(vector, dim=0).numpy()
    np.testing.assert_allclose(predict(tmp_path, TEXTS[0]), expected, atol=1e-4)


def test_a_sharded_model_is_the_same_model(tmp_path: Path) -> None:
    model = torches.write_bert(tmp_path, spec="task: feature-extraction")
    whole = predict(tmp_path, TEXTS[0])
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="2KB")

    assert predict(tmp_path, TEXTS[0]) == whole


def test_pictures_are_prepared_and_labelled(tmp_path: Path) -> None:
    model = torches.write_vit(tmp_path)
    opened = predictor(tmp_path)
    prepared = opened.prepare(opened.payload(opened._input.examples()[0]))
    (feeds,) = prepared.samples.feeds

    (answer,) = opened._session.run(feeds, ["logits"], None)

    with torch.inference_mode():
        expected = model(pixel_values=torch.from_numpy(feeds["pixel_values"])).logits.numpy()
    np.testing.assert_allclose(answer, expected, atol=1e-4)
    assert opened.spec.input.options["mean"] == [0.5, 0.5, 0.5]
    opened.warm_up()


def test_bf16_stays_close_to_fp32(tmp_path: Path) -> None:
    torches.write_bert(tmp_path, spec="task: embeddings")
    session = load(tmp_path, dtype="bf16")
    ids = np.array([[2, 4, 5, 7, 3], [2, 6, 3, 0, 0]])
    feeds = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64), "token_type_ids": np.zeros_like(ids)}

    parity = against_cpu(session, tmp_path, identify(tmp_path, read_spec(tmp_path)), [feeds])

    assert session.dtype == "bf16"
    assert parity.rows == 2
    assert parity.within(max_difference=0.05, min_cosine=0.999)
    assert parity.max_difference > 0


# --------------------------------------------------------------------------- requests that would make a device fail


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> DeviceSession:
    package = tmp_path_factory.mktemp("bert")
    torches.write_bert(package, spec="task: embeddings")
    return load(package)


def feeds(ids: Any, **others: Any) -> dict[str, Any]:
    ids = np.array(ids)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)} | others


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (feeds([[2, len(torches.WORDS), 3]]), "'input_ids' holds 11; 0 to 10 are known"),
        (feeds([[2, -1, 3]]), "'input_ids' holds -1"),
        (feeds([[2, 3]], token_type_ids=np.array([[0, 2]])), "'token_type_ids' holds 2; 0 to 1"),
        (feeds([[2, 3]], attention_mask=np.ones((1, 3), np.int64)), "'attention_mask' has shape"),
        (feeds(np.zeros((1, 0), np.int64)), "no tokens"),
        (feeds([2, 3]), r"'input_ids' has shape \[2\]; \[-1, -1\] is expected"),
        (feeds([[2.0, 3.0]]), "is float64; INT64 is expected"),
    ],
)
def test_what_would_make_a_device_fail_is_refused(session: DeviceSession, wrong: Any, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        session.check(wrong)
    with pytest.raises(InvalidRequest, match=why):
        session.run(wrong, ["embedding"], None)


def test_more_tokens_than_positions_are_too_large(session: DeviceSession) -> None:
    session.check(feeds([[2] * torches.POSITIONS]))
    with pytest.raises(PayloadTooLarge, match="has 17 tokens; the model takes 16"):
        session.check(feeds([[2] * (torches.POSITIONS + 1)]))


@pytest.mark.parametrize(("kind", "tokens"), [("bert", 514), ("roberta", 512), ("mpnet", 512)])
def test_some_models_number_positions_from_behind_the_padding(kind: str, tokens: int) -> None:
    assert positions({"model_type": kind, "max_position_embeddings": 514, "pad_token_id": 1}) == tokens


def test_gpt_2_and_its_kin_have_another_word_for_their_positions() -> None:
    assert positions({"model_type": "gpt2", "n_positions": 32}) == 32


def test_positions_that_are_relative_have_no_end() -> None:
    assert positions({"model_type": "t5", "n_positions": 32, "relative_attention_num_buckets": 8}) is None


def test_more_tokens_than_n_positions_are_too_large(tmp_path: Path) -> None:
    torches.write_classifier(tmp_path, "gpt2", **KINDS["gpt2"])
    session = load(tmp_path)

    session.check(feeds([[2] * 32]))
    with pytest.raises(PayloadTooLarge, match="has 33 tokens; the model takes 32"):
        session.check(feeds([[2] * 33]))


def test_the_least_of_all_limits_of_tokens_is_taken(tmp_path: Path) -> None:
    torches.write_bert(tmp_path, spec="task: embeddings")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert identify(tmp_path, read_spec(tmp_path)).input.options["max_tokens"] == torches.POSITIONS

    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 4}))
    assert identify(tmp_path, read_spec(tmp_path)).input.options["max_tokens"] == 4
    assert predict(tmp_path, "the cat sat ran fast") == predict(tmp_path, "the cat")


def test_more_tokens_than_positions_cannot_be_asked_for(tmp_path: Path) -> None:
    torches.write_bert(tmp_path, spec="task: embeddings\ninput: {type: text, max_tokens: 17}")

    with pytest.raises(InvalidPackage, match="17 are more than the model takes: 16"):
        load(tmp_path)


# --------------------------------------------------------------------------- packages that are refused


@pytest.mark.parametrize("key", ["auto_map", "custom_pipelines", "trust_remote_code"])
def test_a_configuration_that_names_code_is_refused(tmp_path: Path, key: str) -> None:
    torches.write_bert(tmp_path, spec="task: embeddings")
    torches.edit_config(tmp_path, **{key: {"AutoModel": "modeling_mine.MyModel"}})

    with pytest.raises(InvalidPackage, match=f"config.json has '{key}': the model needs code of its own"):
        load(tmp_path)


def test_code_named_deeper_down_is_refused_too(tmp_path: Path) -> None:
    torches.write_bert(tmp_path, spec="task: embeddings")
    torches.edit_config(tmp_path, text_config={"auto_map": {"AutoModel": "somebody/repository--m.M"}})

    with pytest.raises(InvalidPackage, match="'auto_map'"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    torches.write_bert(tmp_path, spec="runtime: transformers\ntask: embeddings")
    (tmp_path / name).unlink()

    with pytest.raises(InvalidPackage, match=r"is missing|needs one model file") as caught:
        load(tmp_path)
    assert Path(name).suffix in str(caught.value)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    model = torches.write_bert(tmp_path, spec="task: embeddings")
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="2KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()

    with pytest.raises(InvalidPackage, match=f"names '{lost.name}', which is not in the package"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "pytorch_model.bin"])
def test_an_index_names_safetensors_of_the_package_alone(tmp_path: Path, name: str) -> None:
    torches.write_bert(tmp_path, spec="model: model.safetensors.index.json\ntask: embeddings")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))

    with pytest.raises(InvalidPackage, match=r"must be relative|only safetensors"):
        load(tmp_path)


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    torches.write_bert(tmp_path, "BertForSequenceClassification", **LABELLED)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})

    with pytest.raises(InvalidPackage, match=r"lacks 'classifier.weight'"):
        load(tmp_path)


def test_weights_without_a_place_are_refused(tmp_path: Path) -> None:
    torches.write_bert(tmp_path, "BertForSequenceClassification", **LABELLED)
    weights = load_file(tmp_path / "model.safetensors") | {"bert.encoder.layer.7.weight": torch.zeros(2)}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})

    with pytest.raises(InvalidPackage, match=r"has 'bert.encoder.layer.7.weight', for which .* no place"):
        load(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    torches.write_bert(tmp_path, spec="task: embeddings")
    torches.edit_config(tmp_path, vocab_size=99)

    with pytest.raises(InvalidPackage, match=r"model.safetensors"):
        load(tmp_path)


def test_a_body_of_a_model_with_a_head_gives_vectors(tmp_path: Path) -> None:
    model = torches.write_bert(tmp_path, "BertForSequenceClassification", "task: feature-extraction", **LABELLED)

    expected = by_transformers(model.bert, TEXTS[0]).last_hidden_state[0].numpy()
    np.testing.assert_allclose(predict(tmp_path, TEXTS[0]), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("", "leaves open what it is for; write `task`"),
        ("task: translation", "task: there is none called 'translation'; there are: text-classification"),
        ("task: text-classification", "needs a ...ForSequenceClassification, not BertModel"),
    ],
)
def test_a_task_that_is_not_clear_is_asked_for(tmp_path: Path, spec: str, why: str) -> None:
    torches.write_bert(tmp_path, spec=spec)

    with pytest.raises(InvalidPackage, match=why):
        load(tmp_path)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"model_type": None}, "no 'model_type'"),
        ({"model_type": "no-such-model"}, "no model_type 'no-such-model'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "'quantization_config', which is not supported"),
        ({"num_attention_heads": 3}, "config.json"),
        ({"hidden_size": "wide"}, "config.json"),
        ({"architectures": None}, None),
    ],
)
def test_a_configuration_that_fits_nothing_is_refused(tmp_path: Path, keys: Any, why: str | None) -> None:
    torches.write_bert(tmp_path, spec="task: embeddings")
    torches.edit_config(tmp_path, **keys)

    if why is None:
        assert load(tmp_path).signature.outputs[0].name == "embedding"
        return
    with pytest.raises(InvalidPackage, match=why) as caught:
        load(tmp_path)
    assert str(tmp_path) not in str(caught.value)


def test_labels_must_be_numbered_without_gaps(tmp_path: Path) -> None:
    torches.write_bert(tmp_path, "BertForSequenceClassification", **LABELLED)
    torches.edit_config(tmp_path, id2label={"0": "a", "2": "b"})

    with pytest.raises(InvalidPackage, match="without gaps"):
        load(tmp_path)


def test_tensors_of_another_shape_are_named_with_both_shapes(tmp_path: Path) -> None:
    torches.write_bert(tmp_path, spec="task: embeddings")
    torches.edit_config(tmp_path, intermediate_size=24)

    with pytest.raises(InvalidPackage) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        "'model.safetensors': 'encoder.layer.0.intermediate.dense.bias' has the shape [16]; config.json needs [24]. "
        "5 more have another shape, too."
    )


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1,000,000,000; 'model.safetensors' has only 39 tensors"),
        ({"num_hidden_layers": 40}, "'num_hidden_layers' is 40; 'model.safetensors' has only 39 tensors"),
        ({"part": {"n_layers": 1e9}}, "'n_layers' is 1,000,000,000.0; 'model.safetensors' has only 39 tensors"),
        ({"vocab_size": 10**10}, "'vocab_size' is 10,000,000,000; no tensor in 'model.safetensors' has more than 16 "),
        ({"max_position_embeddings": 10**8}, "'max_position_embeddings' is 100,000,000; at most 10,000,000"),
        ({"num_labels": 10**9}, "'num_labels' must be a number from 1 to 100000, not '1000000000'"),
    ],
    ids=str,
)
def test_sizes_that_the_weights_rule_out_are_refused_before_anything_is_made_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], why: str
) -> None:
    torches.write_bert(tmp_path, spec="task: embeddings")
    torches.edit_config(tmp_path, **keys)
    monkeypatch.delattr("seaway.runtimes.transformers._class")

    with pytest.raises(InvalidPackage, match=why):
        load(tmp_path)


def test_words_that_a_model_of_pictures_has_no_tensor_for_are_no_mistake(tmp_path: Path) -> None:
    torches.write_vit(tmp_path)
    torches.edit_config(tmp_path, vocab_size=8192)

    assert load(tmp_path).signature.inputs[0].name == "pixel_values"


@pytest.mark.parametrize("number", ["abc", [3], {"a": 1}, 30_000_000, -1, 2.5], ids=str)
def test_a_number_of_labels_that_is_none_is_refused_by_name(tmp_path: Path, number: Any) -> None:
    torches.write_bert(tmp_path, "BertForSequenceClassification", **LABELLED)
    torches.edit_config(tmp_path, id2label=None, num_labels=number)

    with pytest.raises(InvalidPackage, match="num_labels"):
        load(tmp_path)


@pytest.mark.parametrize("changed", [{"size": ["height", "width"]}, {"size": 32.5}], ids=str)
def test_a_size_of_pictures_that_is_none_is_refused_by_name(tmp_path: Path, changed: dict[str, Any]) -> None:
    torches.write_vit(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))

    with pytest.raises(InvalidPackage, match="size"):
        load(tmp_path)


def test_cropping_is_not_followed_silently(tmp_path: Path) -> None:
    torches.write_vit(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": {"shortest_edge": 8}, "do_center_crop": True}))

    with pytest.raises(InvalidPackage, match=r"preprocessor_config.json can't be followed"):
        load(tmp_path)

    (tmp_path / "seaway.yaml").write_text("input: {type: image, width: 8, height: 8}")
    assert load(tmp_path).signature.inputs[0].shape == (-1, 3, 8, 8)


@pytest.mark.parametrize("module", ["Dense", "WordWeights"])
def test_modules_that_are_not_known_are_refused(tmp_path: Path, module: str) -> None:
    torches.write_bert(tmp_path)
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}, {"path": "2", "type": f"x.{module}"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))

    with pytest.raises(InvalidPackage, match=f"a module '{module}'"):
        load(tmp_path)


def test_a_tokenizer_with_more_words_than_the_model_is_the_callers_error_not_a_crash(tmp_path: Path) -> None:
    torches.write_bert(tmp_path, spec="task: embeddings", vocab_size=6)

    with pytest.raises(InvalidRequest, match="'input_ids' holds 7"):
        predict(tmp_path, "the cat sat")
