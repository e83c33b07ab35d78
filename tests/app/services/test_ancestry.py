"""Where a job comes from: the jobs before it, back to the first source, as far as it is known."""

import hashlib
from typing import Any

from app.domain.again import ForkRequest, RetryRequest
from app.domain.ancestry import Ancestor, Ancestry, FirstSource
from app.domain.errors import Failure
from app.domain.job import Job
from app.services import again, ancestry, claims, history, jobs, models, reports
from app.services.context import Services
from app.storage.paging import PageQuery

SOURCE, DATA = "d" * 64, "e" * 64
WEIGHTS = "a" * 64
"""What the fixtures give to models, results, datasets and checkpoints."""
BROKEN = Failure(error_class="platform", code="x", message="It broke.")


def _of(world: Any, job: Job) -> Ancestry:
    found = world.claim(job).ancestry
    assert isinstance(found, Ancestry)
    return found


def _succeeded(world: Any, **changes: Any) -> tuple[Job, str]:
    """A job that ended its first phase and succeeded, and the checkpoint of that phase."""
    claim = world.claim(world.job(**changes))
    end = world.phase_end(name=claim.job.spec.schedule[0].name)
    reports.progress(world.services, claim, [end], checkpoints={end.checkpoint: world.artifact("1.weights")})
    done = world.succeed(claim)
    (kept,) = history.checkpoints(world.services, "default", done.id, PageQuery()).items
    return done, kept.id


def _spec_sha256(job: Job) -> str:
    return hashlib.sha256(job.spec.model_dump_json().encode()).hexdigest()


def test_a_job_on_an_upload_begins_with_the_first_source(world: Any) -> None:
    model = world.model()
    assert _of(world, job := world.job(model=model.id)) == Ancestry(
        job=job.id,
        retry_of=[],
        ancestors=[],
        first_source=FirstSource(model=model.id, name="shoes", origin=model.file_id, digest=SOURCE),
    )


def test_a_source_of_the_catalogue_is_named(world: Any) -> None:
    job = world.job(model="keras:MobileNetV2")
    world.finish_model(job.model_id)
    first = _of(world, job).first_source
    assert (first.origin, first.digest) == ("keras:MobileNetV2", SOURCE)


def test_results_forks_and_retries_lead_back_to_the_first_source(world: Any, services: Services) -> None:
    model = world.model()
    first, _ = _succeeded(world, model=model.id)
    second, checkpoint = _succeeded(world, model=first.id)
    fork = again.fork(services, "default", second.id, ForkRequest(checkpoint=checkpoint))
    world.finish_model(fork.model_id, world.info(digest="7" * 64, output_shape=[None, 1]))
    for _ in range(2):
        failed = reports.fail_job(services, world.claim(fork), BROKEN)
        fork = again.retry(services, "default", failed.id, RetryRequest())
    found = _of(world, fork)
    assert fork.retry_of is not None
    assert found.retry_of == [fork.retry_of, jobs.get(services, "default", fork.retry_of).retry_of]
    assert found.ancestors == [
        Ancestor(
            job=second.id, way="fork", checkpoint=checkpoint, phase=second.spec.schedule[0].name,
            weights_sha256=WEIGHTS, model_digest="7" * 64, dataset_digest=DATA, spec_sha256=_spec_sha256(second),
        ),
        Ancestor(job=first.id, way="result", model_digest="d", dataset_digest=DATA, spec_sha256=_spec_sha256(first)),
    ]  # fmt: skip
    assert found.first_source == FirstSource(model=model.id, name="shoes", origin=model.file_id, digest="d")


def test_a_checkpoint_that_was_asked_for_is_told_apart_from_a_fork(world: Any) -> None:
    first, checkpoint = _succeeded(world)
    job = world.job(model=checkpoint)
    world.finish_model(job.model_id)
    (ancestor,) = _of(world, job).ancestors
    assert (ancestor.way, ancestor.job, ancestor.checkpoint) == ("checkpoint", first.id, checkpoint)


def test_what_was_deleted_since_breaks_the_chain_only_where_nobody_kept_it(world: Any, services: Services) -> None:
    model = world.model()
    first, _ = _succeeded(world, model=model.id)
    second, checkpoint = _succeeded(world, model=first.id)
    third, _ = _succeeded(world, model=second.id)
    fork = again.fork(services, "default", second.id, ForkRequest(checkpoint=checkpoint))
    world.finish_model(fork.model_id)
    for result in (first.result_model_id, second.result_model_id, model.id):
        assert result is not None
        models.delete(services, "default", result)
    for job in (third, fork):
        found = _ancestry(services, job)
        assert [each.job for each in found.ancestors] == [second.id, first.id]
        # The reports of the jobs have kept the digests of what they began with.
        assert found.first_source == FirstSource(model=model.id, digest="d")


def _ancestry(services: Services, job: Job) -> Ancestry:
    with services.db.read() as session:
        return ancestry.of(session, "default", job)


def test_an_attempt_that_goes_on_says_the_same(world: Any, services: Services) -> None:
    claim = world.claim()
    claims.release(services, claim, charge_attempt=False)
    assert world.claim(claim.job).ancestry == claim.ancestry
