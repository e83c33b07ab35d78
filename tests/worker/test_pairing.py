"""A worker on a store that is not its database's fails nothing."""

from typing import Any

import pytest

from app.doctor import keeping
from worker import pairing, resumption

pytestmark = pytest.mark.service


def _empty(shop: Any) -> Any:
    """Move all blobs away, as if their folder were not mounted; returns what brings them back."""
    folder = shop.services.settings.artifacts_dir() / "sha256"
    aside = folder.rename(folder.with_name("elsewhere"))
    folder.mkdir()
    return lambda: (folder.rmdir(), aside.rename(folder))


def test_jobs_stay_queued_on_an_empty_store_until_it_is_the_right_one(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = _empty(shop)
    first, second = shop.submit("succeed"), shop.submit("succeed")
    shop.supervisor.train(first)
    found = [shop.get(each) for each in (first, second)]
    assert [(job.status, job.attempt.number) for job in found] == [("queued", 0)] * 2
    assert "has none of 3 artifacts" in (shop.supervisor.pairing.refusal() or "")
    finding = keeping.pairing_of_store(shop.services)
    assert (finding.verdict, "not mounted" in finding.found) == ("problem", True)
    mount()
    assert shop.supervisor.pairing.refusal() is not None, "not asked all the time"
    monkeypatch.setattr(pairing, "AGAIN_SECONDS", 0.0)
    shop.supervisor.pairing._look_at = 0.0
    assert shop.supervisor.pairing.refusal() is None
    assert keeping.pairing_of_store(shop.services).verdict == "ok"


def test_a_store_that_is_emptied_while_a_worker_lives_costs_no_job(shop: Any) -> None:
    assert shop.supervisor.pairing.refusal() is None
    _empty(shop)
    first, second = shop.submit("succeed"), shop.submit("succeed")
    shop.supervisor.train(first)
    shop.supervisor.train(second)
    found = [shop.get(each) for each in (first, second)]
    assert [job.status for job in found] == ["queued"] * 2
    assert sum(job.attempt.number for job in found) == 1, "after one it refuses"


def test_a_job_does_not_begin_anew_because_its_checkpoints_are_in_another_store(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shop.train("succeed").status == "succeeded"  # source and data are in the worker's cache now
    job_id = shop.submit("succeed")
    mount = _empty(shop)
    with monkeypatch.context() as patch:
        patch.setattr(resumption, "place", lambda *_, **__: False)
        shop.supervisor.train(job_id)
    assert shop.get(job_id).status == "queued"
    mount()
    shop.supervisor.train(job_id)
    assert shop.get(job_id).status == "succeeded"


def test_a_new_installation_may_have_any_store(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.pairing.blobs.each_referred", lambda _: iter(()))
    _empty(shop)
    assert shop.supervisor.pairing.refusal() is None
