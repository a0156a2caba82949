"""Exports: what is written says the same as Keras, anywhere; what does not is not written."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from busmt.data.pipeline import read_image
from busmt.deployment import export as export_module
from busmt.deployment.export import export_run, parity_images
from busmt.deployment.parity import Parity, compare, require
from busmt.errors import ExportError, RunError
from busmt.prediction import Predictor, load_network
from busmt.training.run import Run
from busmt.trust import TFLITE_OPS, tflite_operations


@pytest.fixture(scope="module")
def run(tiny_run_folder) -> Run:
    return Run.open(tiny_run_folder)


@pytest.fixture(scope="module")
def export(tiny_export):
    return tiny_export


@pytest.fixture(scope="module")
def odd_images(tmp_path_factory):
    """Images of odd sizes and kinds, with the bytes of their files."""
    folder, generator, files = tmp_path_factory.mktemp("odd"), np.random.default_rng(0), []
    for number, (height, width) in enumerate([(16, 16), (33, 471), (301, 17), (64, 64), (127, 255), (500, 499)]):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels if number % 2 else pixels[..., 0])
        path = folder / f"{number}.{'jpg' if number in (1, 4) else 'png'}"
        picture.save(path)
        files.append(path)
    return files


def test_the_folder_holds_exactly_what_is_promised(export):
    small = {f"tflite-{name}": f"model-{name}.tflite" for name in ("float16", "int8-dynamic", "int8")}
    assert {"1", "serving", "model.tflite", "golden", "model.json", "parity.json", "labels.txt", *small.values()} == {
        entry.name for entry in export.folder.iterdir()
    }
    assert export.files == {
        "savedmodel": export.folder / "1", "tflite": export.folder / "model.tflite",
        **{name: export.folder / file for name, file in small.items()},
    }  # fmt: skip
    assert (export.folder / "labels.txt").read_text().split() == ["normal", "benign", "malignant"]


def test_each_format_was_compared_with_keras_on_the_test_images(run, export):
    stored = json.loads((export.folder / "parity.json").read_text())
    assert [result["format"] for result in stored["results"]] == [
        "savedmodel serving_default", "savedmodel serving_bytes", "tflite float32",
    ]  # fmt: skip
    for result in stored["results"]:
        assert result["passed"] is True
        assert result["images"] == result["same_label"] == len(run.part("test"))
        assert result["min_mask_dice"] >= 0.999
        assert max(result["max_mask_difference"], result["max_label_difference"]) <= 1e-4
        assert result["contradictions"] == 0
    assert stored["images"] == export.source == "test images"


def test_the_card_says_how_to_use_the_model_and_its_checksums_are_right(run, export):
    card = json.loads((export.folder / "model.json").read_text())
    assert card["classes"] == ["normal", "benign", "malignant"]
    assert card["input"]["size"] == 64
    assert card["mask_threshold"] == 0.5
    assert card["referral_threshold"] == run.calibration()["referral_threshold"]
    assert card["data_fingerprint"] == run.environment()["data"]["fingerprint"]
    files = {path.relative_to(export.folder).as_posix(): path for path in (export.folder / "1").rglob("*")}
    files = {name: path for name, path in files.items() if path.is_file()}
    files |= {path.name: path for path in export.folder.glob("*.tflite")}
    files |= {f"golden/{path.name}": path for path in (export.folder / "golden").iterdir()}
    assert set(card["sha256"]) == set(files)
    for name, path in files.items():
        assert card["sha256"][name] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_tablet_file_uses_built_in_operations_with_a_static_batch(export):
    from ai_edge_litert.interpreter import Interpreter

    for path in sorted(export.folder.glob("*.tflite")):
        names = tflite_operations(path.read_bytes())
        assert "CONV_2D" in names
        assert not [name for name in names if name.startswith(("Flex", "CUSTOM"))]
        assert names <= TFLITE_OPS  # a custom operation goes by a name of its own
        runner = Interpreter(model_path=str(path)).get_signature_runner("serving_default")
        image = runner.get_input_details()["image"]
        assert (image["shape"].tolist(), image["dtype"]) == ([1, 64, 64, 1], np.float32)
        answers = runner.get_output_details()
        assert {name: detail["shape"].tolist() for name, detail in answers.items()} == {
            "mask": [1, 64, 64, 1],
            "label": [1, 3],
        }
        assert {detail["dtype"] for detail in answers.values()} == {np.float32}


def test_the_saved_model_runs_in_a_process_without_busmt(export, odd_images, tmp_path, python):
    """Importing busmt fails there."""
    encoded = [path.read_bytes() for path in odd_images]
    for number, data in enumerate(encoded):
        (tmp_path / f"{number:02d}").write_bytes(data)
    pictures = np.stack([read_image(str(path), 64)[0] for path in odd_images])
    np.save(tmp_path / "pictures.npy", pictures)
    code = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "busmt":
            raise ImportError(name + " must not be needed")

sys.meta_path.insert(0, Block())
import pathlib
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
folder = pathlib.Path(sys.argv[2])
assert sorted(model.signatures) == ["serving_bytes", "serving_default"]
default = model.signatures["serving_default"](image=tf.constant(np.load(folder / "pictures.npy")))
encoded = [path.read_bytes() for path in sorted(folder.glob("[0-9]*"))]
from_bytes = model.signatures["serving_bytes"](encoded=tf.constant(encoded))
np.savez(folder / "default.npz", **{name: value.numpy() for name, value in default.items()})
np.savez(folder / "bytes.npz", **{name: value.numpy() for name, value in from_bytes.items()})
assert "busmt" not in sys.modules
"""
    python(code, export.folder / "1", tmp_path)
    expected = Predictor.load(export.folder / "1").predict_arrays(pictures)
    default, from_bytes = np.load(tmp_path / "default.npz"), np.load(tmp_path / "bytes.npz")
    assert set(default.files) >= {"mask", "label"}
    assert set(from_bytes.files) >= {"mask", "label", "size", "box"}
    for name in ("mask", "label"):
        np.testing.assert_allclose(default[name], expected[name], atol=1e-5)
        np.testing.assert_allclose(from_bytes[name], expected[name], atol=1e-4)


def test_each_weight_is_saved_once(run, export):
    checkpoint = tf.train.load_checkpoint(str(export.files["savedmodel"] / "variables" / "variables"))
    shapes = [
        shape for name, shape in checkpoint.get_variable_to_shape_map().items() if name.endswith("VARIABLE_VALUE")
    ]
    assert sum(int(np.prod(shape)) for shape in shapes) == load_network(run.model_path).count_params()


def test_encoded_images_of_any_size_are_prepared_as_in_training(run, export, odd_images):
    serve = tf.saved_model.load(str(export.folder / "1")).signatures["serving_bytes"]
    reference = Predictor.load(run.path)
    for path in odd_images:
        outputs = {name: value.numpy() for name, value in serve(encoded=tf.constant([path.read_bytes()])).items()}
        picture, box = read_image(str(path), 64)
        own = reference.predict_arrays(picture[None])
        np.testing.assert_allclose(outputs["mask"], own["mask"], atol=1e-4)
        np.testing.assert_allclose(outputs["label"], own["label"], atol=1e-4)
        assert outputs["size"].tolist() == [[box.height, box.width]]
        assert outputs["box"].tolist() == [[box.top, box.left, box.inner_height, box.inner_width]]


def test_bytes_that_are_no_image_get_a_status_from_the_signature(export):
    serve = tf.saved_model.load(str(export.folder / "1")).signatures["serving_bytes"]
    buffer = io.BytesIO()
    Image.new("L", (40, 40)).save(buffer, format="PNG")
    for data in (b"", b"text", buffer.getvalue()[:60]):
        outputs = serve(encoded=tf.constant([data]))
        assert outputs["status"].numpy() > 0
        assert outputs["class_id"].numpy() == -1


def test_versions_count_up_and_old_ones_stay(run, export, tmp_path):
    folder = tmp_path / "exports"
    shutil.copytree(export.folder / "1", folder / "7")
    again = export_run(run, folder, formats=("savedmodel",))
    assert again.files == {"savedmodel": folder / "8"}
    assert (folder / "7" / "saved_model.pb").is_file()
    assert not (folder / "model.tflite").exists()
    card = json.loads((folder / "model.json").read_text())
    assert all(name.startswith("8/") for name in card["sha256"])
    assert Predictor.load(folder).path == folder / "8"


def shifted(write):
    """The format's writer, and a network whose class head has moved since."""

    def wrapped(network, draft, reference, inputs, encoded, run):
        bias = network.get_layer("label_logits").bias
        own = np.asarray(bias)
        bias.assign(own + np.array([0.0, 0.02, 0.0]))
        try:
            return write(network, draft, lambda image: expected(reference, image, bias, own), inputs, encoded, run)
        finally:
            bias.assign(own)

    def expected(reference, image, bias, own):
        moved = np.asarray(bias)
        bias.assign(own)
        try:
            return reference(image)
        finally:
            bias.assign(moved)

    return wrapped


@pytest.mark.parametrize("name", ["savedmodel", pytest.param("tflite", marks=pytest.mark.slow)])
def test_a_format_that_disagrees_with_keras_fails_and_nothing_is_written(run, tmp_path, monkeypatch, name):
    monkeypatch.setitem(export_module._WRITERS, name, shifted(export_module._WRITERS[name]))
    with pytest.raises(ExportError, match=f"{name}.* disagrees with the Keras model .* nothing was written"):
        export_run(run, tmp_path / "new" / "exports", formats=(name,))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_earlier_ones_alone(run, export, tmp_path, monkeypatch):
    folder = shutil.copytree(export.folder, tmp_path / "exports")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setitem(export_module._WRITERS, "tflite", shifted(export_module._WRITERS["tflite"]))
    with pytest.raises(ExportError, match="tflite float32 disagrees"):
        export_run(run, folder, formats=("tflite",))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_damaged_records_of_the_run_leave_nothing_behind(run, tmp_path):
    copy = Run.open(shutil.copytree(run.path, tmp_path / "run"))
    (copy.path / "calibration.json").write_text("{")
    with pytest.raises(RunError, match=r"calibration\.json: damaged JSON file"):
        export_run(copy, tmp_path / "exports", formats=("tflite",))
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_phantoms_stand_in_for_images_that_have_moved(run, tmp_path):
    copy = Run.open(shutil.copytree(run.path, tmp_path / "run"))
    catalog = (copy.path / "catalog.csv").read_text().replace("phantoms", "moved")
    (copy.path / "catalog.csv").write_text(catalog)
    inputs, encoded, source = parity_images(copy, count=6)
    assert len(inputs) == 6
    assert encoded == [None] * 6
    assert source.startswith("phantoms, because the run's images cannot be read")
    assert all(image.shape == (64, 64, 1) and 0 <= image.min() < image.max() <= 1 for image in inputs)


def test_unknown_formats_unfinished_runs_and_bad_folders_are_refused(run, tmp_path):
    with pytest.raises(ExportError, match="unknown format 'onnx'; choose from savedmodel, tflite"):
        export_run(run, tmp_path, formats=("onnx",))
    copy = shutil.copytree(run.path, tmp_path / "run")
    (copy / "model.keras").unlink()
    with pytest.raises(RunError, match="training has not finished"):
        export_run(Run.open(copy), tmp_path / "exports")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match="file: cannot be written"):
        export_run(run, tmp_path / "file", formats=("tflite",))
    assert not (tmp_path / "exports").exists()


def answers(mask, label):
    return lambda image: {
        "mask": np.array(mask, np.float32).reshape(1, 2, 2, 1),
        "label": np.array([label], np.float32),
    }


GOOD = answers([0.9, 0.8, 0.1, 0.2], [0.1, 0.7, 0.2])
IMAGE = [np.zeros((2, 2, 1), np.float32)]


def test_parity_of_equals():
    assert compare("x", GOOD, GOOD, IMAGE * 3) == Parity("x", 3, 3, 1.0, 0.0, 0.0, 0)
    empty = answers([0.1] * 4, [0.8, 0.1, 0.1])
    assert compare("x", empty, empty, IMAGE).passed


def test_a_network_without_refinement_may_contradict_itself_and_its_export_with_it():
    odd = answers([0.9, 0.8, 0.1, 0.2], [0.8, 0.1, 0.1])
    assert compare("x", odd, odd, IMAGE).passed
    assert compare("x", GOOD, odd, IMAGE).contradictions == 1


@pytest.mark.parametrize(
    ("candidate", "field", "value"),
    [
        (answers([0.9, 0.8, 0.1, 0.2], [0.1, 0.2, 0.7]), "same_label", 0),
        (answers([0.9, 0.4, 0.1, 0.2], [0.1, 0.7, 0.2]), "min_mask_dice", 2 / 3),
        (answers([0.9, 0.8, 0.1, 0.3], [0.1, 0.7, 0.2]), "max_mask_difference", 0.1),
        (answers([0.9, 0.8, 0.1, 0.2], [0.1, 0.6, 0.3]), "max_label_difference", 0.1),
        (answers([0.4, 0.4, 0.1, 0.2], [0.1, 0.7, 0.2]), "contradictions", 1),
        (answers([np.nan] * 4, [0.1, 0.7, 0.2]), "max_mask_difference", np.nan),
        (answers([0.9, 0.8, 0.1, 0.2], [np.nan, 0.7, 0.2]), "max_label_difference", np.nan),
    ],
)
def test_each_kind_of_disagreement_is_found(candidate, field, value):
    parity = compare("x", GOOD, candidate, [IMAGE[0], IMAGE[0]] if field != "contradictions" else IMAGE)
    assert getattr(parity, field) == pytest.approx(value, abs=1e-6, nan_ok=True)
    assert not parity.passed
    with pytest.raises(ExportError, match="x disagrees with the Keras model"):
        require(parity)


def test_one_nan_among_good_images_is_not_overlooked():
    """max() keeps whichever of a number and NaN came first."""
    normal = answers([0.1] * 4, [0.8, 0.1, 0.1])
    queue = iter([normal, answers([np.nan] * 4, [np.nan] * 3), normal])
    parity = compare("x", normal, lambda image: next(queue)(image), IMAGE * 3)
    assert not parity.passed
    assert not dataclasses.replace(parity, same_label=3).passed
