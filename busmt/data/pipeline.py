"""The tf.data graph: decode, letterbox, balance, augment, batch.

Training elements are `(image, {"mask": mask, "label": label})` with image (B, S, S, 1) float32 in
[0, 1], mask (B, S, S, 1) float32 in {0, 1} and label (B, 3) float32 one-hot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from busmt.config import CLASSES, IMAGE_INPUT, LABEL_OUTPUT, MASK_OUTPUT, Config
from busmt.data import images
from busmt.data.augment import augment
from busmt.data.balance import epoch_length, epoch_order, position_hash
from busmt.data.catalog import Catalog
from busmt.errors import DataError

Progress = Callable[[int, int], None]
_CALLS = 4
"""Elements that are made at a time where the number of threads is not given."""


def steps_per_epoch(catalog: Catalog, config: Config) -> int:
    """Batches in a training epoch; the last one may be smaller."""
    return -(-epoch_length(catalog.labels, *_balance(config)) // config.training.batch_size)


def training_dataset(
    catalog: Catalog,
    config: Config,
    *,
    first_epoch: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tf.data.Dataset:
    """All epochs from `first_epoch` on, one after the other, `steps_per_epoch` batches each.

    What comes at a position is a pure function of (catalog, seed, epoch, position): the number of
    threads and the epoch that one starts with do not change it. The cache does so in the last bit of
    grey levels alone, because it puts another graph around the same decoder.

    Args:
        catalog: the training part only.
        config: input size, batch size, seed, balance, augmentation, cache and number of epochs.
        first_epoch: epoch to start with, from 0.
        threads: parallel readers, in threads of their own; None: a few, in those of TensorFlow.
        progress: called with (done, total) while the cache is filled.

    Raises:
        DataError: a sample cannot be read.
    """
    length = epoch_length(catalog.labels, *_balance(config))
    labels = tf.constant(np.eye(len(CLASSES), dtype=np.float32)[catalog.labels])
    fetch = _fetcher(catalog, config.network.input_size, config.training.cache, progress)
    training, balance = config.training, _balance(config)
    seed = training.seed if training.order_seed is None else training.order_seed
    epochs = range(first_epoch, max(config.training.epochs, first_epoch + 1))
    orders = tf.constant(np.stack([epoch_order(catalog.labels, seed, epoch, *balance) for epoch in epochs]))
    noise = np.stack([position_hash(seed + 1, epoch, np.arange(length)) for epoch in epochs])
    seeds = tf.constant(noise.view(np.int32).reshape(len(epochs), length, 2))

    def element(row: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        index = orders[row, position]
        image, mask = fetch(index)
        if config.augment.enabled:
            image, mask = augment(image, mask, seeds[row, position], config.augment)
        return image, {MASK_OUTPUT: mask, LABEL_OUTPUT: labels[index]}

    def epoch(row: tf.Tensor) -> tf.data.Dataset:
        positions = tf.data.Dataset.range(length)
        return positions.map(
            lambda position: element(row, position), num_parallel_calls=threads or _CALLS, deterministic=True
        ).batch(config.training.batch_size)

    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # the end of a training would wait for the thread that tunes, up to a minute
    if threads:
        options.threading.private_threadpool_size = threads
    return tf.data.Dataset.range(len(epochs)).flat_map(epoch).with_options(options).prefetch(2)


def read_samples(catalog: Catalog, size: int, progress: Progress | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Decode and letterbox a whole catalog, in its order, without balancing or augmentation.

    Returns:
        images (N, S, S, 1), float32, in [0, 1]; masks (N, S, S, 1), uint8, in {0, 1}.

    Raises:
        DataError: a sample cannot be read.
    """
    pictures = np.zeros((len(catalog), size, size, 1), np.float32)
    masks = np.zeros((len(catalog), size, size, 1), np.uint8)
    for position, sample in enumerate(catalog):
        pictures[position] = read_image(sample.image, size)[0]
        mask = sample.read_mask()
        masks[position, ..., 0] = images.Letterbox(mask.shape[0], mask.shape[1], size).apply_mask(mask)
        if progress:
            progress(position + 1, len(catalog))
    return pictures, masks


def read_image(path: str, size: int) -> tuple[np.ndarray, images.Letterbox]:
    """One network input (S, S, 1), float32, in [0, 1], and where the image lies in it.

    Raises:
        DataError: the image cannot be read.
    """
    encoded = tf.constant(images.read_encoded(path))
    try:
        picture, height, width = _input_graph(size)(encoded)
    except tf.errors.InvalidArgumentError as error:  # what Pillow forgives and TensorFlow does not
        raise DataError(f"{path}: damaged or truncated image") from error
    return picture.numpy(), images.Letterbox(int(height), int(width), size)


_GRAPHS: dict[int, Any] = {}


def _input_graph(size: int) -> Any:
    """Compiled bytes -> (square, height, width), one per size."""
    if size not in _GRAPHS:

        @tf.function(input_signature=[tf.TensorSpec((), tf.string, name=IMAGE_INPUT)])
        def graph(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            picture = images.decode_tensor(encoded)
            shape = tf.shape(picture)
            return images.letterbox_tensor(picture, size)[0], shape[0], shape[1]

        _GRAPHS[size] = graph
    return _GRAPHS[size]


def _fetcher(catalog: Catalog, size: int, cache: str, progress: Progress | None) -> Callable[..., Any]:
    """Graph function from sample index to (image, mask), float32."""
    if cache == "memory":
        pictures, masks = (tf.constant(array) for array in read_samples(catalog, size, progress))
        return lambda index: (pictures[index], tf.cast(masks[index], tf.float32))
    samples = list(catalog)

    def read(index: np.ndarray) -> tuple[bytes, np.ndarray]:
        sample = samples[int(index)]
        mask = sample.read_mask()
        square = images.Letterbox(mask.shape[0], mask.shape[1], size).apply_mask(mask)
        return images.read_encoded(sample.image), square[..., None].astype(np.float32)

    def fetch(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        encoded, mask = tf.numpy_function(read, [index], (tf.string, tf.float32), stateful=False)
        picture, _ = images.letterbox_tensor(images.decode_tensor(tf.ensure_shape(encoded, ())), size)
        return picture, tf.ensure_shape(mask, (size, size, 1))

    return fetch


def _balance(config: Config) -> tuple[float | None, str]:
    """Target and mode, as `busmt.data.balance.class_quota` takes them."""
    return config.balance.target if config.balance.enabled else None, config.balance.mode
