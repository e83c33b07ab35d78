"""What went wrong with the machine, said in Thaw's own errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf
from safetensors import SafetensorError

from app.domain.errors import CapacityError
from worker.engine.durable import lacks_room, storage_full


@contextmanager
def translated() -> Iterator[None]:
    """Turn running out of memory into `CapacityError`, and out of disk into `PlatformError` (`storage_full`)."""
    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError, OSError, SafetensorError) as error:
        # First: to TensorFlow a full disk is an exhausted resource, too.
        if lacks_room(error):
            raise storage_full(str(error)) from error
        if isinstance(error, (OSError, SafetensorError)):
            raise
        raise _out_of_memory(error) from error


def _out_of_memory(error: BaseException) -> CapacityError:
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    message = (
        f"The training needs more memory than this worker has: {first_line[:200]}. "
        "Try a smaller batch_size, a smaller image_size, fewer unfrozen layers, or a larger machine."
    )
    return CapacityError(message)
