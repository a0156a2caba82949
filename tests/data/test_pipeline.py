"""The tf.data pipeline: what comes at a position is decided by the catalog, the seed and the position alone."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from busmt.config import Config
from busmt.data.augment import augment
from busmt.data.balance import epoch_order, position_hash
from busmt.data.cohorts import read_busi
from busmt.data.images import Letterbox, read_grey
from busmt.data.pipeline import read_image, read_samples, steps_per_epoch, training_dataset
from busmt.errors import DataError

SIZE = 64


@pytest.fixture(scope="module")
def catalog(phantom_folder):
    return few(phantom_folder)


def few(folder):
    """2 normal, 5 benign and 3 malignant phantoms."""
    whole = read_busi(folder)
    chosen = [np.flatnonzero(whole.labels == name)[:count] for name, count in enumerate((2, 5, 3))]
    return whole.take(np.concatenate(chosen))


def config(**sections) -> Config:
    training = {"epochs": 2, "batch_size": 4, "seed": 11} | sections.pop("training", {})
    return Config.preset("tiny", {"training": training, **sections})


def collect(dataset) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return [(image.numpy(), truth["mask"].numpy(), truth["label"].numpy()) for image, truth in dataset]


def digest(dataset) -> str:
    whole = hashlib.sha256()
    for arrays in collect(dataset):
        for array in arrays:
            whole.update(array.tobytes())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def expected(catalog):
    return digest(training_dataset(catalog, config(), threads=1))


def test_the_stream_is_what_order_and_augmentation_say(catalog):
    """Every position is computed again, alone, from (catalog, seed, epoch, position)."""
    settings = config()
    pictures, masks = read_samples(catalog, SIZE)
    batches = collect(training_dataset(catalog, settings))
    images, truths, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    place = 0
    alone = tf.function(lambda image, mask, seed: augment(image, mask, seed, settings.augment))
    for epoch in range(2):
        order = epoch_order(catalog.labels, 11, epoch)
        seeds = position_hash(12, epoch, np.arange(len(order))).view(np.int32).reshape(-1, 2)
        for index, seed in zip(order, seeds, strict=True):
            image, mask = alone(pictures[index], masks[index].astype(np.float32), tf.constant(seed))
            np.testing.assert_allclose(images[place], image.numpy(), atol=1e-6)
            assert np.array_equal(truths[place], mask.numpy())
            assert labels[place].tolist() == np.eye(3)[catalog.labels[index]].tolist()
            place += 1
    assert place == len(images)


@pytest.mark.parametrize("threads", [2, 8, None])
def test_the_number_of_reader_threads_changes_nothing(catalog, expected, threads):
    assert digest(training_dataset(catalog, config(), threads=threads)) == expected


def test_without_cache_the_stream_is_the_same_for_any_number_of_threads(catalog):
    settings = config(training={"cache": "none", "epochs": 1})
    cached = collect(training_dataset(catalog, config(training={"epochs": 1})))
    first, *others = (collect(training_dataset(catalog, settings, threads=threads)) for threads in (1, 2, 8))
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    for one, two in zip(first, cached, strict=True):
        # another graph around the same decoder: grey levels may differ in their last bit
        np.testing.assert_allclose(one[0], two[0], atol=1e-6)
        assert np.array_equal(one[1], two[1])
        assert np.array_equal(one[2], two[2])


def test_another_process_gets_the_same_stream(catalog, expected, python, phantom_folder):
    code = f"""
import sys
sys.path.insert(0, {str(__file__).rsplit("/", 1)[0]!r})
from test_pipeline import config, digest, few, training_dataset
print(digest(training_dataset(few(sys.argv[1]), config(), threads=3)))
"""
    answer = python(code, phantom_folder, PYTHONHASHSEED="7", OMP_NUM_THREADS="1")
    assert answer.stdout.strip() == expected


def test_a_later_start_gives_exactly_the_tail(catalog):
    settings, first = config(), 1
    whole = collect(training_dataset(catalog, settings))
    tail = collect(training_dataset(catalog, settings, first_epoch=first))
    steps = steps_per_epoch(catalog, settings)
    assert len(whole) == 2 * steps
    assert len(tail) == steps
    for one, other in zip(whole[first * steps :], tail, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_number_of_epochs_does_not_change_the_stream(catalog):
    short = collect(training_dataset(catalog, config(training={"epochs": 1})))
    long = collect(training_dataset(catalog, config(training={"epochs": 9})).take(len(short)))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(short, long, strict=True))


def test_seed_epoch_and_repetition_change_augmentation(catalog, expected):
    assert digest(training_dataset(catalog, config(training={"seed": 12}))) != expected
    images = np.concatenate([image for image, _, _ in collect(training_dataset(catalog, config()))])
    assert len({image.tobytes() for image in images}) == len(images)


def test_each_epoch_is_balanced_in_whole_batches_with_one_short_batch_at_its_end(catalog):
    settings = config()
    steps = steps_per_epoch(catalog, settings)
    batches = collect(training_dataset(catalog, settings))
    assert steps == 4  # 3 classes of 5, in batches of 4
    for epoch in range(2):
        labels = [label for _, _, label in batches[epoch * steps : (epoch + 1) * steps]]
        assert [len(label) for label in labels] == [4, 4, 4, 3]
        assert np.concatenate(labels).sum(axis=0).tolist() == [5, 5, 5]


def test_without_balance_an_epoch_is_one_pass(catalog):
    settings = config(balance={"enabled": False})
    batches = collect(training_dataset(catalog, settings))
    assert len(batches) == 2 * steps_per_epoch(catalog, settings) == 6
    assert np.concatenate([label for _, _, label in batches[:3]]).sum(axis=0).tolist() == [2, 5, 3]


def test_half_balanced_epochs(catalog):
    settings = config(balance={"target": 0.8})
    batches = collect(training_dataset(catalog, settings))[: steps_per_epoch(catalog, settings)]
    assert np.concatenate([label for _, _, label in batches]).sum(axis=0).tolist() == [4, 5, 4]


def test_shapes_types_and_ranges(catalog):
    dataset = training_dataset(catalog, config())
    image, truth = dataset.element_spec
    assert image.shape.as_list()[1:] == truth["mask"].shape.as_list()[1:] == [SIZE, SIZE, 1]
    for image, mask, label in collect(dataset):
        assert image.dtype == mask.dtype == label.dtype == np.float32
        assert image.min() >= 0
        assert image.max() <= 1
        assert set(np.unique(mask)) <= {0.0, 1.0}
        lesion = mask.any(axis=(1, 2, 3))
        assert not lesion[label.argmax(axis=1) == 0].any()


def test_without_augmentation_the_samples_come_as_they_are(catalog):
    settings = config(augment={"enabled": False}, training={"epochs": 1})
    pictures, masks = read_samples(catalog, SIZE)
    order = epoch_order(catalog.labels, 11, 0)
    batches = collect(training_dataset(catalog, settings))
    assert np.array_equal(np.concatenate([image for image, _, _ in batches]), pictures[order])
    assert np.array_equal(np.concatenate([mask for _, mask, _ in batches]), masks[order].astype(np.float32))


def test_what_is_scored_is_read_in_catalog_order_without_repetition(catalog):
    """Validation uses `read_samples`, test and prediction `read_image`: each image once, unbalanced."""
    pictures, masks = read_samples(catalog, SIZE)
    assert len(pictures) == len(masks) == len(catalog) == 10
    for position, sample in enumerate(catalog):
        picture, box = read_image(sample.image, SIZE)
        assert np.array_equal(picture, pictures[position])
        assert (box.height, box.width) == sample.read_mask().shape
        assert np.array_equal(box.apply_mask(sample.read_mask()), masks[position, ..., 0].astype(bool))


def test_a_network_input_is_the_grey_image_letterboxed(catalog):
    picture, box = read_image(catalog[4].image, SIZE)
    inner = picture[box.top : box.top + box.inner_height, box.left : box.left + box.inner_width, 0]
    grey = read_grey(catalog[4].image) / 255.0
    assert box == Letterbox(96, 120, SIZE)
    assert picture.sum() == pytest.approx(inner.sum())
    assert inner.mean() == pytest.approx(grey.mean(), abs=0.005)


def test_progress_counts_the_samples(catalog):
    seen = []
    training_dataset(catalog, config(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 10) for done in range(1, 11)]


def test_a_sample_that_cannot_be_read_is_named(phantom_folder, tmp_path):
    folder = shutil.copytree(phantom_folder, tmp_path / "busi")
    catalog = read_busi(folder)
    bad = folder / "benign" / "benign (3).png"
    bad.write_bytes(bad.read_bytes()[:900])
    with pytest.raises(DataError, match=r"benign \(3\)\.png"):
        training_dataset(catalog, config())
