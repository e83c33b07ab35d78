"""Drills: one promise each, on a real service, with its figures beside the targets.

uv run python -m tests.chaos.drills takeover --times 30

broker      it loses everything, or is away, while fifty jobs wait
restarts    it is restarted fifty times: do workers listen again?
takeover    a worker is killed with all below it: how long until another one has its job?
poison      jobs whose process dies each time, among others
cancels     cancels and pauses at random moments, without a worker, without a broker
rolling     workers and APIs are restarted by SIGTERM under load
keys        one Idempotency-Key, many requests at once; requests whose API dies
damage      checkpoints with a flipped byte, or cut off
streams     event streams that break off at random while APIs are killed
zombies     workers are stopped past their lease and go on, without a fence, while another has their job
soak        five thousand jobs: memory, open files, threads, zombies

The chaos run draws its blows from a seed and judges histories; a drill deals one kind of blow on purpose and measures.
"""
