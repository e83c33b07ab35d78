"""The self-test on the Keras that is installed here, and on one that is broken."""

from pathlib import Path
from typing import Any

import pytest

from app.domain.worker import Fact

pytestmark = pytest.mark.tensorflow

NEEDED = {
    "frozen_weights_stay_still",
    "held_batch_norm_stays_still",
    "unfrozen_weights_move",
    "weights_are_read_as_they_were_written",
    "an_export_predicts_what_was_trained",
    "same_seed_same_bits",
    "same_batches_give_the_same_features",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Fact], str]:
    from worker.engine import selftest

    facts, bits = selftest.run(tmp_path_factory.mktemp("selftest"))
    return {fact.name: fact for fact in facts}, bits


def test_everything_that_training_relies_on_holds(found: tuple[dict[str, Fact], str]) -> None:
    facts, _ = found
    assert {name for name, fact in facts.items() if fact.kind != "keras"} == NEEDED
    assert [fact for fact in facts.values() if fact.kind != "keras" and not fact.holds] == []


def test_keras_is_as_our_decisions_say(found: tuple[dict[str, Fact], str]) -> None:
    facts, _ = found
    for name in ("clone_model_copies_no_weights", "trainable_needs_compiling"):
        assert (facts[name].kind, facts[name].holds) == ("keras", True), facts[name]
    assert facts["training_false_does_not_hold_batch_norm"].holds


def test_the_bits_of_the_job_are_those_of_a_second_one(found: tuple[dict[str, Fact], str], tmp_path: Path) -> None:
    from worker.engine import selftest

    assert selftest.bits(tmp_path) == found[1]


def test_a_frozen_layer_that_moves_is_found(tmp_path: Path) -> None:
    """The weights of the result, compared with the source's by the self-test itself and not by the job's proof."""
    from worker.engine import canonical, selftest

    job = selftest._prepared(tmp_path)
    config, weights, info = canonical.read(job.source)
    moved: dict[str, Any] = {key: array.copy() for key, array in weights.items()}
    moved["frozen_conv/0.kernel"].flat[0] += 1e-7
    moved["held_norm/2.moving_mean"].flat[0] += 1e-7
    info = info.model_copy(update={"digest": canonical.digest_of(config, moved)})
    (tmp_path / "result").mkdir()
    canonical.write(tmp_path / "result", config, moved, info)
    trained: Any = type("Trained", (), {"canonical": tmp_path / "result"})
    facts = {fact.name: fact for fact in selftest._freezing(job, trained)}
    assert not facts["frozen_weights_stay_still"].holds
    assert facts["frozen_weights_stay_still"].measured == "1 of 2 arrays bit-identical to the source's"
    assert not facts["held_batch_norm_stays_still"].holds
    assert not facts["unfrozen_weights_move"].holds
