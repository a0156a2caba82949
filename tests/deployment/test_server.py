"""The light server: the predict API of TensorFlow Serving, and what is no valid use of it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("uvicorn")
from running import JSON, PLACE, PREDICT, b64, running

from busmt.deployment.intake import TOO_LARGE
from busmt.deployment.server.versions import version_folder
from busmt.errors import RunError


@pytest.fixture(scope="module")
def client(served_export):
    with running(
        served_export, instances=8, image_pixels=200_000, request_pixels=400_000, request_bytes=2**20, values=50_000
    ) as client:
        yield client


def test_rows_columns_and_names_say_the_same(client, scans):
    rows = client.predict(scans).json["predictions"]
    encoded = [b64(data) for data in scans]
    for form in ({"inputs": {"encoded": encoded}}, {"inputs": encoded}):
        columns = client.post({"signature_name": "serving_bytes", **form}).json["outputs"]
        assert columns["class_id"] == [row["class_id"] for row in rows]
        np.testing.assert_allclose(columns["mask"], [row["mask"] for row in rows], atol=1e-4)
    named = {"signature_name": "serving_bytes", "instances": [{"encoded": item} for item in encoded]}
    again = client.post(named, f"{PLACE}/versions/1:predict").json["predictions"]
    assert [row["class_id"] for row in again] == [row["class_id"] for row in rows]


def test_answers_are_those_of_the_network(client, scans, served_network, tmp_path):
    from busmt.data.pipeline import read_image

    for row, data in zip(client.predict(scans).json["predictions"], scans, strict=True):
        (tmp_path / "scan").write_bytes(data)
        picture, box = read_image(str(tmp_path / "scan"), 64)
        expected = served_network(picture[None], training=False)
        np.testing.assert_allclose(row["mask"], expected["mask"][0], atol=1e-4)
        np.testing.assert_allclose(row["label"], expected["label"][0], atol=1e-4)
        assert (row["size"], row["status"], row["error"]) == ([box.height, box.width], 0, "")


def test_float_images_are_the_default(client, served_network):
    pictures = np.random.default_rng(0).random((2, 64, 64, 1)).astype(np.float32)
    answer = client.post({"instances": pictures.tolist()}).json["predictions"]
    expected = served_network(pictures, training=False)
    np.testing.assert_allclose([row["label"] for row in answer], expected["label"], atol=1e-4)
    assert set(answer[0]) == {"mask", "label", "class_id", "refer"}


def test_status_and_metadata(client):
    for address in (PLACE, f"{PLACE}/versions/1"):
        status = client.get(address).json["model_version_status"]
        assert [(entry["version"], entry["state"]) for entry in status] == [("1", "AVAILABLE")]
    metadata = client.get(f"{PLACE}/metadata").json
    assert metadata["model_spec"] == {"name": "breast-model", "signature_name": "", "version": "1"}
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_bytes"]["inputs"]["encoded"]["dtype"] == "DT_STRING"
    assert signatures["serving_bytes"]["method_name"] == "tensorflow/serving/predict"


def test_a_bad_image_among_good_ones(client, scans, bad_scans):
    good = client.predict(scans[:1]).json["predictions"][0]
    for data, status in bad_scans:
        bad, neighbour = client.predict([data, scans[0]]).json["predictions"]
        assert (bad["status"], bad["class_id"], bad["refer"]) == (status, -1, True)
        assert bad["error"]
        assert np.min(bad["mask"]) == np.max(bad["mask"]) == -1
        assert bad["label"] == [-1, -1, -1]
        np.testing.assert_allclose(neighbour["label"], good["label"], atol=1e-4)
        assert neighbour["error"] == ""


def test_the_servers_own_limit_on_pixels_and_scans_costs_only_that_image(client, scans, encode):
    large = encode(np.zeros((500, 500), dtype=np.uint8))
    scanned = scans[1][:-2] + b"\xff\xda" * 200 + scans[1][-2:]
    answers = client.predict([large, scanned, scans[0]]).json["predictions"]
    assert [answer["status"] for answer in answers] == [TOO_LARGE, TOO_LARGE, 0]
    assert "200000 pixels" in answers[0]["error"]
    assert "scans" in answers[1]["error"]
    assert [answer["class_id"] >= 0 for answer in answers] == [False, False, True]


def test_too_many_pixels_in_all_are_refused_before_any_is_decoded(client, encode):
    picture = encode(np.zeros((440, 440), dtype=np.uint8))
    assert client.predict([picture] * 2).code == 200
    answer = client.predict([picture] * 3)
    assert answer.code == 400
    assert "400000 pixels in all" in answer.json["error"]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe{}", "JSON"),
        (b"[" * 40_000, "JSON"),
        (b'{"instances": [NaN]}', "JSON"),
        (b"[1]", "object"),
        (b"{}", "instances"),
        (b'{"instances": []}', "at least one"),
        (b'{"instances": {"b64": "AAAA"}}', "list"),
        (b'{"instances": [1], "inputs": [1]}', "either"),
        (b'{"instances": [1], "signature_name": "../../etc"}', "no signature '../../etc'"),
        (b'{"instances": [1], "signature_name": 3}', "signature_name"),
        (b'{"instances": [[1, 2]]}', "shape"),
        (b'{"instances": [[[[1]], [[2], [3]]]]}', "not an array"),
        (b'{"instances": [{"other": 1}]}', "input"),
        (b'{"inputs": {"other": [1]}}', "input"),
        (b'{"instances": [{"b64": "*"}], "signature_name": "serving_bytes"}', "instance 0: b64"),
        (b'{"instances": [{"b64": 7}], "signature_name": "serving_bytes"}', "instance 0: b64"),
        (b'{"instances": [3], "signature_name": "serving_bytes"}', "b64"),
        (b'{"instances": [1, 1, 1, 1, 1, 1, 1, 1, 1], "signature_name": "serving_bytes"}', "at most 8"),
        (b'{"instances": [' + b"1," * 60_000 + b"1]}", "50000 values"),
    ],
)
def test_a_request_that_makes_no_sense_gets_a_reason(client, body, part):
    answer = client.post(body)
    assert answer.code == 400
    assert part in answer.json["error"]


@pytest.mark.parametrize("value", [-0.5, 1.5, 1e30])
def test_values_outside_of_the_range_are_refused(client, value):
    picture = np.full((64, 64, 1), value).tolist()
    assert "[0, 1]" in client.post({"instances": [picture]}).json["error"]


def test_what_is_not_plain_json_is_refused(client):
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "multipart/form-data"}):
        assert client.ask("POST", PREDICT, b"{}", headers).code == 415
    assert client.ask("POST", PREDICT, b"{}", {**JSON, "Content-Encoding": "gzip"}).code == 415
    assert client.ask("POST", PREDICT, b"{}", {"Content-Type": "application/json; charset=utf-8"}).code == 400


def test_a_request_that_is_too_large_is_refused_announced_or_not(client):
    assert client.post(b" " * (2**20 + 1)).code == 413
    chunks = client.ask("POST", PREDICT, iter([b" " * 2**19] * 3), JSON)
    assert chunks.code == 413
    assert "1048576 bytes" in chunks.json["error"]


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/models/other", 404),
        ("POST", "/v1/models/other:predict", 404),
        ("GET", f"{PLACE}/versions/2", 404),
        ("GET", f"{PLACE}/versions/-1", 404),
        ("GET", f"{PLACE}/versions/1/../1", 404),
        ("GET", f"{PLACE}/../../../etc/passwd", 404),
        ("GET", "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
        ("GET", f"{PLACE}%00", 404),
        ("GET", f"{PLACE}/1/saved_model.pb", 404),
        ("POST", f"{PLACE}:classify", 404),
        ("GET", PREDICT, 405),
        ("POST", PLACE, 405),
        ("DELETE", PLACE, 405),
        ("POST", "/healthz", 405),
    ],
)
def test_unknown_addresses_and_methods_name_no_path(client, served_export, method, path, code):
    answer = client.ask(method, path, headers=JSON)
    assert answer.code == code
    assert set(answer.json) == {"error"}
    assert str(served_export.parent) not in answer.body.decode()
    assert "server" not in answer.headers


def test_health_and_metrics(client, scans):
    client.predict([scans[0], b"junk"])
    for address in ("/healthz", "/readyz"):
        assert client.get(address).json == {"status": "ok"}
    page = client.get("/metrics").body.decode()
    assert client.get("/monitoring/prometheus/metrics").code == 200
    assert 'busmt_requests_total{code="200"}' in page
    assert "busmt_model_version 1.0" in page
    unreadable = next(line for line in page.splitlines() if line.startswith("busmt_unreadable_images_total"))
    assert float(unreadable.split()[1]) >= 1


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(RunError, match="no SavedModel"):
        version_folder(tmp_path)
