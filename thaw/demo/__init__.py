"""`thaw demo`: does a source help on classes that it has never seen? The textbook experiment, through the service.

    start the service         as `thaw up` does, on a free port                     embedded.py
    train a source            plain Keras, a program of its own                     scripts/, programs.py
    send two jobs             from the source's weights, and from new ones          experiments.py, runs.py
    open the result           plain Keras again, in a process without Thaw          scripts/check_result.py
    say what was found        with intervals                                        findings.py

Everything goes over HTTP, as for anybody else.
"""

from thaw.demo.experiments import EXPERIMENTS
from thaw.demo.program import main

DATASETS = tuple(EXPERIMENTS)

__all__ = ["DATASETS", "main"]
