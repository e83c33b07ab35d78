"""Submitting a job: what it refers to, what is wrong with it, what it waits for."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.domain.dataset import DatasetOptions
from app.domain.errors import Failure, InvalidRequestError, NotFoundError, UserError
from app.domain.model import ModelOptions
from app.services import claims, datasets, history, jobs, models, reports
from app.services.context import Services

BROKEN = Failure(error_class="user", code="unusable_source", message="It is no zip archive.")


def test_a_job_whose_files_are_ready_is_queued_and_rung(world: Any, bell: Any) -> None:
    job = world.job()
    assert job.status == "queued"
    assert bell.rings[-1] == ("train", job.id, "cpu")
    assert world.get(job).queue_position == 1


def test_what_was_submitted_is_stored_in_full(world: Any) -> None:
    job = world.job(cut={"layer": "dense_1"}, metadata={"team": "shoes"}, suffix="v1", seed=7, batch_size=5)
    stored = world.get(job)
    assert stored.model_copy(update={"queue_position": None}) == job
    assert (stored.spec.seed, stored.spec.batch_size, stored.suffix) == (7, 5, "v1")
    assert [phase.name for phase in stored.spec.schedule] == ["head", "all"]


def test_a_seed_is_made_if_none_is_given_and_differs_between_jobs(world: Any) -> None:
    request = world.request()
    seeds = {jobs.submit(world.services, "default", request).spec.seed for _ in range(5)}
    assert len(seeds) == 5


def test_files_become_a_model_and_a_dataset_first(world: Any, services: Services, bell: Any) -> None:
    source, data = world.file("net.h5"), world.file("digits.tar.gz")
    job = world.job(model=source.id, training_file=data.id)
    assert job.status == "validating_files"
    assert (job.model, job.training_file) == (source.id, data.id)
    model = models.get(services, "default", job.model_id)
    assert (model.name, model.status, model.file_id) == ("net", "validating", source.id)
    assert model.download[0].name == "net.h5"
    assert datasets.get(services, "default", job.dataset_id).name == "digits"
    assert {ring[:2] for ring in bell.rings} == {("register", job.model_id), ("validate", job.dataset_id)}


def test_jobs_that_name_the_same_file_share_what_was_made_of_it(world: Any) -> None:
    request = world.request(model=world.file().id, training_file=world.file("a.npz").id)
    first, second = (jobs.submit(world.services, "default", request) for _ in range(2))
    assert (first.model_id, first.dataset_id) == (second.model_id, second.dataset_id)


def test_a_file_registered_with_options_is_not_taken_for_the_plain_one(world: Any, services: Services) -> None:
    file_id = world.file().id
    scaled = models.register(services, "default", file_id=file_id, name=None, options=ModelOptions(rescale="none"))
    assert world.job(model=file_id).model_id != scaled.id


def test_a_name_of_the_catalogue_becomes_a_model_first(world: Any, services: Services, bell: Any) -> None:
    job = world.job(model="keras:MobileNet?input_size=160&alpha=0.250")
    assert job.status == "validating_files"
    model = models.get(services, "default", job.model_id)
    assert (model.reference, model.file_id, model.download) == ("keras:MobileNet?alpha=0.25&input_size=160", None, [])
    assert (model.name, model.status) == ("MobileNet-alpha-0.25-input_size-160", "validating")
    assert bell.rings[-1] == ("register", model.id, "prepare")
    claim = claims.claim_model(services, model.id, worker="w")
    assert claim is not None
    assert claim.file is None
    reports.finish_model(services, claim, info=world.info(), canonical=[world.artifact("config.json")])
    assert world.get(job).status == "queued"


def test_jobs_that_name_the_same_model_share_it_however_they_spell_it(world: Any, services: Services) -> None:
    request = world.request(model="keras:VGG16?include_top=true&input_size=224")
    first = jobs.submit(services, "default", request)
    second = jobs.submit(services, "default", request.model_copy(update={"model": "keras:VGG16"}))
    assert first.model_id == second.model_id
    other = jobs.submit(services, "default", request.model_copy(update={"model": "keras:VGG19"}))
    assert other.model_id != first.model_id
    with pytest.raises(InvalidRequestError):
        jobs.submit(services, "another", request)


def test_a_model_of_the_catalogue_that_could_not_be_had_is_tried_anew(world: Any, services: Services) -> None:
    first = world.job(model="keras:VGG16")
    claim = claims.claim_model(services, first.model_id, worker="w")
    assert claim is not None
    away = Failure(error_class="platform", code="download_failed", message="No network.", retryable=True)
    reports.fail_model(services, claim, away)
    failed = world.get(first)
    assert (failed.status, failed.error.code, failed.error.retryable) == ("failed", "download_failed", True)
    assert world.job(model="keras:VGG16").model_id != first.model_id


def test_a_wrong_name_of_the_catalogue_is_refused_with_the_nearest(world: Any) -> None:
    with pytest.raises(InvalidRequestError, match="Nearest: 'MobileNet'") as caught:
        world.job(model="keras:mobilnet")
    assert [(problem.pointer, problem.code) for problem in caught.value.problems] == [("/model", "unknown_application")]


# === Results as sources ===


def test_a_job_may_start_from_the_result_of_another(world: Any) -> None:
    first = world.succeed(world.claim())
    second = world.job(model=first.id)
    assert (second.model, second.model_id, second.status) == (first.id, first.result_model_id, "queued")


@pytest.mark.parametrize("status", ["queued", "running", "failed", "cancelled"])
def test_a_job_without_a_result_is_no_source(world: Any, services: Services, status: str) -> None:
    job = world.job()
    if status == "cancelled":
        jobs.request_cancel(services, "default", job.id)
    elif status != "queued":
        claim = world.claim(job)
        if status == "failed":
            reports.fail_job(services, claim, BROKEN)
    with pytest.raises(InvalidRequestError, match=f"has no model.*{status}") as caught:
        world.job(model=job.id)
    assert [(problem.pointer, problem.code) for problem in caught.value.problems] == [("/model", "no_result")]


def test_a_result_that_was_deleted_is_no_source(world: Any, services: Services) -> None:
    job = world.succeed(world.claim())
    models.delete(services, "default", job.result_model_id)
    with pytest.raises(InvalidRequestError, match="was deleted"):
        world.job(model=job.id)


def test_a_job_that_there_is_not_or_of_another_project_is_no_source(world: Any, services: Services) -> None:
    request = world.request(model=world.succeed(world.claim()).id)
    for project, model in (("another", request.model), ("default", "ftjob-unknown")):
        with pytest.raises(InvalidRequestError) as caught:
            jobs.submit(services, project, request.model_copy(update={"model": model}))
        assert caught.value.problems[0].code == "not_found"


# === Checkpoints as sources ===


@pytest.fixture
def checkpoint(world: Any, services: Services) -> Any:
    """The first of a job that failed in its second phase."""
    claim = world.claim()
    reports.progress(services, claim, [world.phase_end()], checkpoints={"c/1.weights": world.artifact("w.safetensors")})
    reports.fail_job(services, claim, BROKEN)
    return history.checkpoints(services, "default", claim.identifier, _all()).items[0]


def test_a_job_may_start_from_a_checkpoint_of_another(
    world: Any, services: Services, checkpoint: Any, bell: Any
) -> None:
    first, second = world.job(model=checkpoint.id), world.job(model=checkpoint.id)
    assert first.status == "validating_files"
    assert first.model_id == second.model_id
    model = models.get(services, "default", first.model_id)
    assert (model.reference, model.job_id, model.file_id) == (checkpoint.id, checkpoint.job_id, None)
    assert model.name == f"{checkpoint.job_id[-6:]}-head"
    assert ("register", model.id, "prepare") in bell.rings
    found = models.restorable(services, "default", checkpoint.id)
    job = jobs.get(services, "default", checkpoint.job_id)
    assert (found.weights, found.spec, found.source.id) == (checkpoint.artifact, job.spec, job.model_id)
    assert found.data == datasets.get(services, "default", job.dataset_id).info


def test_a_checkpoint_whose_source_was_deleted_cannot_be_restored(services: Services, checkpoint: Any) -> None:
    models.delete(services, "default", jobs.get(services, "default", checkpoint.job_id).model_id)
    with pytest.raises(UserError, match="was deleted") as caught:
        models.restorable(services, "default", checkpoint.id)
    assert caught.value.work_code == "checkpoint_incomplete"


def test_a_checkpoint_that_there_is_not_or_of_another_project_is_no_source(
    world: Any, services: Services, checkpoint: Any
) -> None:
    for project, name in (("default", "ckpt-unknown"), ("another", checkpoint.id)):
        with pytest.raises(InvalidRequestError) as caught:
            jobs.submit(services, project, world.request(model=name))
        assert "/model" in {problem.pointer for problem in caught.value.problems}
        with pytest.raises(NotFoundError):
            models.register_named(services, project, reference=name, name=None, options=ModelOptions())


def test_every_wrong_field_is_named_at_once(world: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        world.job(
            training_file="ds-unknown",
            cut={"keep_first": 3},
            schedule=[
                {"unfreeze": {"from_layer": "dense_9"}, "epochs": 1},
                {"unfreeze": {"match": "nothing"}, "epochs": 1},
            ],
        )
    found = {problem.pointer: problem.code for problem in caught.value.problems}
    assert found == {
        "/training_file": "not_found",
        "/schedule/0/unfreeze/from_layer": "unknown_layer",
        "/schedule/1/unfreeze": "nothing_to_unfreeze",
    }
    allowed = {problem.pointer: problem.allowed for problem in caught.value.problems}
    assert allowed["/schedule/0/unfreeze/from_layer"] == ["in", "dense_1", "dense_2"]


def test_an_unknown_cut_layer_is_told_with_the_legal_ones(world: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"Unknown cut layer 'dense_3'.*Nearest") as caught:
        world.job(cut={"layer": "dense_3"})
    (problem,) = caught.value.problems
    assert problem.pointer == "/cut/layer"
    assert problem.allowed == ["dense_1", "dense_2", "out"]
    assert caught.value.param == "cut.layer"


def test_a_refused_job_leaves_nothing(world: Any, services: Services) -> None:
    with pytest.raises(InvalidRequestError):
        world.job(model=world.file().id, training_file="ds-unknown")
    assert models.list_page(services, "default", _all()).items == []


def test_a_model_that_failed_is_refused_with_its_reason(world: Any, services: Services) -> None:
    model = models.register(services, "default", file_id=world.file().id, name=None, options=ModelOptions())
    claim = claims.claim_model(services, model.id, worker="w")
    assert claim is not None
    reports.fail_model(services, claim, BROKEN)
    with pytest.raises(InvalidRequestError, match="no zip archive") as caught:
        world.job(model=model.id)
    assert caught.value.problems[0].pointer == "/model"


def test_another_projects_model_does_not_exist(world: Any, services: Services) -> None:
    request = world.request()
    with pytest.raises(InvalidRequestError) as caught:
        jobs.submit(services, "another", request)
    assert [problem.pointer for problem in caught.value.problems] == ["/model", "/training_file"]


# === Jobs that wait for their files ===


def test_a_waiting_job_is_queued_and_rung_when_the_last_file_is_ready(world: Any, bell: Any) -> None:
    job = _waiting(world)
    world.finish_model(job.model_id)
    assert world.get(job).status == "validating_files"
    world.finish_dataset(job.dataset_id)
    assert world.get(job).status == "queued"
    assert bell.rings[-1] == ("train", job.id, "cpu")


def test_a_waiting_job_fails_with_its_file_and_names_it(world: Any, services: Services) -> None:
    job = _waiting(world)
    claim = claims.claim_dataset(services, job.dataset_id, worker="w")
    assert claim is not None
    reports.fail_dataset(services, claim, BROKEN)
    failed = world.get(job)
    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error.error_class, failed.error.param) == ("user", "training_file")
    assert job.training_file in failed.error.message
    assert "no zip archive" in failed.error.message
    assert _events(world, job)[-1].type == "completed"


def test_a_waiting_job_with_an_illegal_cut_fails_when_the_model_is_known(world: Any) -> None:
    job = _waiting(world, cut={"layer": "nowhere"})
    world.finish_dataset(job.dataset_id)
    world.finish_model(job.model_id)
    failed = world.get(job)
    assert failed.error is not None
    assert (failed.status, failed.error.code, failed.error.param) == ("failed", "illegal_cut", "cut.layer")


def test_a_waiting_job_fails_with_the_model_though_the_dataset_is_not_decided(world: Any, services: Services) -> None:
    job = _waiting(world)
    claim = claims.claim_model(services, job.model_id, worker="w")
    assert claim is not None
    reports.fail_model(services, claim, BROKEN)
    assert world.get(job).status == "failed"
    world.finish_dataset(job.dataset_id)
    assert world.get(job).status == "failed"


def test_no_job_is_forgotten_when_both_its_files_are_finished_at_once(world: Any) -> None:
    waiting = [_waiting(world) for _ in range(8)]
    with ThreadPoolExecutor(2) as threads:
        for job in waiting:
            both = [
                threads.submit(world.finish_model, job.model_id),
                threads.submit(world.finish_dataset, job.dataset_id),
            ]
            for each in both:
                each.result()
    assert [world.get(job).status for job in waiting] == ["queued"] * 8


def test_no_job_is_forgotten_that_is_submitted_while_its_file_is_finished(world: Any, services: Services) -> None:
    dataset = world.dataset()
    with ThreadPoolExecutor(2) as threads:
        for _ in range(8):
            file_id = world.file().id
            model = models.register(services, "default", file_id=file_id, name=None, options=ModelOptions())
            request = world.request(model=model.id, training_file=dataset.id)
            submitted = threads.submit(jobs.submit, services, "default", request)
            threads.submit(world.finish_model, model.id).result()
            assert world.get(submitted.result()).status == "queued"


def _waiting(world: Any, **changes: Any) -> Any:
    return world.job(model=world.file().id, training_file=world.file("shoes.zip").id, **changes)


def _events(world: Any, job: Any) -> Any:
    return history.events_since(world.services, "default", job.id, after_number=0)


def _all() -> Any:
    from app.storage.paging import PageQuery

    return PageQuery()


def test_a_dataset_made_with_options_is_not_taken_for_the_plain_one(world: Any, services: Services) -> None:
    file_id = world.file("a.npz").id
    options = DatasetOptions(task="regression")
    other = datasets.create(services, "default", file_id=file_id, name="mine", options=options)
    assert other.name == "mine"
    assert world.job(training_file=file_id).dataset_id != other.id


def test_examples_that_the_source_cannot_take_are_refused_before_anything_runs(world: Any) -> None:
    wide = world.dataset(world.data_info(example_shape=[5]))
    with pytest.raises(InvalidRequestError, match=r"expects examples of the shape \(4\)") as caught:
        world.job(training_file=wide.id)
    assert [problem.pointer for problem in caught.value.problems] == ["/training_file"]


def test_a_size_that_must_be_chosen_is_asked_for(world: Any) -> None:
    anything = world.model(world.info(input_shape=[None, None, None, 3]))
    photos = world.dataset(world.data_info(kind="images", dtype="uint8", example_shape=[None, None, 3]))
    with pytest.raises(InvalidRequestError) as caught:
        world.job(model=anything.id, training_file=photos.id)
    (problem,) = caught.value.problems
    assert (problem.pointer, problem.code) == ("/preprocessing/image_size", "image_size_needed")
    job = world.job(model=anything.id, training_file=photos.id, preprocessing={"image_size": [32, 32]})
    assert job.status == "queued"


def test_a_waiting_job_whose_examples_do_not_fit_fails_when_they_are_known(world: Any) -> None:
    job = _waiting(world)
    world.finish_model(job.model_id)
    world.finish_dataset(job.dataset_id, world.data_info(example_shape=[5]))
    failed = world.get(job)
    assert failed.error is not None
    assert (failed.status, failed.error.code, failed.error.param) == ("failed", "unusable_dataset", "training_file")


def test_augmentation_is_refused_for_what_is_no_picture_and_taken_for_pictures(world: Any) -> None:
    wishes = [{"type": "flip"}, {"type": "color", "saturation": 0.2}]
    with pytest.raises(InvalidRequestError, match="is for pictures") as caught:
        world.job(augmentation=wishes)
    assert [(problem.pointer, problem.code) for problem in caught.value.problems] == [("/augmentation", "no_pictures")]
    source = world.model(world.info(input_shape=[None, 32, 32, 1]))
    gray = world.dataset(world.data_info(dtype="uint8", example_shape=[32, 32]))
    with pytest.raises(InvalidRequestError, match="3 channels") as caught:
        world.job(model=source.id, training_file=gray.id, augmentation=wishes)
    assert [problem.pointer for problem in caught.value.problems] == ["/augmentation/1"]
    job = world.job(model=source.id, training_file=gray.id, augmentation=wishes[:1])
    assert world.get(job).spec.augmentation == job.spec.augmentation != []


def test_arrays_for_several_inputs_are_compared_with_the_models_by_name(world: Any) -> None:
    def described(*names: str) -> dict[str, Any]:
        shape = {"example_shape": [4], "dtype": "float32", "value_range": (0, 1)}
        return {"inputs": [{"name": name, **shape} for name in names]}

    source = world.info()
    inputs = [{"name": name, "shape": [None, 4], "dtype": "float32"} for name in ("left", "right")]
    rows = [row.model_copy(update={"index": row.index + 1}) for row in source.layers]
    first = rows[0].model_copy(update={"index": 0, "path": "left", "class_name": "InputLayer", "inputs": []})
    second = rows[0].model_copy(update={"path": "right", "class_name": "InputLayer", "inputs": []})
    joined = rows[1].model_copy(update={"inputs": [0, 1]})
    model = world.model(world.info(inputs=inputs, layers=[first, second, joined, *rows[2:]]))
    fits = world.dataset(world.data_info(**described("left", "right")))
    assert world.job(model=model.id, training_file=fits.id).status == "queued"
    other = world.dataset(world.data_info(**described("left", "top")))
    with pytest.raises(InvalidRequestError, match=r"takes the inputs 'left' \[4\], 'right' \[4\].*'left', 'top'"):
        world.job(model=model.id, training_file=other.id)
    with pytest.raises(InvalidRequestError, match="x__left, x__right and y") as caught:
        world.job(model=model.id, training_file=world.dataset().id)
    assert [problem.pointer for problem in caught.value.problems] == ["/training_file"]
