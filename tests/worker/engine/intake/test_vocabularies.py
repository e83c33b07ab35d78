"""Layers with vocabularies: the words themselves, never the name of a file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import SourceError
from worker.engine.intake.vet import vet

Write = Callable[..., Path]
ASSET = "assets/layers/text_vectorization/vocabulary.txt"
VECTORIZE = {
    "max_tokens": 10,
    "standardize": "lower",
    "split": "whitespace",
    "ngrams": None,
    "output_mode": "multi_hot",
    "output_sequence_length": None,
    "pad_to_max_tokens": False,
    "sparse": False,
    "ragged": False,
    "vocabulary": None,
    "idf_weights": None,
    "encoding": "utf-8",
    "vocabulary_size": 4,
}


def text_model(build: Any, class_name: str = "TextVectorization", **config: Any) -> Any:
    given = {**(VECTORIZE if class_name == "TextVectorization" else {}), **config}
    texts = build.layer("InputLayer", "input", batch_shape=[None], dtype="string")
    return build.sequential(texts, build.layer(class_name, "words", **given), build.layer("Dense", "top", units=2))


def test_words_of_the_archive_become_part_of_the_config(build: Any, keras_file: Write, tmp_path: Path) -> None:
    more = {ASSET: "[UNK]\nship\n\nhällo\n\n".encode(), f"{ASSET[:-14]}_lookup_layer/vocabulary.txt": b"[UNK]"}
    config = vet(keras_file(text_model(build), more=more), tmp_path).config["config"]["layers"][1]["config"]
    assert config["vocabulary"] == ["[UNK]", "ship", "", "hällo"]
    assert "vocabulary_size" not in config


def test_words_in_the_config_stay(build: Any, keras_file: Write, tmp_path: Path) -> None:
    config = text_model(build, "StringLookup", vocabulary=["a", "b"], output_mode="one_hot", vocabulary_size=3)
    found = vet(keras_file(config, more={ASSET.replace("text_vectorization", "string_lookup"): b"x"}), tmp_path).config
    assert found["config"]["layers"][1]["config"]["vocabulary"] == ["a", "b"]


def test_layers_are_found_by_class_and_order_also_in_nested_models(
    build: Any, keras_file: Write, tmp_path: Path
) -> None:
    texts = build.layer("InputLayer", "input", batch_shape=[None, 1], dtype="string")
    lookup = [build.layer("StringLookup", f"lookup{number}", vocabulary=None) for number in range(3)]
    inner = build.sequential(texts, lookup[1], name="inner")
    config = build.sequential(texts, lookup[0], inner, lookup[2])
    more = {
        "assets/layers/string_lookup/vocabulary.txt": b"first",
        "assets/layers/sequential/layers/string_lookup/vocabulary.txt": b"inner",
        "assets/layers/string_lookup_1/vocabulary.txt": b"second",
    }
    layers = vet(keras_file(config, more=more), tmp_path).config["config"]["layers"]
    assert layers[1]["config"]["vocabulary"] == ["first"]
    assert layers[2]["config"]["layers"][1]["config"]["vocabulary"] == ["inner"]
    assert layers[3]["config"]["vocabulary"] == ["second"]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"vocabulary": "/etc/hostname"}, "unsafe_file", "names the file '/etc/hostname'"),
        ({"vocabulary": {"class_name": "__numpy__", "config": {}}}, "unsupported_model", "vocabulary"),
        ({"vocabulary": None}, "unsupported_model", "no vocabulary in the file"),
        ({"vocabulary": []}, "model_too_large", "0 words"),
        ({"vocabulary": ["a", "a"]}, "corrupt_file", "twice"),
        ({"vocabulary": ["a", 1]}, "unsupported_model", "something else than words"),
        ({"standardize": {"class_name": "function", "config": "relu"}}, "unsupported_model", "standardize"),
        ({"standardize": "custom"}, "unsupported_model", "'custom'"),
        ({"split": "os.system"}, "unsupported_model", "split"),
        ({"output_mode": "tf_idf"}, "unsupported_model", "without idf_weights"),
        ({"ngrams": 50}, "unsupported_model", "at most 10 words"),
        ({"ngrams": True}, "unsupported_model", "ngrams"),
        ({"max_tokens": "/etc/passwd"}, "unsupported_model", "max_tokens"),
        ({"ragged": True}, "unsupported_model", "ragged"),
    ],
)
def test_what_is_no_list_of_words_is_refused(
    *, change: dict[str, Any], code: str, said: str, build: Any, keras_file: Write, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        vet(keras_file(text_model(build, **{"vocabulary": ["a"], **change})), tmp_path)
    assert caught.value.work_code == code


def test_too_many_places_for_unknown_words_are_refused(build: Any, keras_file: Write, tmp_path: Path) -> None:
    config = text_model(build, "StringLookup", vocabulary=["a"], num_oov_indices=10**9)
    with pytest.raises(SourceError, match="places for unknown words"):
        vet(keras_file(config), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "assets/layers/../../vocabulary.txt",
        "assets/vocabulary.txt",
        "assets/layers/string_lookup/other.txt",
        "assets/layers/string_lookup/vocabulary.txt/x",
        "/assets/layers/string_lookup/vocabulary.txt",
    ],
)
def test_only_vocabularies_stand_among_the_assets(name: str, keras_file: Write, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="vocabularies of layers alone"):
        vet(keras_file(more={name: b"x"}), tmp_path)


def test_a_vocabulary_that_blows_up_is_refused(build: Any, tmp_path: Path, keras_file: Write) -> None:
    path = keras_file(text_model(build), more={ASSET: b"\n".join(b"%d" % number for number in range(200_001))})
    with pytest.raises(SourceError, match="200001 words"):
        vet(path, tmp_path)


def test_a_vocabulary_that_is_no_utf8_is_refused(build: Any, tmp_path: Path, keras_file: Write) -> None:
    with pytest.raises(SourceError, match="damaged"):
        vet(keras_file(text_model(build), more={ASSET: b"\xff\xfe"}), tmp_path)
