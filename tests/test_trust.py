"""Model files are checked before they are loaded: what they hold, what they run, and that nothing was changed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf

from busmt import trust
from busmt.deployment.savedmodel import write_saved_model
from busmt.deployment.tflite import write_tflite
from busmt.errors import DataError, RunError
from busmt.prediction import Predictor, load_network


@pytest.fixture(scope="module")
def exported(tiny_run_folder, tmp_path_factory):
    """A SavedModel, a .tflite file and their manifest. Do not change it; copy it."""
    folder = tmp_path_factory.mktemp("exported")
    network = load_network(tiny_run_folder / "model.keras")
    write_saved_model(network, folder / "1")
    write_tflite(network, folder / "model.tflite")
    files = [path for path in folder.rglob("*") if path.is_file()]
    hashes = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "model.json").write_text(json.dumps({"sha256": hashes}))
    return folder


@pytest.fixture
def models(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "models")


class TestManifest:
    def test_what_is_whole_is_loaded(self, models):
        assert Predictor.load(models / "1").checked
        assert Predictor.load(models / "model.tflite").checked

    @pytest.mark.parametrize("name", ["1/saved_model.pb", "1/variables/variables.index", "model.tflite"])
    def test_a_flipped_bit_is_refused_before_use(self, models, name):
        content = bytearray((models / name).read_bytes())
        content[len(content) // 2] ^= 1
        (models / name).write_bytes(bytes(content))
        with pytest.raises(RunError, match=rf"{(models / name).name}: differs from its sha256 in .*model\.json"):
            Predictor.load(models / name.partition("/")[0])

    def test_an_added_file_is_refused(self, models):
        (models / "1" / "assets" / "more.txt").parent.mkdir(exist_ok=True)
        (models / "1" / "assets" / "more.txt").write_text("x")
        with pytest.raises(RunError, match=r"more\.txt: not in .*model\.json"):
            Predictor.load(models / "1")

    def test_a_missing_file_is_refused(self, models):
        (models / "1" / "fingerprint.pb").unlink()
        with pytest.raises(RunError, match=r"fingerprint\.pb: is missing"):
            Predictor.load(models / "1")

    def test_a_link_out_of_the_folder_is_refused(self, models, tmp_path):
        index = models / "1" / "variables" / "variables.index"
        index.rename(tmp_path / "elsewhere")
        index.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(RunError, match="a link that leaves the folder"):
            Predictor.load(models / "1")

    def test_without_a_manifest_the_model_is_said_to_be_unchecked(self, models):
        (models / "model.json").unlink()
        assert not Predictor.load(models / "model.tflite").checked

    @pytest.mark.parametrize("content", ["{", "[" * 100_000])
    def test_a_damaged_manifest_is_refused(self, models, content):
        (models / "model.json").write_text(content)
        with pytest.raises(RunError, match=r"model\.json: damaged JSON"):
            Predictor.load(models / "model.tflite")


def after(operation, image):
    with tf.control_dependencies([operation]):
        return tf.identity(image)


class TestOperations:
    def signature(self, folder, function):
        module = tf.Module()
        module.serve = tf.function(function, input_signature=[tf.TensorSpec((1, 8, 8, 1), tf.float32, name="image")])
        module.weight = tf.Variable(1.0)
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
        return folder

    @pytest.mark.parametrize(
        ("name", "function"),
        [
            ("ReadFile", lambda image: {"mask": image, "label": tf.io.read_file("/etc/hostname")}),
            ("WriteFile", lambda image: {"mask": after(tf.io.write_file("never", "x"), image)}),
            ("PyFunc", lambda image: {"mask": tf.numpy_function(lambda a: a, [image], tf.float32)}),
            ("PrintV2", lambda image: {"mask": after(tf.print("x"), image)}),
        ],
    )
    def test_a_saved_model_that_touches_files_or_python_is_refused_by_name(self, tmp_path, name, function):
        with pytest.raises(RunError, match=f"the operation (Eager)?{name}.* is not accepted"):
            Predictor.load(self.signature(tmp_path / "1", function))

    def test_a_forbidden_operation_in_a_branch_is_found(self, tmp_path):
        def serve(image):
            peak = tf.reduce_max(image)
            return {"mask": tf.cond(peak > 2, lambda: tf.io.read_file("/etc/hostname"), lambda: tf.constant(""))}

        with pytest.raises(RunError, match="the operation ReadFile is not accepted"):
            trust.check_saved_model(self.signature(tmp_path / "1", serve))

    def test_what_keeps_the_variables_may_not_be_called_by_a_signature(self, tmp_path):
        from tensorflow.core.protobuf import saved_model_pb2

        folder = self.signature(tmp_path / "1", lambda image: {"mask": image})
        trust.check_saved_model(folder)
        model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        library = model.meta_graphs[0].graph_def.library.function
        restore = next(f.signature.name for f in library if "restore" in f.signature.name)
        serving = next(f for f in library if "signature_wrapper" in f.signature.name)
        node = serving.node_def.add(name="extra", op="StatefulPartitionedCall")
        node.attr["f"].func.name = restore
        (folder / "saved_model.pb").write_bytes(model.SerializeToString())
        with pytest.raises(RunError, match="calls the function .*restore.*, which reads and writes files"):
            trust.check_saved_model(folder)

    def test_a_damaged_graph_is_refused(self, tmp_path):
        (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 50)
        with pytest.raises(RunError, match=r"not a SavedModel that busmt exported"):
            Predictor.load(tmp_path)

    def test_a_tflite_file_with_a_foreign_operation_is_refused_by_name(self, tmp_path):
        function = tf.function(
            lambda image: {"mask": tf.raw_ops.Bincount(arr=tf.cast(image, tf.int32), size=4, weights=[])},
            input_signature=[tf.TensorSpec((8,), tf.float32, name="image")],
        )
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
        (tmp_path / "m.tflite").write_bytes(converter.convert())
        with pytest.raises(RunError, match=r"m\.tflite: the operation (FlexBincount|BINCOUNT) is not accepted"):
            Predictor.load(tmp_path / "m.tflite")

    @pytest.mark.parametrize("content", [b"", b"x" * 100, b"\x00\x00\x00\x10TFL3" + b"\xff" * 64])
    def test_what_is_no_tflite_file_is_refused(self, tmp_path, content):
        (tmp_path / "m.tflite").write_bytes(content)
        with pytest.raises(RunError, match=r"m\.tflite: not a TFLite file"):
            Predictor.load(tmp_path / "m.tflite")


class TestKeras:
    def changed(self, tiny_run_folder, tmp_path, **members):
        """The run's .keras file with other members."""
        with zipfile.ZipFile(tiny_run_folder / "model.keras") as archive:
            own = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
            for name, content in (own | members).items():
                archive.writestr(name, content)
        return tmp_path / "m.keras"

    def config(self, tiny_run_folder):
        with zipfile.ZipFile(tiny_run_folder / "model.keras") as archive:
            return json.loads(archive.read("config.json"))

    @pytest.mark.parametrize(
        ("module", "name", "registered"),
        [
            ("keras.layers", "Lambda", None),
            ("keras.layers", "TFSMLayer", None),
            ("keras.layers", "StringLookup", None),
            ("os", "system", None),
            ("os", "system", "busmt>system"),
            ("busmt.model.attention", "Elsewhere", "busmt>Elsewhere"),
            ("subprocess", "Popen", None),
        ],
    )
    def test_a_foreign_layer_is_refused_by_name(self, tiny_run_folder, tmp_path, module, name, registered):
        config = self.config(tiny_run_folder)
        layer = config["config"]["layers"][1]
        layer |= {"module": module, "class_name": name, "registered_name": registered}
        path = self.changed(tiny_run_folder, tmp_path, **{"config.json": json.dumps(config)})
        with pytest.raises(RunError, match=rf"the layer or object {module}\.{name} is not accepted"):
            load_network(path)

    def test_weights_in_another_file_are_refused(self, tiny_run_folder, tmp_path):
        (tmp_path / "secret.h5").write_bytes(b"x")
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file["layers"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/")
        with pytest.raises(RunError, match=r"its weights are a link to something else"):
            load_network(self.changed(tiny_run_folder, tmp_path, **{"model.weights.h5": buffer.getvalue()}))
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file.create_dataset("w", (4,), "f4", external=[(str(tmp_path / "secret.h5"), 0, 16)])
        with pytest.raises(RunError, match=r"its weights lie in another file"):
            load_network(self.changed(tiny_run_folder, tmp_path, **{"model.weights.h5": buffer.getvalue()}))

    def test_members_that_leave_the_archive_are_refused(self, tiny_run_folder, tmp_path):
        path = self.changed(tiny_run_folder, tmp_path, **{"../../escape.txt": b"x"})
        with pytest.raises(RunError, match="not a Keras model of busmt"):
            load_network(path)
        assert not (tmp_path.parent.parent / "escape.txt").exists()

    def test_a_file_that_unpacks_to_too_much_is_refused(self, tiny_run_folder, tmp_path, monkeypatch):
        monkeypatch.setattr(trust, "_MAX_JSON_BYTES", 100)
        with pytest.raises(RunError, match="unpacks to more than any model"):
            load_network(tiny_run_folder / "model.keras")

    def test_damaged_files_are_refused_in_one_line(self, tiny_run_folder, tmp_path):
        content, generator = (tiny_run_folder / "model.keras").read_bytes(), np.random.default_rng(0)
        for number in range(40):
            broken = bytearray(content)
            for place in generator.integers(0, len(content), 40):
                broken[place] = generator.integers(256)
            path = tmp_path / f"{number}.keras"
            path.write_bytes(bytes(broken[: None if number % 2 else len(broken) // 2]))
            with contextlib.suppress(RunError):  # any other error fails
                load_network(path)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (np.full((1, 64, 64, 1), np.nan, np.float32), r"must be in \[0, 1\]"),
        (np.full((1, 64, 64, 1), np.inf, np.float32), r"must be in \[0, 1\]"),
        (np.full((1, 64, 64, 1), 255, np.float32), r"must be in \[0, 1\]"),
        (np.zeros((1, 64, 64, 1), np.float64), "must be a float32 array, got float64"),
        (np.zeros((1, 64, 64, 3), np.float32), "must have the shape"),
        (np.zeros((64, 64, 1), np.float32), "must have the shape"),
        (np.zeros((0, 64, 64, 1), np.float32), "must have the shape"),
        ([[0.0]], "must be a float32 array, got list"),
    ],
)
def test_arrays_that_no_image_gives_are_refused(tiny_run_folder, pictures, message):
    with pytest.raises(DataError, match=message):
        trust.check_pictures(pictures, 64)
