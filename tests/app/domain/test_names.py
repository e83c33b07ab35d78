"""Names of models that come from elsewhere."""

import pytest

from app.domain import hubs, names
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


def test_presets_of_keras_hub_are_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"keras\.Model\(backbone\.inputs, backbone\.outputs\)\.save") as caught:
        names.spelled("keras_hub:resnet_50_imagenet")
    assert caught.value.work_code == "unsupported_hub"


@pytest.mark.parametrize("text", ["model-1", "file-1", "ckpt-1", "mobilenet.keras", "./keras:x", "https://x/y"])
def test_ids_and_paths_are_no_names(text: str) -> None:
    assert not names.is_name(text)


def test_what_people_may_call_them() -> None:
    assert names.title("hf://owner/name@v1/model.keras") == "owner-name"
    assert names.title("keras:MobileNet?alpha=0.25&input_size=160") == "MobileNet-alpha-0.25-input_size-160"
    assert names.tells_rescale("keras:VGG16")
    assert not names.tells_rescale("hf://owner/name")
