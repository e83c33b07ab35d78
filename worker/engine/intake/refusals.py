"""How model files are refused: a stable code and a sentence for each reason."""

from typing import Literal, NoReturn

from app.domain.errors import SourceError

Code = Literal[
    "not_a_model",  # something else altogether
    "unsupported_format",  # a model, but in a form that Thaw does not open
    "corrupt_file",  # cut off or damaged
    "unsafe_file",  # built in a way that no saving function builds files
    "class_not_allowed",  # names a class that Thaw does not open
    "unsupported_model",  # an honest model that Thaw cannot fine-tune
    "model_too_large",
]


def refuse(code: Code, message: str) -> NoReturn:
    """Raise `SourceError`. The message says what is wrong with the file and what to do."""
    raise SourceError(message, code=code)
