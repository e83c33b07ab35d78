"""`thaw doctor`: is this installation sound, and what is to be done where it is not?

    examine       all checks in order, each whatever happened to the others   examination.py
    database, files, store, key                                               keeping.py
    broker, workers, queues, devices, clock                                   working.py
    Finding       what a check found: ok, warning, problem                    finding.py

It asks on the machine itself, with the settings of the service, and changes nothing but a probe that it takes away
again. What `/readyz` asks, too, is `app.services.health`'s.
"""

from app.doctor.examination import examine
from app.doctor.finding import Finding

__all__ = ["Finding", "examine"]
