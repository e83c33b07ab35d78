"""Files, models and datasets."""

from typing import Any

import pytest

from app.domain.dataset import DatasetOptions
from app.domain.errors import InUseError, InvalidRequestError, NotFoundError
from app.domain.model import ModelOptions
from app.services import datasets, files, history, jobs, models, reports
from app.services.context import Services
from app.storage.paging import PageQuery


def test_a_file_is_found_again_as_it_was_entered(world: Any, services: Services) -> None:
    file = world.file("Überraschung (1).keras")
    assert files.get(services, "default", file.id) == file
    assert file.filename == "Überraschung (1).keras"
    assert services.store.exists(file.blob.sha256)


def test_files_are_listed_by_purpose(world: Any, services: Services) -> None:
    file = world.file()
    other = files.create(services, "default", filename="b", purpose="evals", blob=file.blob)

    def found(**filters: Any) -> list[str]:
        return [each.id for each in files.list_page(services, "default", PageQuery(), **filters).items]

    assert found() == [other.id, file.id]
    assert found(purpose="evals") == [other.id]


@pytest.mark.parametrize(
    ("filename", "name", "artifact"),
    [
        ("my model (1).keras", "my model (1)", "my_model_1_.keras"),
        ("/etc/../passwd.h5", "passwd", "passwd.h5"),
        (".keras", ".keras", "file.keras"),
        ("ü" * 300 + ".keras", "ü" * 200, "file_.keras"),
        ("\udcff.keras", "?", "file_.keras"),
    ],
)
def test_a_model_is_named_after_its_file(
    world: Any, services: Services, filename: str, name: str, artifact: str
) -> None:
    blob = world.file().blob
    file = files.create(services, "default", filename=filename, purpose="fine-tune", blob=blob)
    made = models.register(services, "default", file_id=file.id, name=None, options=ModelOptions())
    model = models.get(services, "default", made.id)
    assert (model.name, model.download[0].name) == (name, artifact)
    assert model.download[0].sha256 == blob.sha256


def test_names_and_options_are_kept(world: Any, services: Services, bell: Any) -> None:
    options = ModelOptions(rescale="minus_one_to_one", labels=["a", "b"])
    model = models.register(services, "default", file_id=world.file().id, name="Shoes", options=options)
    assert models.get(services, "default", model.id) == model
    assert (model.name, model.options, model.status) == ("Shoes", options, "validating")
    assert bell.rings == [("register", model.id, "prepare")]
    wanted = DatasetOptions(kind="images", class_names=["x", "y"])
    dataset = datasets.create(services, "default", file_id=world.file("s.zip").id, name=None, options=wanted)
    assert datasets.get(services, "default", dataset.id) == dataset
    assert (dataset.name, dataset.options) == ("s", wanted)
    assert bell.rings[-1] == ("validate", dataset.id, "prepare")


def test_what_was_found_out_is_kept(world: Any) -> None:
    model, dataset = world.model(), world.dataset()
    assert (model.status, model.info) == ("ready", world.info())
    assert model.canonical == [world.artifact("config.json")]
    assert (dataset.status, dataset.info) == ("ready", world.data_info())
    assert dataset.canonical == [world.artifact("dataset.json")]


def test_lists_of_models_and_datasets_filter_by_status(world: Any, services: Services) -> None:
    ready, dataset = world.model(), world.dataset()
    waiting = models.register(services, "default", file_id=world.file().id, name=None, options=ModelOptions())
    assert _ids(models.list_page(services, "default", PageQuery())) == [waiting.id, ready.id]
    assert _ids(models.list_page(services, "default", PageQuery(), status="ready")) == [ready.id]
    assert _ids(datasets.list_page(services, "default", PageQuery(), status="failed")) == []
    assert _ids(datasets.list_page(services, "default", PageQuery(), status="ready")) == [dataset.id]


def test_unknown_things_and_another_projects_things_are_not_found(world: Any, services: Services) -> None:
    things = {files: world.file().id, models: world.model().id, datasets: world.dataset().id}
    for module, identifier in things.items():
        for project, name in (("default", "model-unknown"), ("another", identifier)):
            for call in (module.get, module.delete):
                with pytest.raises(NotFoundError):
                    call(services, project, name)
        assert module.list_page(services, "another", PageQuery()).items == []
        with pytest.raises(InvalidRequestError):
            module.list_page(services, "another", PageQuery(after=identifier))
    with pytest.raises(NotFoundError):
        models.register(services, "another", file_id=things[files], name=None, options=ModelOptions())
    with pytest.raises(NotFoundError):
        datasets.create(services, "default", file_id="file-unknown", name=None, options=DatasetOptions())


# === Delete ===


def test_a_model_is_deleted_only_when_no_unfinished_job_needs_it(world: Any, services: Services) -> None:
    job = world.job()
    for module, identifier in ((models, job.model_id), (datasets, job.dataset_id)):
        with pytest.raises(InUseError, match=job.id):
            module.delete(services, "default", identifier)
    jobs.request_cancel(services, "default", job.id)
    for module, identifier in ((models, job.model_id), (datasets, job.dataset_id)):
        module.delete(services, "default", identifier)
        with pytest.raises(NotFoundError):
            module.get(services, "default", identifier)
    assert world.get(job).model_id == job.model_id


def test_a_file_is_deleted_only_when_nothing_is_being_made_of_it(world: Any, services: Services) -> None:
    file = world.file()
    model = models.register(services, "default", file_id=file.id, name=None, options=ModelOptions())
    with pytest.raises(InUseError, match=model.id):
        files.delete(services, "default", file.id)
    world.finish_model(model.id)
    files.delete(services, "default", file.id)
    with pytest.raises(NotFoundError):
        files.get(services, "default", file.id)
    assert models.get(services, "default", model.id).file_id == file.id


def test_whoever_is_refused_is_told_every_job(world: Any, services: Services) -> None:
    first = world.job()
    second = world.job(model=first.model_id, training_file=first.dataset_id)
    for module, identifier in ((models, first.model_id), (datasets, first.dataset_id)):
        with pytest.raises(InUseError) as caught:
            module.delete(services, "default", identifier)
        assert caught.value.needed_by == [first.id, second.id]


def test_what_is_still_being_checked_for_a_job_is_needed(world: Any, services: Services) -> None:
    model_file, data_file = world.file(), world.file("a.zip")
    job = world.job(model=model_file.id, training_file=data_file.id)
    assert job.status == "validating_files"
    for module, identifier, others in (
        (models, job.model_id, []),
        (datasets, job.dataset_id, []),
        (files, model_file.id, [job.model_id]),
        (files, data_file.id, [job.dataset_id]),
    ):
        with pytest.raises(InUseError) as caught:
            module.delete(services, "default", identifier)
        assert caught.value.needed_by == [job.id, *others]


def test_what_a_checkpoint_needs_to_become_a_model_is_needed_until_it_is_one(world: Any, services: Services) -> None:
    claim = world.claim()
    ended = world.phase_end()
    reports.progress(services, claim, [ended], checkpoints={ended.checkpoint: world.artifact("1.safetensors")})
    job = world.succeed(claim)
    (kept,) = history.checkpoints(services, "default", job.id, PageQuery(limit=10)).items
    restored = models.register_named(services, "default", reference=kept.id, name=None, options=ModelOptions())
    waiting = world.job(model=restored.id)
    for module, identifier in ((models, job.model_id), (datasets, job.dataset_id)):
        with pytest.raises(InUseError) as caught:
            module.delete(services, "default", identifier)
        assert caught.value.needed_by == [waiting.id, restored.id]
    world.finish_model(restored.id)
    models.delete(services, "default", job.model_id)


def _ids(page: Any) -> list[str]:
    return [each.id for each in page.items]
