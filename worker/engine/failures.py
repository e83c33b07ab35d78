"""What went wrong with the machine, said in Thaw's own errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf
from safetensors import SafetensorError

from app.domain.errors import CapacityError
from worker.engine.durable import NO_ROOM, storage_full


@contextmanager
def translated() -> Iterator[None]:
    """Turn running out of memory into `CapacityError`, and out of disk into `PlatformError` (`storage_full`)."""
    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise _out_of_memory(error) from error
    except (OSError, SafetensorError) as error:
        if _no_room(error):
            raise storage_full(str(error)) from error
        raise


def _out_of_memory(error: BaseException) -> CapacityError:
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    message = (
        f"The training needs more memory than this worker has: {first_line[:200]}. "
        "Try a smaller batch_size, a smaller image_size, fewer unfrozen layers, or a larger machine."
    )
    return CapacityError(message)


def _no_room(error: Exception) -> bool:
    """HDF5 and safetensors report a full disk in their text alone, without an errno."""
    return getattr(error, "errno", None) in NO_ROOM or "No space left on device" in str(error)
