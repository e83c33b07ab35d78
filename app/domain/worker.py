"""Workers: processes that train, or that check models and datasets."""

from typing import Literal

from pydantic import Field

from app.domain.base import Value
from app.domain.progress import ResumeFidelity

FactKind = Literal["freezing", "files", "determinism", "keras"]
"""`freezing`, `files`: a worker where one of them fails takes on no trainings; `determinism`: it trains, and resumes
within a tolerance; `keras`: describes Keras as it is, and is needed by nobody."""
NEEDED_TO_TRAIN: frozenset[FactKind] = frozenset({"freezing", "files"})


class Fact(Value):
    """One thing that training relies on, or that is known of Keras, tried out on this worker."""

    name: str = Field(examples=["frozen_weights_stay_still"])
    """What is claimed."""
    kind: FactKind
    """What follows where it does not hold."""
    holds: bool
    """Whether it was so."""
    measured: str = Field(examples=["2 of 2 arrays bit-identical"])
    """What was found."""


class SelfTest(Value):
    """What a worker found out about the Keras, the TensorFlow and the device that it has."""

    ran_at: float
    """When, in Unix seconds; kept from earlier starts with the same versions and device."""
    seconds: float
    """How long it took."""
    device: str
    """What it ran on."""
    versions: dict[str, str] = Field(examples=[{"keras": "3.15.1", "tensorflow": "2.21.0"}])
    """Of everything that decides the numbers of a run."""
    facts: list[Fact]
    """What was tried."""

    def failed(self, *kinds: FactKind) -> list[Fact]:
        """The facts of these kinds that do not hold."""
        return [fact for fact in self.facts if fact.kind in kinds and not fact.holds]

    def refusal(self) -> str | None:
        """Why a worker with this result must not train, or `None`."""
        failed = self.failed(*NEEDED_TO_TRAIN)
        if not failed:
            return None
        named = "; ".join(f"{fact.name} ({fact.measured})" for fact in failed)
        return f"its self-test failed: {named}"

    @property
    def resume_fidelity(self) -> ResumeFidelity:
        """How well a job that is interrupted here can be resumed. GPUs promise no order of sums, even if bits agree."""
        return "exact" if self.device == "cpu" and not self.failed("determinism") else "tolerance"


class WorkerCapabilities(Value):
    """What a worker says about itself."""

    queues: list[str]
    """What it takes hints from: `prepare`, `cpu`, `gpu`."""
    devices: list[str]
    """What it computes on: `cpu`, or the names of its GPUs."""
    keras: str | None = None
    """Its version of Keras."""
    tensorflow: str | None = None
    self_test: SelfTest | None = None
    """What it tried out at its start; `None` until that is done, and for workers that do not train."""
    refuses_training: str | None = None
    """Why it takes on no trainings although it was started for them: its self-test failed, or its disk is full."""
    resume_fidelity: ResumeFidelity | None = None
    """`None`: not known yet, or it does not train."""
    draining: bool = False
    """Whether it takes on nothing more and leaves when what it has is done: then `queues` is empty."""


class WorkerInfo(WorkerCapabilities):
    """A worker that was announced."""

    id: str
    live: bool
    """Whether it was heard of lately."""
