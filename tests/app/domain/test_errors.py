"""The tree of errors."""

import inspect

from app.domain import errors
from app.domain.errors import CutError, ThawError, WorkError


def _classes() -> list[type[Exception]]:
    return [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]


def test_every_error_stands_in_the_tree_of_the_docstring() -> None:
    assert errors.__doc__ is not None
    for error in _classes():
        assert issubclass(error, ThawError)
        assert error.__name__ in errors.__doc__


def test_codes_are_unique() -> None:
    codes = [error.code for error in _classes() if issubclass(error, ThawError)]
    assert len(set(codes)) == len(codes)


def test_a_work_error_becomes_the_failure_that_is_stored() -> None:
    failure = CutError("No.", param="cut").failure()
    assert failure.model_dump(by_alias=True) == {
        "class": "user",
        "code": "illegal_cut",
        "message": "No.",
        "param": "cut",
        "phase": None,
        "retryable": False,
    }


def test_a_work_error_may_name_its_own_code() -> None:
    assert WorkError("Full.", code="storage_full").failure().code == "storage_full"
