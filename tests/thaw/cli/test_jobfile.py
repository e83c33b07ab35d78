"""Job files, the options that change them, and the rule for local files."""

from pathlib import Path

import pytest

from thaw.cli import jobfile
from thaw.cli.session import BadInputError


@pytest.fixture(autouse=True)
def _empty_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the job file and its local files are."""
    found = tmp_path / "jobs"
    found.mkdir()
    (found / "digits.keras").write_bytes(b"m")
    (found / "digits.npz").write_bytes(b"d")
    return found


def written(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_and_json_are_both_read(folder: Path) -> None:
    expected = {"model": "model-1", "training_file": "ds-1", "cut": {"drop_last": 1}, "seed": 7}
    yaml = "model: model-1\ntraining_file: ds-1  # eights and nines\ncut: {drop_last: 1}\nseed: 7\n"
    assert jobfile.read(written(folder, yaml)) == expected
    json = '{"model": "model-1", "training_file": "ds-1", "cut": {"drop_last": 1}, "seed": 7}'
    assert jobfile.read(written(folder, json)) == expected


def test_a_file_beside_the_job_file_is_local(folder: Path) -> None:
    request = jobfile.read(written(folder, "model: ./digits.keras\ntraining_file: digits.npz\n"))
    assert request == {"model": str(folder / "digits.keras"), "training_file": str(folder / "digits.npz")}


def test_a_file_given_as_an_option_is_seen_from_the_working_folder(folder: Path) -> None:
    Path("mine.keras").write_bytes(b"m")
    request = jobfile.read(written(folder, "model: model-1\ntraining_file: ds-1\n"), model="mine.keras")
    assert request["model"] == str(Path("mine.keras").absolute())
    assert jobfile.read(None, model="mine.keras", data="ds-1", changes=["training_file=mine.keras"]) == {
        "model": str(Path("mine.keras").absolute()),
        "training_file": str(Path("mine.keras").absolute()),
    }


def test_a_file_in_the_home_folder_is_local(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert jobfile.read(None, model="~/digits.keras")["model"] == str(folder / "digits.keras")


@pytest.mark.parametrize("value", ["./absent", "absent.keras", "a/b", "absent.TAR.GZ", "..\\x"])
def test_what_looks_like_a_path_must_be_a_file(folder: Path, value: str) -> None:
    with pytest.raises(BadInputError, match="there is no file"):
        jobfile.read(written(folder, f"model: '{value}'\n"))


@pytest.mark.parametrize("value", ["model-01jd", "file-01jd", "keras:MobileNetV2"])
def test_ids_and_names_are_sent_as_they_are(folder: Path, value: str) -> None:
    assert jobfile.read(written(folder, f"model: '{value}'\n"))["model"] == value


def test_a_folder_is_no_file(folder: Path) -> None:
    (folder / "model-1").mkdir()
    assert jobfile.read(written(folder, "model: model-1\n"))["model"] == "model-1"


@pytest.mark.parametrize("value", ["3", "[a]", "null", "''"])
def test_values_that_are_no_names_are_left_to_the_service(folder: Path, value: str) -> None:
    jobfile.read(written(folder, f"model: {value}\n"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: [", "is not YAML"),
        ("- model", "it has list"),
        ("", "it has nothing"),
        ("3: 4", "fields such as"),
        ("metadata: {day: 2026-11-23}", "Quote dates"),
        ("model: !!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_what_is_no_job_file_is_refused_with_its_reason(folder: Path, text: str, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        jobfile.read(written(folder, text))


def test_files_that_cannot_be_read_as_text_are_refused(folder: Path) -> None:
    with pytest.raises(BadInputError, match="cannot be read"):
        jobfile.read(folder / "absent.yaml")
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInputError, match="is not"):
        jobfile.read(folder / "binary")
    (folder / "huge").write_bytes(b" " * (4 * 1024**2 + 1))
    with pytest.raises(BadInputError, match="too large"):
        jobfile.read(folder / "huge")


def test_options_change_fields_at_any_depth(folder: Path) -> None:
    text = "model: m\nschedule:\n- {unfreeze: none, epochs: 4}\n- {unfreeze: all, epochs: 16}\n"
    changes = [
        "seed=7",
        "schedule.1.epochs=2",
        "schedule.0={unfreeze: all, epochs: 1}",
        "metadata.team=shoes",
        "cut.layer=a=b",
    ]
    assert jobfile.read(written(folder, text), changes=changes) == {
        "model": "m",
        "schedule": [{"unfreeze": "all", "epochs": 1}, {"unfreeze": "all", "epochs": 2}],
        "seed": 7,
        "metadata": {"team": "shoes"},
        "cut": {"layer": "a=b"},
    }


@pytest.mark.parametrize(
    "change", ["seed", "=7", "a..b=1", "schedule.1.epochs=2", "schedule.x=1", "model.x=1", "seed=["]
)
def test_changes_that_make_no_sense_are_refused(folder: Path, change: str) -> None:
    with pytest.raises(BadInputError, match="--set"):
        jobfile.read(written(folder, "model: m\nschedule: [{epochs: 1}]\n"), changes=[change])


@pytest.mark.parametrize(
    "name", ["keras:MobileNet?alpha=0.25", "hf://owner/name/model.keras", "keras_hub:vgg_16_imagenet", "ckpt-1"]
)
def test_names_of_models_are_sent_as_they_stand(name: str) -> None:
    assert jobfile.read(None, model=name)["model"] == name
