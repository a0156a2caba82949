"""Ask TensorFlow Serving over gRPC. Needs tensorflow-serving-api.

    python client_grpc.py image.png [more images] [--address 127.0.0.1:8500]

Send encoded images, not float tensors: Python's gRPC takes messages of at most 4 MiB unless told otherwise,
as it is here for the answers.
"""

import argparse
import sys
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

CLASSES = ("normal", "benign", "malignant")
OPTIONS = [("grpc.max_receive_message_length", 64 * 2**20), ("grpc.max_send_message_length", 64 * 2**20)]


def predict(images: list[bytes], address: str, timeout: float = 60.0) -> dict:
    """Arrays by output name, one row per image."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "@NAME@"
    request.model_spec.signature_name = "serving_bytes"
    request.inputs["encoded"].CopyFrom(tf.make_tensor_proto(images))
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout)
    return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--address", default="127.0.0.1:8500")
    arguments = parser.parse_args()
    answers = predict([Path(path).read_bytes() for path in arguments.images], arguments.address)
    for row, path in enumerate(arguments.images):
        if answers["status"][row]:
            print(f"{path}: {answers['error'][row].decode()}", file=sys.stderr)
        else:
            refer = " (refer)" if answers["refer"][row] else ""
            print(f"{path}: {CLASSES[answers['class_id'][row]]} {answers['label'][row].round(3)}{refer}")
    return 2 if answers["status"].any() else 0


if __name__ == "__main__":
    sys.exit(main())
