"""What a forkserver imports once, so that each training process starts with everything ready.

Importing TensorFlow takes 5 to 20 seconds, forking a process that has done it 50 ms. That is safe only as long as
nothing has run: so this module imports, and starts no thread and no TensorFlow operation. OpenBLAS would start its
threads at the import of numpy; training does its arithmetic in TensorFlow and needs none of them. The allocator of
pyarrow would start one that gives memory back; it does so while it works, too.

What was imported is then left out of garbage collection. Otherwise each child's first full collection walks through
340,000 objects that are never garbage, and thereby copies their pages: 0.3 of the 0.9 s of processor time that a
small model needed until its first step (measured).
"""

import gc
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")

import keras  # noqa: F401 (the environment must be set before)
import tensorflow as tf  # noqa: F401

from worker.engine import train  # noqa: F401

gc.collect()
gc.freeze()
