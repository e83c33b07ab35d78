"""What running out of memory or disk becomes."""

import errno

import pytest
from safetensors import SafetensorError

from app.domain.errors import CapacityError, PlatformError, UserError

pytestmark = pytest.mark.tensorflow


def raised(error: BaseException) -> None:
    from worker.engine.failures import translated

    with translated():
        raise error


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_the_platforms_fault(code: int) -> None:
    with pytest.raises(PlatformError, match="no room left") as caught:
        raised(OSError(code, "full"))
    assert caught.value.failure().code == "storage_full"


@pytest.mark.parametrize(
    "error",
    [
        OSError("Can't write data (errno = 28, error message = 'No space left on device')"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["hdf5", "safetensors"],
)
def test_a_full_disk_is_recognized_in_what_libraries_say(error: Exception) -> None:
    with pytest.raises(PlatformError) as caught:
        raised(error)
    assert caught.value.failure().code == "storage_full"


def test_a_full_disk_is_no_lack_of_memory_though_tensorflow_calls_both_an_exhausted_resource() -> None:
    import tensorflow as tf

    with pytest.raises(PlatformError) as caught:
        raised(tf.errors.ResourceExhaustedError(None, None, "/x/variables; No space left on device"))
    assert caught.value.failure().code == "storage_full"


def test_other_errors_of_the_disk_pass() -> None:
    with pytest.raises(FileNotFoundError):
        raised(FileNotFoundError("x"))


def test_too_little_memory_for_python_or_tensorflow_is_a_matter_of_capacity() -> None:
    import tensorflow as tf

    for error in (MemoryError(), tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\ntraceback")):
        with pytest.raises(CapacityError, match="smaller batch_size") as caught:
            raised(error)
        assert caught.value.failure().code == "out_of_memory"
        assert "traceback" not in caught.value.message


def test_errors_of_thaw_pass_unchanged() -> None:
    error = UserError("wrong")
    with pytest.raises(UserError) as caught:
        raised(error)
    assert caught.value is error
