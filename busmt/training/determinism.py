"""Seeds, threads and operations for bit-identical training on a CPU."""

from __future__ import annotations

import os

import keras

from busmt.errors import RunError


def prepare(seed: int, deterministic: bool) -> None:
    """Seed everything and, if asked, make operations deterministic.

    Seeds and deterministic operations alone are not enough: with several operations at once, sums are taken
    in varying order, so one operation runs at a time, on all cores.

    Raises:
        RunError: TensorFlow has already started with other thread settings in this process.
    """
    keras.utils.set_random_seed(seed)
    if not deterministic or keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if tf.config.threading.get_inter_op_parallelism_threads() != 1:
        try:
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError as error:
            raise RunError(
                "deterministic training needs a fresh process: TensorFlow is already running here with several "
                "operations at once (or set training.deterministic: false)"
            ) from error
    tf.config.experimental.enable_op_determinism()


def thread_settings() -> dict[str, int | None]:
    """Thread counts, for the record of a run."""
    if keras.backend.backend() != "tensorflow":
        return {"cores": os.cpu_count()}
    import tensorflow as tf

    return {
        "cores": os.cpu_count(),
        "inter_op": tf.config.threading.get_inter_op_parallelism_threads(),
        "intra_op": tf.config.threading.get_intra_op_parallelism_threads(),
    }
