"""Seeds, threads and operations for bit-identical training on a CPU."""

from __future__ import annotations

import os

import keras

from busmt.errors import RunError


def prepare(seed: int, deterministic: bool, threads: int | None = None) -> None:
    """Seed everything and, if asked, make operations deterministic.

    Seeds and deterministic operations alone are not enough. With several operations at once, sums are taken in
    varying order, so one operation runs at a time. And an operation cuts its sums into as many parts as it has
    threads, so their number is fixed, whatever cores there are later.

    Args:
        seed: of all random numbers.
        deterministic: bit-identical, or as fast as it goes.
        threads: of one operation, as recorded by the training that is continued or repeated; 0 leaves them to
            TensorFlow, as runs did that recorded 0. None: as many as there are usable cores.

    Raises:
        RunError: TensorFlow has already started with other thread settings in this process.
    """
    keras.utils.set_random_seed(seed)
    if not deterministic or not possible():
        return
    import tensorflow as tf

    threads = usable_cores() if threads is None else threads
    try:
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise RunError(
            "deterministic training needs a fresh process: TensorFlow is already running here with other threads than "
            f"one operation at once on {threads or 'all'} threads (or set training.deterministic: false)"
        ) from error
    tf.config.experimental.enable_op_determinism()


def possible() -> bool:
    """Whether Keras computes with TensorFlow, the one backend whose operations can be made deterministic."""
    return bool(keras.backend.backend() == "tensorflow")


def usable_cores() -> int:
    """Cores that this process may run on, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def accelerator() -> str | None:
    """Name of the device that Keras computes on where that is not the processor ("NVIDIA H100 80GB HBM3", say)."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        return None if device.platform == "cpu" else str(device.device_kind)
    if backend == "tensorflow":
        import tensorflow as tf

        if not tf.config.list_logical_devices("GPU"):  # to ask for physical ones looks for CUDA, and complains aloud
            return None
        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
        return str(details.get("device_name", "GPU"))
    if backend == "torch":
        import torch

        return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return None


def thread_settings() -> dict[str, int]:
    """Thread counts, for the record of a run; 0: left to TensorFlow."""
    if not possible():
        return {"cores": usable_cores()}
    import tensorflow as tf

    return {
        "cores": usable_cores(),
        "inter_op": tf.config.threading.get_inter_op_parallelism_threads(),
        "intra_op": tf.config.threading.get_intra_op_parallelism_threads(),
    }
