"""A job without any service: `python -m worker.engine job.json [--quiet]`.

    {
      "model": "mobilenet.keras",                  a .keras or .h5 file, a canonical model folder, or a name of the
                                                   catalogue: "keras:MobileNet?alpha=0.25&input_size=160", or of
                                                   the Hugging Face Hub: "hf://owner/name/model.keras",
                                                   or of KerasHub: "keras_hub:resnet_18_imagenet"
      "training_file": "trashnet.zip",             a zip, tar.gz or npz file, or a canonical dataset folder
      "output": "trash",                           folder; gets source/, dataset/, checkpoints/, canonical/, results/
      "model_options": {"rescale": "minus_one_to_one"},
      "dataset_options": {"validation_fraction": 0.15},
      "seed": 42,                                  made and printed if left out
      "cut": …, "head": …, "schedule": …           as in the API's job; the rest of its fields too
    }

Paths are relative to the job's file. Prints progress to standard output; exit status 0, or 1 with the reason on
standard error. Started again after it was interrupted, the same job goes on from its newest checkpoint in `output`,
and gives the very weights that it would have given; SIGTERM stops it with a checkpoint (status 143), Ctrl-C and
SIGKILL leave the last one that there is. The only limits are those of the machine: this is for one's own files.
"""

import argparse
import json
import multiprocessing
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import ParamSpec, TypeVar

from pydantic import Field, ValidationError, field_validator

from app.domain.dataset import DatasetOptions
from app.domain.errors import SourceError, WorkError
from app.domain.model import ModelOptions
from app.domain.names import is_name, spelled
from app.domain.pointers import pointer_into
from app.domain.spec import ResolvedSpec, Spec, resolve
from worker.engine.reporter import TrainingStopped

UNLIMITED = sys.maxsize
INTERRUPTED = 130
"""What shells report for Ctrl-C."""
TERMINATED = 143
"""What shells report for SIGTERM."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class FileJob(Spec):
    """A job whose source and data are files or folders."""

    model: str
    training_file: Path
    output: Path
    model_options: ModelOptions = ModelOptions()
    dataset_options: DatasetOptions = DatasetOptions()
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)

    @field_validator("model")
    @classmethod
    def _known(cls, value: str) -> str:
        """`UserError` for a wrong name of the catalogue, before anything is imported or made."""
        return spelled(value) if is_name(value) else value

    def spec(self, *, seed: int) -> ResolvedSpec:
        """What to train."""
        return resolve(self, seed=seed)


def main(arguments: list[str] | None = None) -> int:
    """Run the job and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m worker.engine", description="Run a fine-tuning job from a file.")
    parser.add_argument("job", type=Path, help="JSON file with the job")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    options = parser.parse_args(arguments)
    try:
        run(_read(options.job), folder=options.job.parent, say=_nothing if options.quiet else _say)
    except WorkError as error:
        sys.stderr.write(f"{error.message}\n")
    except ValidationError as error:
        sys.stderr.write("".join(f"{line}\n" for line in _told(error, options.job)))
    except OSError as error:
        sys.stderr.write(f"{error}\n")
    except TrainingStopped:
        sys.stderr.write("Stopped; the same command goes on from here.\n")
        return TERMINATED
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        return INTERRUPTED
    else:
        return 0
    return 1


def run(job: FileJob, *, folder: Path, say: Callable[[str], None]) -> None:
    """Register, validate and train; relative paths start at `folder`."""
    from worker.engine import preload  # noqa: F401 (TensorFlow, imported and not yet run: children may be forked)
    from worker.engine.printing import PrintingReporter, summary
    from worker.engine.train import train

    output = folder / job.output
    output.mkdir(parents=True, exist_ok=True)
    spec = _spec(job, output)
    say(f"seed {spec.seed}")
    source = _source(job.model, folder, output, job.model_options)
    data = _dataset(folder / job.training_file, output, job.dataset_options)
    trained = train(spec, source, data, output, PrintingReporter(say))
    say(summary(trained))


def _spec(job: FileJob, output: Path) -> ResolvedSpec:
    """With the seed of the job, or else of the interrupted run that it goes on with, or else a new one."""
    from worker.engine import checkpoint

    if job.seed is not None:
        return job.spec(seed=job.seed)
    before = checkpoint.latest_spec(output)
    if before and before == job.spec(seed=before.seed):
        return before
    return job.spec(seed=secrets.randbelow(2**31))


def _read(path: Path) -> FileJob:
    return FileJob.model_validate_json(path.read_bytes())


def _source(model: str, folder: Path, output: Path, options: ModelOptions) -> Path:
    from worker.engine import named, sources

    destination = output / "source"
    if is_name(model):
        _in_own_process(
            named.register, model, destination, options=options, max_parameters=UNLIMITED, max_bytes=UNLIMITED
        )
        return destination
    path = folder / model
    if path.is_dir():
        return path
    _in_own_process(sources.register, path, destination, options=options, max_parameters=UNLIMITED)
    return destination


def _dataset(path: Path, output: Path, options: DatasetOptions) -> Path:
    from worker.engine.data import validate

    if path.is_dir():
        return path
    destination = output / "dataset"
    shutil.rmtree(destination, ignore_errors=True)
    _in_own_process(validate, path, destination, options=options, max_unpacked_bytes=UNLIMITED)
    return destination


def _in_own_process(
    work: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs
) -> Result:
    """Files may crash what reads them; then that process dies, not this one."""
    method = "fork" if sys.platform == "linux" else "spawn"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        try:
            return pool.submit(work, *arguments, **options).result()
        except BrokenProcessPool as error:
            message = f"Reading {arguments[0]} crashed the process that did it. The file is damaged or hostile."
            raise SourceError(message) from error


def _told(error: ValidationError, job: Path) -> Iterator[str]:
    """Each wrong field, by its place in the file."""
    try:
        document = json.loads(job.read_bytes())
    except ValueError:  # then that is the error
        document = None
    for detail in error.errors():
        location = [*detail["loc"], *detail.get("ctx", {}).get("at", [])]  # `at`: app.domain.spec's own
        pointer = pointer_into(document, location, missing=detail["type"] == "missing")
        yield f"{pointer.removeprefix('/').replace('/', '.') or 'job'}: {detail['msg']}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _nothing(line: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
