"""A damaged, incomplete or suspicious SavedModel is refused before it is loaded."""

from __future__ import annotations

import json
import shutil

import pytest
import tensorflow as tf

from busmt.deployment.integrity import MANIFEST, check_version, write_manifest
from busmt.errors import ExportError


@pytest.fixture
def version(served_export, tmp_path):
    return shutil.copytree(served_export / "1", tmp_path / "1")


def test_an_export_is_accepted_and_names_all_its_files(version):
    check_version(version)
    names = set(json.loads((version / MANIFEST).read_text())["sha256"])
    files = {path.relative_to(version).as_posix() for path in version.rglob("*") if path.is_file()}
    assert names == files - {MANIFEST}


def test_each_kind_of_damage_is_named(version):
    weights = next((version / "variables").glob("*.data*"))
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ExportError, match=rf"{weights.name} has changed"):
        check_version(version)
    weights.unlink()
    with pytest.raises(ExportError, match=rf"{weights.name} is missing"):
        check_version(version)
    weights.write_bytes(good)
    (version / "assets" / "extra.bin").write_bytes(b"x")
    with pytest.raises(ExportError, match=r"assets/extra\.bin does not belong there"):
        check_version(version)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sha256": 3}', '{"other": {}}'])
def test_a_damaged_manifest_is_refused(version, text):
    (version / MANIFEST).write_text(text)
    with pytest.raises(ExportError, match="damaged manifest"):
        check_version(version)


def test_a_model_without_manifest_or_graph_is_refused(version):
    (version / "saved_model.pb").write_bytes(b"\xff" * 100)
    write_manifest(version)
    with pytest.raises(ExportError, match=r"saved_model\.pb is damaged"):
        check_version(version)
    (version / MANIFEST).unlink()
    with pytest.raises(ExportError, match=r"manifest\.json: missing"):
        check_version(version)


def test_a_model_that_reads_files_is_refused_by_the_operations_name(tmp_path):
    class Thief(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
        def __call__(self, path):
            return {"content": tf.io.read_file(path)}

    thief = Thief()
    tf.saved_model.save(thief, str(tmp_path / "1"), signatures=thief.__call__.get_concrete_function())
    write_manifest(tmp_path / "1")
    with pytest.raises(ExportError, match="operation ReadFile is not accepted"):
        check_version(tmp_path / "1")
