"""Layers that look words up: what their vocabularies may be, and where `.keras` files keep them.

A vocabulary that is given when the layer is made stands in the config; one that was learned (`adapt`) stands in the
archive: `assets/layers/text_vectorization/vocabulary.txt`, one word a line. Here it is moved into the config, so that
the canonical form and its digest hold it. A vocabulary that is a text names a file for Keras to read, on whatever
machine opens the model: that is never opened.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from worker.engine.intake.layouts import snake_case
from worker.engine.intake.refusals import refuse
from worker.engine.intake.vet_json import MAX_TEXT, Json

Config = dict[str, Any]

ASSET = re.compile(r"assets/(?:layers/[a-z0-9_]+/)+(?:_lookup_layer/)?vocabulary\.txt")
MAX_WORDS = 200_000

_COUNTS = (type(None), int)
_WEIGHTS = (type(None), list)
_COMMON: dict[str, tuple[Any, ...]] = {
    "encoding": ("utf-8",),
    "ragged": (False,),
    "sparse": (False,),
    "invert": (False,),
}
ALLOWED: dict[str, dict[str, tuple[Any, ...]]] = {
    "TextVectorization": {
        "standardize": (None, "lower_and_strip_punctuation", "lower", "strip_punctuation"),
        "split": (None, "whitespace", "character"),
        "output_mode": ("int", "multi_hot", "count", "tf_idf"),
        **_COMMON,
    },
    "StringLookup": {
        "output_mode": ("int", "one_hot", "multi_hot", "count", "tf_idf"),
        "vocabulary_dtype": ("string",),
        **_COMMON,
    },
}
"""Arguments with few values; functions of one's own are not among them."""
_TYPES: dict[str, tuple[type, ...]] = {
    "vocabulary": _WEIGHTS,
    "idf_weights": _WEIGHTS,
    "ngrams": (type(None), int, list),
    "max_tokens": _COUNTS,
    "num_oov_indices": _COUNTS,
    "output_sequence_length": _COUNTS,
    "vocabulary_size": _COUNTS,
    "pad_to_max_tokens": (bool,),
    "mask_token": (type(None), str),
    "oov_token": (str,),
    "oov_method": (str,),
    "salt": (type(None), int, list),
}
MAX_NGRAM = 10
MAX_UNKNOWN = 10_000


def is_lookup(name: str) -> bool:
    """Whether layers of this class have a vocabulary."""
    return name in ALLOWED


# === Checks ===


def check(name: str, config: Mapping[str, Json], where: str, *, complete: bool) -> None:
    """Refuse a config of such a layer that names files or functions; `complete`: or that has no vocabulary."""
    if isinstance(config.get("vocabulary"), str):
        refuse(
            "unsafe_file",
            f"{where} names the file '{config['vocabulary'][:80]}' as its vocabulary, which Keras would read from the "
            "machine that opens the model. Give the words themselves as a list.",
        )
    for key, value in config.items():
        allowed = ALLOWED[name].get(key)
        if allowed is not None and not any(value is known or value == known for known in allowed):
            refuse("unsupported_model", f"{where} has {key} {str(value)[:80]!r}; Thaw opens {list(allowed)}.")
        if key in _TYPES and (
            not isinstance(value, _TYPES[key]) or (isinstance(value, bool) and bool not in _TYPES[key])
        ):
            refuse("unsupported_model", f"{where} has {key} {str(value)[:80]!r}, which is nothing that Keras writes.")
    _check_sizes(config, where)
    if config.get("vocabulary") is not None:
        _check_words(config["vocabulary"], where)
    elif complete:
        refuse(
            "unsupported_model",
            f"{where} has no vocabulary in the file. Adapt it, or make it with vocabulary=[…], and save the model as "
            ".keras.",
        )
    if complete and config.get("output_mode") == "tf_idf" and not config.get("idf_weights"):
        refuse(
            "unsupported_model",
            f"{where} has output_mode 'tf_idf' without idf_weights in its config. Make it with vocabulary=[…] and "
            "idf_weights=[…], or use multi_hot or count.",
        )


def _check_sizes(config: Mapping[str, Json], where: str) -> None:
    ngrams = config.get("ngrams")
    each = ngrams if isinstance(ngrams, list) else [ngrams or 1]
    if not all(type(number) is int and 1 <= number <= MAX_NGRAM for number in each):
        refuse("unsupported_model", f"{where} has ngrams {str(ngrams)[:80]}; at most {MAX_NGRAM} words are joined.")
    unknown = config.get("num_oov_indices")
    if unknown is not None and not 0 <= unknown <= MAX_UNKNOWN:
        refuse("model_too_large", f"{where} has {unknown} places for unknown words; at most {MAX_UNKNOWN}.")


def _check_words(words: Json, where: str) -> None:
    if not words or len(words) > MAX_WORDS:
        refuse("model_too_large", f"{where} has a vocabulary of {len(words)} words; expected 1 to {MAX_WORDS}.")
    if not all(isinstance(word, str) and len(word) <= MAX_TEXT for word in words):
        refuse("unsupported_model", f"{where} has a vocabulary of something else than words of at most {MAX_TEXT}.")
    if len(set(words)) < len(words):
        refuse("corrupt_file", f"{where} has a word twice in its vocabulary. Save the model again.")


# === From the archive into the config ===


def read(archive: zipfile.ZipFile) -> dict[str, list[str]]:
    """The vocabularies of an archive whose members passed their checks, by the folder of their layer."""
    found = {}
    for name in archive.namelist():
        if ASSET.fullmatch(name):
            # As Keras reads them; it drops empty last lines, too.
            lines = archive.read(name).decode("utf-8").splitlines()
            while lines and not lines[-1]:
                lines.pop()
            found[name.removeprefix("assets/").removesuffix("/vocabulary.txt")] = lines
    return found


def filled(config: Config, vocabularies: Mapping[str, list[str]]) -> Config:
    """A model's upgraded config with the words of its archive in place; changes `config`."""
    for folder, layer in _lookups(config, ""):
        inner = layer["config"]
        if inner.get("vocabulary") is None and folder in vocabularies:
            inner["vocabulary"] = list(vocabularies[folder])
            inner.pop("vocabulary_size", None)
    return config


def _lookups(model: Config, prefix: str) -> Iterator[tuple[str, Config]]:
    """Every layer with a vocabulary, and the folder that Keras gives it: classes numbered in the model's order."""
    used: Counter[str] = Counter()
    for layer in model["config"]["layers"]:
        stem = snake_case(layer["class_name"])
        folder = f"{prefix}layers/{stem}" + (f"_{used[stem]}" if used[stem] else "")
        used[stem] += 1
        if is_lookup(layer["class_name"]):
            yield folder, layer
        elif isinstance(layer["config"].get("layers"), list):
            yield from _lookups(layer, f"{folder}/")
