"""What TensorFlow Serving relies on: signatures, operations, warm-up, gRPC, files, a process without busmt."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import re
import subprocess
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf
import yaml
from PIL import Image

from busmt.config import CLASSES
from busmt.data.images import decode_tensor, letterbox_tensor, read_encoded
from busmt.deployment.intake import STATUS_MESSAGES
from busmt.deployment.savedmodel import BYTES_SIGNATURE, DEFAULT_SIGNATURE
from busmt.deployment.serving_assets import IMAGE, WARMUP_FILE, model_name
from busmt.evaluation.calibration import is_referred
from busmt.trust import TENSORFLOW_OPS, check_graph


@pytest.fixture(scope="module")
def loaded(served_export):
    return tf.saved_model.load(str(served_export / "1"))


@pytest.fixture(scope="module")
def by_bytes(loaded):
    def run(images: list[bytes]) -> dict[str, np.ndarray]:
        outputs = loaded.signatures[BYTES_SIGNATURE](encoded=tf.constant(images))
        return {name: value.numpy() for name, value in outputs.items()}

    return run


def test_signatures_name_what_the_documentation_names(loaded):
    answers = {"mask", "label", "class_id", "refer"}
    assert set(loaded.signatures) == {DEFAULT_SIGNATURE, BYTES_SIGNATURE}
    assert set(loaded.signatures[DEFAULT_SIGNATURE].structured_outputs) == answers
    extra = {"size", "box", "status", "error"}
    outputs = loaded.signatures[BYTES_SIGNATURE].structured_outputs
    assert set(outputs) == answers | extra
    assert all(output.shape[0] is None for output in outputs.values())  # a server may only then batch requests


def test_only_operations_of_tensorflows_own_kernels(served_export):
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow.python.framework import op_def_registry

    check_graph(served_export / "1")
    model = saved_model_pb2.SavedModel.FromString((served_export / "1" / "saved_model.pb").read_bytes())
    library = model.meta_graphs[0].graph_def.library.function
    used = {node.op for function in library for node in function.node_def}
    assert {"Conv2D", "DecodePng"} & used
    assert not {name for name in used if "PyFunc" in name or name in ("ReadFile", "WriteFile", "LoadLibrary", "Print")}
    assert all(op_def_registry.get(name) for name in TENSORFLOW_OPS)


def test_answers_in_a_session_which_is_how_the_server_runs_it(served_export, by_bytes, scans):
    images = [*scans, b"junk", scans[0][:-40]]
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        definition = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(served_export / "1"))
        signature = definition.signature_def[BYTES_SIGNATURE]
        assert signature.method_name == "tensorflow/serving/predict"
        outputs = {name: info.name for name, info in signature.outputs.items()}
        found = session.run(outputs, {signature.inputs["encoded"].name: images})
    assert found["status"].tolist() == [0] * len(scans) + [1, 2]
    for name, value in by_bytes(images).items():
        if value.dtype == np.float32:
            np.testing.assert_allclose(found[name], value, atol=1e-4)
        else:
            assert found[name].tolist() == value.tolist(), name


def test_class_and_referral_follow_from_the_probabilities(loaded, referral_threshold):
    pictures = np.random.default_rng(3).random((6, 64, 64, 1), dtype=np.float32)
    outputs = {k: v.numpy() for k, v in loaded.signatures[DEFAULT_SIGNATURE](image=tf.constant(pictures)).items()}
    assert outputs["class_id"].tolist() == outputs["label"].argmax(axis=1).tolist()
    assert outputs["refer"].tolist() == is_referred(outputs["label"], referral_threshold).tolist()


@pytest.mark.parametrize(
    "probabilities, threshold, refer",
    [
        ((0.6, 0.2, 0.2), 0.3, False),
        ((0.4, 0.3, 0.3), 0.3, True),
        ((0.1, 0.2, 0.7), 0.3, False),
        ((0.9, 0.1, 0.0), None, True),
        ((0.1, 0.2, 0.7), None, False),
    ],
)
def test_referral_rule_in_the_graph(probabilities, threshold, refer):
    from busmt.deployment.savedmodel import _decide

    decided = _decide(tf.constant([probabilities]), threshold)
    assert bool(decided["refer"][0]) is refer
    assert CLASSES[int(decided["class_id"][0])] == CLASSES[int(np.argmax(probabilities))]


def test_encoded_images_are_read_as_in_training(by_bytes, served_network, scans, encode, tmp_path):
    rng = np.random.default_rng(1)
    transparent = encode(
        np.dstack([rng.integers(0, 256, (70, 90, 3)), rng.integers(0, 256, (70, 90))]).astype(np.uint8)
    )
    images = [*scans, transparent]
    outputs = by_bytes(images)
    for row, data in enumerate(images):
        path = tmp_path / f"{row}.png"
        path.write_bytes(data)
        picture = decode_tensor(read_encoded(path))
        square, box = letterbox_tensor(picture, 64)
        assert outputs["box"][row].tolist() == box.numpy().tolist()
        assert outputs["size"][row].tolist() == list(picture.shape[:2])
        expected = served_network(square[None], training=False)
        np.testing.assert_allclose(outputs["mask"][row], expected["mask"][0], atol=2e-4 if row < len(scans) else 2e-2)
    assert outputs["status"].tolist() == [0] * len(images)


def test_bad_images_get_a_status_and_spoil_no_neighbour(by_bytes, scans, bad_scans):
    alone = by_bytes(scans)
    mixed = [data for pair in zip([data for data, _ in bad_scans], scans * 3, strict=False) for data in pair]
    outputs = by_bytes(mixed)
    assert outputs["status"][0::2].tolist() == [status for _, status in bad_scans]
    assert [text.decode() for text in outputs["error"]] == [STATUS_MESSAGES[code] for code in outputs["status"]]
    for row in range(1, len(mixed), 2):
        for name in ("mask", "label"):
            np.testing.assert_allclose(outputs[name][row], alone[name][row // 2 % len(scans)], atol=1e-4)
    bad = outputs["status"] > 0
    for name in ("mask", "label", "class_id"):
        assert (outputs[name][bad] == -1).all(), name
    for name in ("size", "box"):
        assert not outputs[name][bad].any(), name
    assert outputs["refer"][bad].all()


def test_a_batch_without_one_good_image_is_answered(by_bytes):
    assert by_bytes([b"", b"junk"])["status"].tolist() == [1, 1]


def test_warm_up_replays_as_the_server_does_it(served_export, loaded):
    prediction_log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    records = list(tf.data.TFRecordDataset(str(served_export / "1" / WARMUP_FILE)).as_numpy_iterator())
    assert 0 < len(records) <= 1000
    seen = set()
    for record in records:
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = log.predict_log.request
        assert request.model_spec.name == model_name(served_export) == "breast-model"
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        outputs = loaded.signatures[request.model_spec.signature_name](**inputs)
        assert not np.any(outputs.get("status", 0))
        seen.add((request.model_spec.signature_name, len(outputs["label"])))
    assert seen == {(name, batch) for name in (DEFAULT_SIGNATURE, BYTES_SIGNATURE) for batch in (1, 4)}


def test_the_grpc_client_over_the_real_protocol(served_export, loaded, by_bytes, scans):
    grpc = pytest.importorskip("grpc")
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            assert request.model_spec.name == "breast-model"
            inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
            response = predict_pb2.PredictResponse()
            for name, value in loaded.signatures[request.model_spec.signature_name](**inputs).items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return response

    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        answers = _script(served_export / "serving" / "client_grpc.py").predict([*scans, b"junk"], f"127.0.0.1:{port}")
    finally:
        server.stop(None)
    assert answers["status"].tolist() == [0] * len(scans) + [1]
    np.testing.assert_allclose(answers["mask"][: len(scans)], by_bytes(scans)["mask"], atol=1e-4)


def test_configuration_is_what_the_server_parses(served_export):
    serving = served_export / "serving"
    manifest = yaml.safe_load((serving / "kserve.yaml").read_text())
    predictor = manifest["spec"]["predictor"]
    assert manifest["kind"] == "InferenceService"
    assert predictor["maxReplicas"] > predictor["minReplicas"] >= 1
    deployment, service, scaler = yaml.safe_load_all((serving / "kubernetes.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == IMAGE
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"] == "breast-model"
    assert scaler["spec"]["maxReplicas"] > scaler["spec"]["minReplicas"] >= 1
    for path in serving.iterdir():
        assert not re.search(r"@[A-Z_]+@", path.read_text()), path.name
    run_line = (serving / "docker.sh").read_text()
    assert "127.0.0.1:8501:8501" in run_line
    for name in ("models.config", "batching.config", "monitoring.config"):
        assert (serving / name).is_file()
        for arguments in (run_line, *container["args"], *predictor["containers"][0]["args"]):
            if name in arguments:
                assert f"=/models/breast-model/serving/{name}" in arguments
        for arguments in (run_line, str(container["args"]), str(predictor["containers"][0]["args"])):
            assert name in arguments


def test_models_config_parses_as_the_servers_message(served_export):
    messages = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    from google.protobuf import text_format

    text = (served_export / "serving" / "models.config").read_text()
    (config,) = text_format.Parse(text, messages.ModelServerConfig()).model_config_list.config
    assert (config.name, config.base_path) == ("breast-model", "/models/breast-model")


def test_batching_and_monitoring_parse_as_the_servers_messages(served_export):
    """The messages are not in the package of the API; their fields are those of session_bundle_config.proto and
    monitoring_config.proto of TensorFlow Serving."""
    from google.protobuf import text_format

    batching, monitoring = _server_messages()
    serving = served_export / "serving"
    batches = text_format.Parse((serving / "batching.config").read_text(), batching())
    assert batches.max_batch_size.value == 16
    assert batches.num_batch_threads.value >= 1
    monitor = text_format.Parse((serving / "monitoring.config").read_text(), monitoring())
    assert monitor.prometheus_config.enable
    assert monitor.prometheus_config.path.startswith("/")


def test_the_curl_client_sends_what_the_others_send(served_export, scans, tmp_path):
    curl = tmp_path / "bin" / "curl"
    curl.parent.mkdir()
    curl.write_text(f"#!/bin/sh\ncat > {tmp_path}/body; printf '%s\\n' \"$@\" > {tmp_path}/arguments\n")
    curl.chmod(0o755)
    (tmp_path / "scan.png").write_bytes(scans[0])
    environment = {**os.environ, "PATH": f"{curl.parent}:{os.environ['PATH']}", "BUSMT_TOKEN": "secret"}
    script = served_export / "serving" / "client_curl.sh"
    subprocess.run([script, tmp_path / "scan.png", "http://127.0.0.1:1"], env=environment, check=True)
    body = json.loads((tmp_path / "body").read_text())
    assert body == {
        "signature_name": "serving_bytes", "instances": [{"b64": base64.b64encode(scans[0]).decode()}],
    }  # fmt: skip
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[-1] == "http://127.0.0.1:1/v1/models/breast-model:predict"
    assert {"Content-Type: application/json", "Authorization: Bearer secret"} <= set(arguments)


def test_the_rest_clients_mask_is_the_predictors(served_export, by_bytes, scans):
    from busmt.data.images import Letterbox

    client = _script(served_export / "serving" / "client_rest.py")
    outputs = by_bytes(scans)
    for row, data in enumerate(scans):
        answer = {name: outputs[name][row].tolist() for name in ("size", "box", "status")}
        square = np.zeros((64, 64, 1), dtype=np.float32)
        square[24:44, 26:40] = 1.0
        mask = client.restore_mask(answer | {"mask": square.tolist()})
        width, height = Image.open(io.BytesIO(data)).size
        expected = Letterbox(height, width, 64).restore_mask(square[..., 0], 0.5)
        assert 2 * (mask & expected).sum() / (mask.sum() + expected.sum()) >= 0.99
    with pytest.raises(ValueError, match="not a PNG"):
        client.restore_mask({"status": 1, "error": STATUS_MESSAGES[1]})


def _script(path):
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _server_messages():
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="server.proto", package="server", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)

    def message(name, fields):
        made = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            described = made.field.add(name=field, number=number, label=kinds.LABEL_OPTIONAL)
            if isinstance(kind, str):
                described.type, described.type_name = kinds.TYPE_MESSAGE, kind
            else:
                described.type = kind

    wide = ".google.protobuf.Int64Value"
    numbers = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    message("Batching", dict.fromkeys(numbers, wide))
    message("Prometheus", {"enable": kinds.TYPE_BOOL, "path": kinds.TYPE_STRING})
    message("Monitoring", {"prometheus_config": ".server.Prometheus"})
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    names = ("server.Batching", "server.Monitoring")
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names]
