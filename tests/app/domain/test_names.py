"""Names of models that come from elsewhere."""

import pytest

from app.domain import hubs, kerashub, names
from app.domain.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "repository", "revision", "file"),
    [
        ("hf://owner/name", "owner/name", "main", None),
        ("hf://owner/name@v1.0", "owner/name", "v1.0", None),
        ("hf://owner/name/model.keras", "owner/name", "main", "model.keras"),
        (f"hf://o-1/n_2.x@{COMMIT}/deep/er/my model.h5", "o-1/n_2.x", COMMIT, "deep/er/my model.h5"),
    ],
)
def test_a_name_of_the_hub_is_taken_apart_and_put_together(
    text: str, repository: str, revision: str, file: str | None
) -> None:
    name = hubs.parse(text)
    assert (name.repository, name.revision, name.file) == (repository, revision, file)
    assert str(name) == text == names.spelled(text)
    assert name.is_pinned == names.is_fixed(text) == (revision == COMMIT)


def test_the_main_branch_needs_no_mention() -> None:
    assert names.spelled("hf://owner/name@main/a.keras") == "hf://owner/name/a.keras"


@pytest.mark.parametrize(
    "text",
    [
        *("hf://", "hf://owner", "hf://owner/", "hf://owner/name/", "hf://owner/name@/a.keras", "hf:///name/a.keras"),
        *("hf://owner/name/../a.keras", "hf://owner/name/a/../../b.keras", "hf://owner/name//a.keras"),
        *("hf://owner/name/.hidden.keras", "hf://user:pass@host/name/a.keras", "hf://owner/name/a.keras\n"),
    ],
)
def test_what_is_no_name_of_the_hub_is_told_how_names_are_spelled(text: str) -> None:
    assert names.is_name(text)
    with pytest.raises(UserError, match="hf://owner/name") as caught:
        names.spelled(text)
    assert caught.value.work_code == "wrong_name"


@pytest.mark.parametrize("file", ["saved_model.pb", "model.safetensors", "pytorch_model.bin", "model.keras/x"])
def test_files_that_are_no_models_for_thaw_are_refused_by_name(file: str) -> None:
    with pytest.raises(UserError, match=r"\.keras, \.h5, \.hdf5") as caught:
        names.spelled(f"hf://owner/name/{file}")
    assert caught.value.work_code == "unsupported_format"


@pytest.mark.parametrize(
    ("text", "preset", "version"),
    [
        ("keras_hub:resnet_18_imagenet", "resnet_18_imagenet", None),
        ("keras_hub:resnet_18_imagenet@3", "resnet_18_imagenet", 3),
        ("keras_hub:qwen2.5_0.5b_en", "qwen2.5_0.5b_en", None),
    ],
)
def test_a_preset_of_keras_hub_is_taken_apart_and_put_together(text: str, preset: str, version: int | None) -> None:
    name = kerashub.parse(text)
    assert (name.preset, name.version) == (preset, version)
    assert str(name) == text == names.spelled(text)
    assert names.is_fixed(text) == (version is not None)
    assert not names.tells_rescale(text), "only the preset's own files say it"


@pytest.mark.parametrize(
    "text",
    [
        *("keras_hub:", "keras_hub:@3", "keras_hub:vgg@", "keras_hub:vgg@0", "keras_hub:vgg@main", "keras_hub:vgg@-1"),
        *("keras_hub:../vgg", "keras_hub:./vgg", "keras_hub:/tmp/vgg", "keras_hub:hf://owner/name", "keras_hub:vgg\n"),
        *("keras_hub:kaggle://keras/vgg/keras/vgg_16_imagenet", "keras_hub:vgg?pooling=avg", "keras_hub:v gg"),
    ],
)
def test_what_is_no_preset_is_told_how_presets_are_spelled(text: str) -> None:
    assert names.is_name(text)
    with pytest.raises(UserError, match=r"keras_hub:preset\[@version\]") as caught:
        names.spelled(text)
    assert caught.value.work_code == "wrong_name"


@pytest.mark.parametrize("text", ["model-1", "file-1", "ckpt-1", "mobilenet.keras", "./keras:x", "https://x/y"])
def test_ids_and_paths_are_no_names(text: str) -> None:
    assert not names.is_name(text)


def test_what_people_may_call_them() -> None:
    assert names.title("hf://owner/name@v1/model.keras") == "owner-name"
    assert names.title("keras:MobileNet?alpha=0.25&input_size=160") == "MobileNet-alpha-0.25-input_size-160"
    assert names.title("keras_hub:vgg_16_imagenet@2") == "vgg_16_imagenet"
    assert names.tells_rescale("keras:VGG16")
    assert not names.tells_rescale("hf://owner/name")
