"""Fitness: whether this worker may train, as far as it knows; shared by its threads."""

import threading
from collections.abc import Sequence

from app.domain.progress import CheckpointWritten, Progress, Resumed
from app.domain.worker import SelfTest, WorkerCapabilities

TRAINING_QUEUES = frozenset({"cpu", "gpu"})
OTHER_BITS = "the same job gives other bits on this worker from one run to the next"


class Fitness:
    """Holds the result of the self-test. Until there is one, the worker trains: every job has proofs of its own."""

    def __init__(self, result: SelfTest | None = None) -> None:
        self._result = result
        self._mutex = threading.Lock()

    def settle(self, result: SelfTest) -> None:
        """The self-test is over."""
        with self._mutex:
            self._result = result

    @property
    def result(self) -> SelfTest | None:
        """What was found, or `None` if that is not known yet."""
        with self._mutex:
            return self._result

    def refusal(self) -> str | None:
        """Why this worker must not train, or `None`."""
        result = self.result
        return result.refusal() if result else None

    def promised(self, progress: Progress) -> Progress:
        """What a job tells, with no more promised about resuming it than the self-test allows."""
        result = self.result
        if result is None or result.resume_fidelity == "exact":
            return progress
        if isinstance(progress, CheckpointWritten):
            return progress.model_copy(update={"fidelity": "tolerance"})
        if isinstance(progress, Resumed) and progress.fidelity == "exact":
            known = {"fidelity": "tolerance", "differences": [*progress.differences, OTHER_BITS]}
            return progress.model_copy(update=known)
        return progress

    def announced(self, capabilities: WorkerCapabilities) -> WorkerCapabilities:
        """What the worker says about itself now: hints for trainings are not to be sent to one that refuses them."""
        result = self.result
        if result is None:
            return capabilities
        refusal = result.refusal()
        queues = capabilities.queues if refusal is None else _without_training(capabilities.queues)
        return capabilities.model_copy(
            update={
                "queues": queues,
                "self_test": result,
                "refuses_training": refusal,
                "resume_fidelity": result.resume_fidelity,
            }
        )


def _without_training(queues: Sequence[str]) -> list[str]:
    return [queue for queue in queues if queue not in TRAINING_QUEUES]
