"""Predictions: the same from every kind of model, on the image's own pixels, with class and mask in agreement."""

from __future__ import annotations

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from busmt.config import CLASSES
from busmt.data.catalog import Catalog
from busmt.data.images import Letterbox
from busmt.deployment.savedmodel import write_saved_model
from busmt.deployment.tflite import write_tflite
from busmt.errors import DataError, RunError
from busmt.prediction import Prediction, Predictor, load_network
from busmt.training.run import Run


@pytest.fixture(scope="module")
def models(tiny_run_folder, tmp_path_factory):
    """Paths of one network: run folder, .keras, folder of SavedModel versions, one version, .tflite."""
    folder = tmp_path_factory.mktemp("models")
    network = load_network(tiny_run_folder / "model.keras")
    write_saved_model(network, folder / "exports" / "2")
    shutil.copytree(folder / "exports" / "2", folder / "exports" / "10")
    (folder / "exports" / "3").mkdir()
    write_tflite(network, folder / "exports" / "model.tflite")
    referral = json.loads((tiny_run_folder / "calibration.json").read_text())["referral_threshold"]
    (folder / "exports" / "model.json").write_text(json.dumps({"referral_threshold": referral}))
    return {
        "run": tiny_run_folder,
        "keras": tiny_run_folder / "model.keras",
        "versions": folder / "exports",
        "savedmodel": folder / "exports" / "2",
        "tflite": folder / "exports" / "model.tflite",
    }


@pytest.fixture(scope="module")
def catalog(tiny_run_folder) -> Catalog:
    return Run.open(tiny_run_folder).part("test")


@pytest.fixture(scope="module")
def reference(models, catalog) -> list[Prediction]:
    return list(Predictor.load(models["run"]).predict_catalog(catalog))


@pytest.mark.parametrize("kind", ["keras", "versions", "savedmodel", "tflite"])
def test_every_format_predicts_the_same(models, catalog, reference, kind):
    predictor = Predictor.load(models[kind])
    assert predictor.size == 64
    predictions = list(predictor.predict_catalog(catalog, batch_size=3))
    assert [prediction.image_id for prediction in predictions] == catalog.ids
    for one, other in zip(reference, predictions, strict=True):
        assert one.label == other.label
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)
        np.testing.assert_allclose(one.probability_map, other.probability_map, atol=1e-4)
        total = one.mask.sum() + other.mask.sum()
        assert total == 0 or 2 * (one.mask & other.mask).sum() / total >= 0.999
        assert one.refer is not None
        assert one.refer == other.refer


def test_the_newest_version_is_used(models):
    assert Predictor.load(models["versions"]).path.name == "10"


def test_a_prediction_has_shapes_types_and_names(reference, catalog):
    for prediction, sample in zip(reference, catalog, strict=True):
        assert prediction.path == sample.image
        assert prediction.label in CLASSES
        assert prediction.probabilities.shape == (3,)
        assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert prediction.probability_map.shape == (64, 64)
        assert prediction.mask.dtype == bool
        assert prediction.mask.shape == sample.read_mask().shape


def test_what_came_before_refinement_is_known_for_keras_models_alone(models, catalog, reference):
    for prediction in reference:
        assert prediction.raw_probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert 0 <= prediction.raw_map_peak <= 1
    exported = next(Predictor.load(models["savedmodel"]).predict_catalog(catalog))
    assert exported.raw_probabilities is None
    assert exported.raw_map_peak is None


def test_one_file_at_a_time_is_the_same_as_a_catalog(models, catalog, reference):
    predictor = Predictor.load(models["run"])
    for expected, sample in zip(reference[:3], catalog, strict=False):
        prediction = predictor.predict_file(sample.image)
        np.testing.assert_allclose(prediction.probabilities, expected.probabilities, atol=1e-5)
        assert np.array_equal(prediction.mask, expected.mask)


def test_a_catalog_is_predicted_once_in_order_with_progress(models, catalog):
    seen = []
    predictor = Predictor.load(models["keras"])
    predictions = predictor.predict_catalog(catalog, 3, lambda done, total: seen.append((done, total)))
    assert [prediction.image_id for prediction in predictions] == catalog.ids
    assert seen[-1] == (len(catalog), len(catalog))
    assert [done for done, _ in seen] == sorted({min(done, len(catalog)) for done in range(3, len(catalog) + 3, 3)})


@pytest.mark.parametrize("kind", ["run", "tflite"])
def test_class_and_mask_agree_on_the_original_grid_for_odd_images(models, tmp_path, kind):
    """Noise, black, white, gradients, a dot, in extreme shapes."""
    generator = np.random.default_rng(1)
    y, x = np.mgrid[:97, :213]
    pictures = [
        generator.integers(0, 256, (300, 20), dtype=np.uint8),
        generator.integers(0, 256, (16, 700), dtype=np.uint8),
        np.zeros((50, 50), np.uint8),
        np.full((40, 41), 255, np.uint8),
        np.broadcast_to((x % 256).astype(np.uint8), (97, 213)),
        (255 * ((y - 48) ** 2 + (x - 100) ** 2 > 900)).astype(np.uint8),
    ]
    predictor = Predictor.load(models[kind])
    for number, pixels in enumerate(pictures):
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"{number}.png")
        prediction = predictor.predict_file(tmp_path / f"{number}.png")
        assert prediction.mask.shape == pixels.shape
        assert (prediction.label == "normal") == (not prediction.mask.any())
        assert np.isfinite(prediction.probabilities).all()


def test_the_mask_lies_where_the_map_says():
    square = np.zeros((64, 64), np.float32)
    square[28:36, 20:30] = 0.9  # inside the letterboxed area of a 100x200 image, rows 16 to 47
    box = Letterbox(100, 200, 64)
    mask = Prediction("a", "a.png", np.array([0, 1, 0]), square, box).mask
    rows, columns = np.nonzero(mask)
    assert mask.shape == (100, 200)
    np.testing.assert_allclose([rows.min(), rows.max() + 1], [12 * 100 / 32, 20 * 100 / 32], atol=2)
    np.testing.assert_allclose([columns.min(), columns.max() + 1], [20 * 200 / 64, 30 * 200 / 64], atol=2)


def test_the_referral_threshold_is_read_from_beside_the_model(models, catalog, tmp_path):
    alone = shutil.copy(models["tflite"], tmp_path / "model.tflite")
    assert next(Predictor.load(alone).predict_catalog(catalog)).refer is None
    (tmp_path / "model.json").write_text('{"referral_threshold": 0.0}')
    predictions = list(Predictor.load(alone).predict_catalog(catalog))
    assert all(prediction.refer is (prediction.label != "malignant") for prediction in predictions)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(RunError, match=r"model\.json: damaged JSON file"):
        Predictor.load(alone)


def test_a_bad_image_is_named(models, tmp_path):
    predictor = Predictor.load(models["keras"])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.png"):
        predictor.predict_file(tmp_path / "text.png")
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        predictor.predict_file(tmp_path / "none.png")


def test_paths_that_are_no_model_are_refused(models, tmp_path):
    (tmp_path / "picture.png").write_bytes(b"x")
    for path in (tmp_path / "none", tmp_path, tmp_path / "picture.png"):
        with pytest.raises(RunError, match=f"{path.name}: "):
            Predictor.load(path)
    unfinished = shutil.copytree(models["run"], tmp_path / "unfinished")
    (unfinished / "model.keras").unlink()
    with pytest.raises(RunError, match="unfinished: .*its training has not finished"):
        Predictor.load(unfinished)


def test_a_damaged_keras_file_is_refused(models, tmp_path):
    """Truncated, with other content, or with flipped bytes anywhere."""
    content, path = models["keras"].read_bytes(), tmp_path / "model.keras"
    damaged = [b"", b"text", content[: len(content) // 2], content[:-30]]
    for place in np.linspace(0, len(content) - 64, 9).astype(int):
        damaged.append(
            content[:place] + bytes(byte ^ 0xFF for byte in content[place : place + 64]) + content[place + 64 :]
        )
    for number, data in enumerate(damaged):
        path.write_bytes(data)
        try:
            load_network(path)
        except RunError as error:
            assert "model.keras: cannot be loaded as a Keras model" in str(error)  # noqa: PT017
        else:
            assert number >= 4, "a truncated file was loaded"


def test_a_keras_model_of_someone_else_is_refused(tmp_path):
    image = keras.Input((8, 8, 1))
    keras.Model(image, keras.layers.Flatten()(image)).save(tmp_path / "other.keras")
    with pytest.raises(RunError, match=r"other\.keras: a Keras model, but none that busmt made"):
        Predictor.load(tmp_path / "other.keras")


def test_a_keras_file_with_python_code_is_refused(tmp_path):
    image = keras.Input((8, 8, 1))
    keras.Model(image, keras.layers.Lambda(lambda value: value + 1)(image)).save(tmp_path / "code.keras")
    with pytest.raises(RunError, match=r"code\.keras: the layer or object keras\.layers\.Lambda is not accepted"):
        Predictor.load(tmp_path / "code.keras")


def test_a_damaged_saved_model_is_refused(models, tmp_path):
    for name, change in (
        ("saved_model.pb", lambda data: b"nothing"),
        ("saved_model.pb", lambda data: data[: len(data) // 2]),
        ("variables/variables.index", lambda data: data[:40]),
        ("variables/variables.data-00000-of-00001", lambda data: data[:1000]),
    ):
        folder = shutil.copytree(models["savedmodel"], tmp_path / "damaged")
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        with pytest.raises(RunError, match="damaged: not a SavedModel that busmt exported"):
            Predictor.load(folder)
        shutil.rmtree(folder)


def test_a_saved_model_of_someone_else_is_refused(tmp_path):
    module = tf.Module()
    module.double = tf.function(lambda value: {"twice": 2 * value}, [tf.TensorSpec((2,), name="value")])
    tf.saved_model.save(module, str(tmp_path / "one"), signatures={"double": module.double})
    tf.saved_model.save(module, str(tmp_path / "two"), signatures={"serving_default": module.double})
    for name in ("one", "two"):
        with pytest.raises(RunError, match=f"{name}: not a SavedModel that busmt exported"):
            Predictor.load(tmp_path / name)


def test_a_tflite_file_of_someone_else_or_damaged_is_refused(models, tmp_path):
    module = tf.Module()
    module.double = tf.function(lambda value: {"twice": 2 * value}, [tf.TensorSpec((2,), name="value")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.double.get_concrete_function()], module)
    foreign, content = converter.convert(), models["tflite"].read_bytes()
    for data in (foreign, b"", b"text", content[:1000], content[: len(content) // 2]):
        (tmp_path / "model.tflite").write_bytes(data)
        with pytest.raises(RunError, match=r"model\.tflite: not a TFLite file that busmt exported"):
            Predictor.load(tmp_path / "model.tflite")
