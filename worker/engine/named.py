"""Models by name: each kind of name has its own module."""

from pathlib import Path

from app.domain import hubs as hub_names
from app.domain import kerashub as preset_names
from app.domain.model import ModelOptions, SourceInfo
from worker.engine import catalogue, hubs, kerashub


def register(
    reference: str, destination: Path, *, options: ModelOptions, max_parameters: int, max_bytes: int
) -> SourceInfo:
    """Build or fetch a model by its name and write it as a canonical folder, all of it or nothing."""
    if hub_names.is_name(reference):
        return hubs.register(
            reference, destination, options=options, max_parameters=max_parameters, max_bytes=max_bytes
        )
    if preset_names.is_name(reference):
        return kerashub.register(reference, destination, options=options, max_parameters=max_parameters)
    return catalogue.register(reference, destination, options=options, max_parameters=max_parameters)
