"""Chaos: a real service is disturbed at random while clients use it, and a checker reads what became of their jobs.

uv run python -m tests.chaos --jobs 100 --kills 200 --seed 7 --stack embedded|production

kinds       the jobs that are trained, and the files they are trained from
stacks      the service as processes: started, found, killed, started again
disorder    what is done to it: drawn from a seed, written to a log, replayed from one
clients     create, poll, cancel, pause, resume; remember every answer
evidence    database and store, read by plain SQL and as plain files
checker     what must be true of them; knows nothing of app.services
run         all of it, from start to summary
scenarios   single stories: zombies, kill -9 of everything, a flushed broker, pause across a restart
"""
