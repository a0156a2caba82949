"""Ask TensorFlow Serving over gRPC. Needs tensorflow-serving-api.

    python client_grpc.py image.png [more images] [--address 127.0.0.1:8500]

Send encoded images, not float tensors: Python's gRPC takes messages of at most 4 MiB unless told otherwise,
as it is here for the answers.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

CLASSES = ("normal", "benign", "malignant")
OPTIONS = [("grpc.max_receive_message_length", 64 * 2**20), ("grpc.max_send_message_length", 64 * 2**20)]


def predict(images: list[bytes], address: str, model: str = "out", timeout: float = 60.0) -> dict[str, Any]:
    """Arrays by output name, one row per image. Look at "status" first: not 0 means that the image in that row could
    not be read, "error" says why, and nothing else in the row means anything."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "serving_bytes"
    request.inputs["encoded"].CopyFrom(tf.make_tensor_proto(images))
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout)
    return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--address", default="127.0.0.1:8500")
    parser.add_argument("--model", default="out", help="name under which the model is served")
    arguments = parser.parse_args()
    try:
        images = [Path(path).read_bytes() for path in arguments.images]
        answers = predict(images, arguments.address, arguments.model)
    except OSError as error:
        print(error, file=sys.stderr)
        return 2
    except grpc.RpcError as error:
        print(f"{arguments.address}: {error.code().name}: {error.details()}", file=sys.stderr)
        return 2
    for row, path in enumerate(arguments.images):
        if answers["status"][row]:
            print(f"{path}: {answers['error'][row].decode()}", file=sys.stderr)
        else:
            refer = " (refer)" if answers["refer"][row] else ""
            print(f"{path}: {CLASSES[answers['class_id'][row]]} {answers['label'][row].round(3)}{refer}")
    return 2 if answers["status"].any() else 0


if __name__ == "__main__":
    sys.exit(main())
