"""The command line, `thaw`.

Exit codes:
    0    done; of `jobs watch`: the job succeeded
    1    the service said no, or the job failed or was cancelled
    2    usage: unknown option, a file that is not there, a job file that is no YAML
    3    the service cannot be reached, or none was found
    4    no API key, or a wrong one
    130  interrupted by Ctrl-C; what runs on the service goes on

With `--json`, standard output has one JSON document (of commands that go on: one JSON object a line) and nothing
else; an error is `{"error": {"code", "message", …}}`. What is for people goes to standard error then.
"""

from thaw.cli.program import main

__all__ = ["main"]
