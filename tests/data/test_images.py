"""Decoding, letterbox geometry and its inverse, masks in every encoding, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from busmt.data import images
from busmt.data.images import Letterbox
from busmt.errors import DataError


def picture(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def saved(tmp_path, image: Image.Image, name: str = "image (1).png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def decoded(path) -> np.ndarray:
    return images.decode_tensor(tf.constant(images.read_encoded(path))).numpy()[..., 0]


class TestDecoding:
    def test_grey_png_is_exact(self, tmp_path):
        pixels = picture()
        np.testing.assert_allclose(decoded(saved(tmp_path, Image.fromarray(pixels))) * 255, pixels, atol=1e-4)

    @pytest.mark.parametrize("name", ["x.bmp", "x.tif", "x.png"])
    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_lossless_formats_agree(self, tmp_path, name, mode):
        pixels = picture()
        path = saved(tmp_path, Image.fromarray(pixels).convert(mode), name)
        assert np.abs(decoded(path) * 255 - pixels).max() <= 1.001

    def test_cmyk_jpeg_is_read_as_it_looks(self, tmp_path):
        image = Image.fromarray(np.full((40, 60), 90, np.uint8)).convert("RGB").convert("CMYK")
        assert decoded(saved(tmp_path, image, "x.jpg", quality=95)).mean() * 255 == pytest.approx(90, abs=6)

    def test_transparent_pixels_are_black(self, tmp_path):
        layers = np.full((40, 60, 4), 255, np.uint8)
        layers[:, :30, 3] = 0
        grey = decoded(saved(tmp_path, Image.fromarray(layers)))
        assert grey[:, :30].max() == 0
        assert grey[:, 30:].min() == 1

    def test_palette_png(self, tmp_path):
        pixels = (picture() > 127).astype(np.uint8) * 200
        path = saved(tmp_path, Image.fromarray(pixels).convert("P"))
        assert np.abs(decoded(path) * 255 - pixels).max() <= 1.001


class TestRefusals:
    """One line that names the file."""

    def refused(self, path, words: str) -> None:
        for reader in (images.read_encoded, images.read_grey, images.read_colour):
            with pytest.raises(DataError, match=words) as caught:
                reader(path)
            assert path.name in str(caught.value)
            assert "\n" not in str(caught.value)

    def test_missing(self, tmp_path):
        self.refused(tmp_path / "absent (2).png", "no such file")

    def test_folder(self, tmp_path):
        self.refused(tmp_path, "cannot be read")

    def test_empty_file(self, tmp_path):
        (tmp_path / "e.png").write_bytes(b"")
        self.refused(tmp_path / "e.png", "not a PNG")

    def test_text_named_png(self, tmp_path):
        (tmp_path / "t.png").write_text("hello")
        self.refused(tmp_path / "t.png", "not a PNG")

    @pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.bmp"])
    def test_truncated(self, tmp_path, name):
        path = saved(tmp_path, Image.fromarray(picture(200, 300)), name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self.refused(path, "damaged or truncated|not a PNG")

    def test_sixteen_bit(self, tmp_path):
        self.refused(saved(tmp_path, Image.fromarray(picture().astype(np.uint16) * 200)), "8 bits")

    def test_one_pixel(self, tmp_path):
        self.refused(saved(tmp_path, Image.new("L", (1, 1))), "1x1")

    def test_animation(self, tmp_path):
        frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
        self.refused(saved(tmp_path, frames[0], save_all=True, append_images=frames[1:]), "frames")

    def test_too_many_pixels(self, tmp_path, monkeypatch):
        monkeypatch.setattr(images, "MAX_PIXELS", 1000)
        self.refused(saved(tmp_path, Image.fromarray(picture())), "60x40")

    @given(st.integers(8, 2000), st.integers(1, 255))
    @settings(max_examples=60, deadline=None)
    def test_flipped_bytes_never_escape_as_another_error(self, place, change):
        buffer = io.BytesIO()
        Image.fromarray(picture(64, 64)).save(buffer, format="PNG")
        data = bytearray(buffer.getvalue())
        data[place % len(data)] ^= change
        import tempfile

        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            file.write(data)
            file.flush()
            try:
                encoded = images.read_encoded(file.name)
            except DataError:
                return
            images.decode_tensor(tf.constant(encoded))  # what is let through can be decoded


class TestMasks:
    SHAPE = (40, 60)

    @pytest.fixture
    def truth(self) -> np.ndarray:
        mask = np.zeros(self.SHAPE, bool)
        mask[10:30, 15:40] = True
        return mask

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
    def test_every_mode_reads_alike(self, tmp_path, truth, mode):
        image = Image.fromarray(truth.astype(np.uint8) * 255)
        path = saved(tmp_path, image.convert("1") if mode == "1" else image.convert("RGB").convert(mode))
        np.testing.assert_array_equal(images.read_mask([path], self.SHAPE), truth)

    def test_values_of_zero_and_one(self, tmp_path, truth):
        path = saved(tmp_path, Image.fromarray(truth.astype(np.uint8)))
        np.testing.assert_array_equal(images.read_mask([path]), truth)

    def test_lesion_as_opacity(self, tmp_path, truth):
        layers = np.full((*self.SHAPE, 4), 255, np.uint8)
        layers[..., 3] = truth * 255
        np.testing.assert_array_equal(images.read_mask([saved(tmp_path, Image.fromarray(layers))]), truth)

    def test_several_are_united(self, tmp_path, truth):
        other = np.zeros_like(truth)
        other[0:5, 0:5] = True
        paths = [
            saved(tmp_path, Image.fromarray(m.astype(np.uint8) * 255), f"m{i}.png")
            for i, m in enumerate((truth, other))
        ]
        np.testing.assert_array_equal(images.read_mask(paths, self.SHAPE), truth | other)

    def test_none_is_empty(self):
        assert not images.read_mask([], self.SHAPE).any()

    def test_black_is_empty(self, tmp_path):
        assert not images.read_mask([saved(tmp_path, Image.new("L", (60, 40)))]).any()

    def test_other_size_is_refused(self, tmp_path):
        path = saved(tmp_path, Image.new("L", (50, 40)), "m.png")
        with pytest.raises(DataError, match=r"m\.png.*50x40.*60x40"):
            images.read_mask([path], self.SHAPE)


sides = st.integers(16, 1200)


def blob(size: int, seed: int, inside: tuple[int, int, int, int]) -> np.ndarray:
    """A smooth lesion on the model's grid, within top, left, height, width."""
    rng = np.random.default_rng(seed)
    top, left, height, width = inside
    y, x = np.mgrid[:size, :size]
    centre_y, centre_x = top + height * rng.uniform(0.3, 0.7), left + width * rng.uniform(0.3, 0.7)
    a, b = height * rng.uniform(0.12, 0.3), width * rng.uniform(0.12, 0.3)
    return ((y - centre_y) / a) ** 2 + ((x - centre_x) / b) ** 2 <= 1


class TestLetterbox:
    @given(sides, sides, st.sampled_from([64, 128, 160, 256]))
    @settings(max_examples=100, deadline=None)
    def test_aspect_is_kept_and_the_image_lies_inside(self, height, width, size):
        box = Letterbox(height, width, size)
        assert max(box.inner_height, box.inner_width) == size
        exact = min(height, width) * size / max(height, width)
        assert abs(min(box.inner_height, box.inner_width) - max(exact, 1)) <= 0.5
        assert 0 <= box.top <= size - box.inner_height
        assert 0 <= box.left <= size - box.inner_width

    @given(st.integers(128, 1100), st.integers(128, 1100), st.integers(0, 10**6))
    @settings(max_examples=60, deadline=None)
    def test_mask_survives_the_round_trip(self, height, width, seed):
        size = 128
        box = Letterbox(height, width, size)
        mask = blob(size, seed, (box.top, box.left, box.inner_height, box.inner_width))
        if mask.sum() < 200:
            return
        back = box.apply_mask(box.restore_mask(mask.astype(np.float32), 0.5))
        assert 2 * (mask & back).sum() / (mask.sum() + back.sum()) >= 0.99

    @given(sides, sides, st.integers(0, 10**6), st.floats(0.0, 1.0))
    @settings(max_examples=80, deadline=None)
    def test_restored_mask_is_empty_only_if_the_map_is(self, height, width, seed, peak):
        size = 64
        probabilities = np.random.default_rng(seed).random((size, size)).astype(np.float32) ** 8 * np.float32(peak)
        mask = Letterbox(height, width, size).restore_mask(probabilities, 0.5)
        assert mask.shape == (height, width)
        assert mask.any() == bool((probabilities > 0.5).any())

    @given(sides, sides, st.integers(0, 10**6))
    @settings(max_examples=50, deadline=None)
    def test_no_lesion_is_lost_on_the_way_in(self, height, width, seed):
        rng = np.random.default_rng(seed)
        mask = np.zeros((height, width), bool)
        mask[rng.integers(height), rng.integers(width)] = True
        assert Letterbox(height, width, 64).apply_mask(mask).any()

    @pytest.mark.parametrize("height, width", [(300, 400), (400, 300), (97, 613), (128, 128), (50, 40), (1000, 20)])
    def test_graph_agrees_with_numpy_geometry_and_pillow(self, height, width):
        pixels, size = picture(height, width), 128
        square, place = images.letterbox_tensor(tf.constant(pixels[..., None] / np.float32(255)), size)
        box = Letterbox(height, width, size)
        assert place.numpy().tolist() == [box.top, box.left, box.inner_height, box.inner_width]
        expected = np.zeros((size, size), np.float32)
        resized = Image.fromarray(pixels.astype(np.float32)).resize(
            (box.inner_width, box.inner_height), Image.Resampling.BILINEAR
        )
        rows, columns = slice(box.top, box.top + box.inner_height), slice(box.left, box.left + box.inner_width)
        expected[rows, columns] = np.asarray(resized) / 255
        np.testing.assert_allclose(square.numpy()[..., 0], expected, atol=1e-4)


def test_atomic_write_leaves_no_draft_behind(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder: cannot be written"):
        images.write_atomically(tmp_path / "folder", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    images.write_atomically(tmp_path / "file", b"one")
    images.write_atomically(tmp_path / "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"two"
