"""Chaos: a real service is disturbed at random while clients use it, and a checker reads what became of their jobs.

uv run python -m tests.chaos --jobs 100 --kills 200 --seed 7 --stack embedded|production

kinds       the jobs that are trained, and the files they are trained from
stacks      the service as processes: started, found, killed, started again; the embedded one
production  the one of many machines
acts        what is done to it: drawn from a seed, or read from a log
disorder    does it, and writes the log
proxy, namespaces, disks, messages    bad networks, partitions, full disks, a broker that delivers twice
clients     create, poll, cancel, pause, resume; remember every answer
evidence    database and store, read by plain SQL and as plain files or objects
checker     what must be true of them; knows nothing of app.services
run         all of it, from start to summary
scenarios   single stories: zombies, kill -9 of everything, a flushed broker, pause across a restart, a partition
"""
