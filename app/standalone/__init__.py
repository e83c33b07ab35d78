"""`thaw up`: the whole service on this machine, one process tree.

    thaw up ─┬─ valkey-server                                 on a Unix socket, no TCP port
             ├─ python -m app.main                            the API
             └─ python -m worker --queues cpu[,gpu],prepare   trains; checks models and datasets

What dies is started again, later and later (1 s doubling to 30 s). A signal ends everything in the order API,
worker, broker, within 10 s; a second one at once. On Linux the children end by themselves when `thaw up` is
killed; whatever is left over all the same is found and ended by the next start on the same data folder.

    main          what `thaw up` calls; returns the exit code          up.py
    service       all programs: start in order, end in order           service.py
    broker        which server, which socket, with which options       broker.py
    programs      what is started, with which environment              programs.py
    processes     one program kept running                             processes.py, backoff.py, tether.py, logs.py
    folder        one service per data folder; the note of what runs   folder.py
    readiness     when may people be told that it is up                readiness.py
"""

from app.standalone.up import main

__all__ = ["main"]
