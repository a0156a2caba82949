"""The reader of legacy torch files, on files written here by hand and on the installed weights."""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import io
import pickle
import struct

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busmt.errors import DataError
from busmt.model import pretrained
from busmt.model.encoders import efficientnet_lite0
from busmt.model.pretrained import read_legacy_torch

_PICKLED = {
    "rebuild": ("torch._utils", "_rebuild_tensor_v2"),
    "FloatStorage": ("torch", "FloatStorage"),
    "LongStorage": ("torch", "LongStorage"),
    "DoubleStorage": ("torch", "DoubleStorage"),
    "system": ("os", "system"),
}


class _Name:
    """Stands for a class or function that is pickled by its name."""

    def __init__(self, name):
        self.name = name

    def __call__(self, *arguments):
        raise AssertionError("only its name is pickled")


class _Tensor:
    def __init__(self, kind, key, count, offset, shape, strides, function="rebuild"):
        self.storage, self.rest, self.function = (kind, key, count), (offset, shape, strides), function

    def __reduce__(self):
        return _Name(self.function), (_Storage(*self.storage), *self.rest, False, collections.OrderedDict())


class _Storage:
    def __init__(self, kind, key, count):
        self.pid = ("storage", _Name(kind), key, "cpu", count, None)


class _Pickler(pickle._Pickler):
    """The pure Python pickler, so that names can be written which cannot be imported here."""

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, _Storage) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, _Name):
            module, name = _PICKLED[obj.name]
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        else:
            super().save(obj, save_persistent_id)


def torch_file(tensors, storages, system=None, magic=pretrained._MAGIC) -> bytes:
    """A legacy torch archive: magic, version, system, state dict, storage keys, raw storages."""
    file = io.BytesIO()
    system = {"little_endian": True, "protocol_version": 1001} if system is None else system
    for part in (magic, 1001, system, collections.OrderedDict(tensors), list(storages)):
        _Pickler(file, protocol=2).dump(part)
    for values in storages.values():
        file.write(struct.pack("<q", len(values)) + values.tobytes())
    return file.getvalue()


FLOATS = np.arange(24, dtype="<f4") / 7
LONGS = np.array([5, -3, 10**12], "<i8")
TENSORS = {
    "plain": _Tensor("FloatStorage", "0", 24, 0, (4, 6), (6, 1)),
    "transposed": _Tensor("FloatStorage", "0", 24, 0, (6, 4), (1, 6)),
    "view": _Tensor("FloatStorage", "0", 24, 5, (2, 3), (9, 2)),
    "permuted": _Tensor("FloatStorage", "0", 24, 0, (2, 3, 4), (1, 8, 2)),
    "scalar": _Tensor("LongStorage", "1", 3, 2, (), ()),
    "counts": _Tensor("LongStorage", "1", 3, 0, (3,), (1,)),
}
SOUND = torch_file(TENSORS, {"0": FLOATS, "1": LONGS})


@pytest.fixture
def write(tmp_path):
    def write(content: bytes):
        (tmp_path / "weights.pth").write_bytes(content)
        return tmp_path / "weights.pth"

    return write


def test_offsets_and_strides_are_honoured(write):
    read = read_legacy_torch(write(SOUND))
    assert list(read) == list(TENSORS)
    assert np.array_equal(read["plain"], FLOATS.reshape(4, 6))
    assert np.array_equal(read["transposed"], FLOATS.reshape(4, 6).T)
    assert np.array_equal(read["view"], [[FLOATS[5 + 9 * row + 2 * column] for column in range(3)] for row in range(2)])
    assert np.array_equal(read["permuted"], FLOATS.reshape(3, 4, 2).transpose(2, 0, 1))
    assert read["scalar"] == 10**12
    assert read["scalar"].shape == ()
    assert read["counts"].tolist() == LONGS.tolist()
    assert read["plain"].dtype == np.float32
    assert read["counts"].dtype == np.int64


def test_what_was_read_does_not_hang_on_the_file(write):
    read = read_legacy_torch(write(SOUND))
    read["plain"][0, 0] = 99
    assert read["transposed"][0, 0] == FLOATS[0]


@pytest.mark.parametrize(
    ("tensor", "name"),
    [
        (_Tensor("FloatStorage", "0", 24, 0, (2,), (1,), function="system"), "os.system"),
        (_Tensor("DoubleStorage", "0", 24, 0, (2,), (1,)), "torch.DoubleStorage"),
    ],
)
def test_a_name_that_is_not_allowed_is_refused(write, tensor, name):
    with pytest.raises(DataError, match=rf"weights\.pth: .*the name {name} is not allowed"):
        read_legacy_torch(write(torch_file({"a": tensor}, {"0": FLOATS})))


@pytest.mark.parametrize(
    "tensor",
    [
        _Tensor("FloatStorage", "0", 24, 20, (5,), (1,)),
        _Tensor("FloatStorage", "0", 24, 0, (4, 6), (7, 1)),
        _Tensor("FloatStorage", "0", 24, -1, (2,), (1,)),
        _Tensor("FloatStorage", "0", 24, 10, (2,), (-1,)),
        _Tensor("FloatStorage", "0", 23, 0, (2,), (1,)),
        _Tensor("FloatStorage", "0", 24, 0, (2, 2), (1,)),
    ],
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(write, tensor):
    with pytest.raises(DataError, match=r"weights\.pth: damaged weight file"):
        read_legacy_torch(write(torch_file({"a": tensor}, {"0": FLOATS})))


def test_other_files_are_refused(write, tmp_path):
    for content in (b"", b"PK\x03\x04 a zip", torch_file(TENSORS, {"0": FLOATS, "1": LONGS}, magic=7)):
        with pytest.raises(DataError, match=r"weights\.pth"):
            read_legacy_torch(write(content))
    with pytest.raises(DataError, match="big-endian"):
        read_legacy_torch(write(torch_file(TENSORS, {"0": FLOATS, "1": LONGS}, system={"little_endian": False})))
    with pytest.raises(DataError, match=r"none\.pth"):
        read_legacy_torch(tmp_path / "none.pth")


def test_a_file_truncated_anywhere_is_refused(write):
    for length in range(len(SOUND)):
        with pytest.raises(DataError, match=r"weights\.pth"):
            read_legacy_torch(write(SOUND[:length]))


@given(place=st.integers(0, len(SOUND) - 200), value=st.integers(0, 255))
@settings(max_examples=600, deadline=None)
def test_a_damaged_header_gives_a_data_error_or_sound_arrays(tmp_path_factory, place, value):
    content = bytearray(SOUND)
    content[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(bytes(content))
    with contextlib.suppress(DataError):  # any other error fails
        assert all(isinstance(array, np.ndarray) for array in read_legacy_torch(path).values())


def test_without_the_package_there_is_no_path(monkeypatch):
    monkeypatch.setattr(pretrained, "PACKAGE", "no_such_package_installed")
    assert pretrained.weights_path() is None


@pytest.fixture(scope="module")
def imagenet():
    """EfficientNet-Lite0 with its classifier, and the reader's tensors."""
    path = pretrained.weights_path()
    if path is None:
        pytest.skip(f"the ImageNet weights are not installed: {pretrained.EXTRA}")
    weights = read_legacy_torch(path)
    image = keras.Input((224, 224, 3))
    features = efficientnet_lite0(image, weights)[-1]
    head = keras.layers.Conv2D(1280, 1, use_bias=False)
    norm, dense = keras.layers.BatchNormalization(epsilon=1e-3), keras.layers.Dense(1000)
    tensor = keras.layers.ReLU(6.0)(norm(head(features)))
    model = keras.Model(image, dense(keras.layers.GlobalAveragePooling2D()(tensor)))
    head.set_weights([weights["_conv_head.weight"].transpose(2, 3, 1, 0)])
    norm.set_weights([weights[f"_bn1.{part}"] for part in ("weight", "bias", "running_mean", "running_var")])
    dense.set_weights([weights["_fc.weight"].T, weights["_fc.bias"]])
    return model, weights


@pytest.mark.parametrize(("picture", "expected"), [("chelsea", 285), ("coffee", 967)])
def test_imagenet_classes_prove_a_correct_load(imagenet, picture, expected):
    """Egyptian cat and espresso, top-1 of 1000."""
    skimage_data = pytest.importorskip("skimage.data")
    pixels = getattr(skimage_data, picture)()
    side = min(pixels.shape[:2])
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    square = pixels[top : top + side, left : left + side].astype(np.float32) / 255
    image = keras.ops.image.resize(square[None], (224, 224), antialias=True)
    assert int(np.argmax(imagenet[0](image)[0])) == expected


def test_grey_input_equals_the_grey_image_repeated_three_times(imagenet):
    grey = np.random.default_rng(0).random((1, 64, 64, 1)).astype(np.float32)
    outputs = []
    for channels in (1, 3):
        image = keras.Input((64, 64, channels))
        model = keras.Model(image, efficientnet_lite0(image, imagenet[1]))
        outputs.append(model(np.repeat(grey, channels, axis=-1), training=False))
    for one, three in zip(*outputs, strict=True):
        np.testing.assert_allclose(one, three, atol=2e-3)


def test_the_package_is_found_by_its_name():
    assert (importlib.util.find_spec(pretrained.PACKAGE) is None) == (pretrained.weights_path() is None)
