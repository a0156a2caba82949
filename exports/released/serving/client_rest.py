"""Ask a server over REST: TensorFlow Serving or `busmt serve`. Needs numpy and Pillow.

    python client_rest.py image.png [--address http://127.0.0.1:8501] [--mask mask.png]

The environment variable BUSMT_TOKEN holds the token of the server, if it asks for one.
"""

import argparse
import base64
import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("normal", "benign", "malignant")
THRESHOLD = 0.5


def predict(
    images: list[bytes], address: str, model: str = "out", token: str = "", timeout: float = 60.0
) -> list[dict[str, Any]]:
    """One answer per image, in order: a dict with mask, label, class_id, refer, size, box, status, error.

    Look at "status" first: where it is not 0, the image could not be read, "error" says why, and nothing else in
    that answer means anything.
    """
    instances = [{"b64": base64.b64encode(data).decode()} for data in images]
    body = json.dumps({"signature_name": "serving_bytes", "instances": instances}).encode()
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"{address}/v1/models/{model}:predict", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)["predictions"]
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(f"{error.code}: {error.read().decode(errors='replace')[:500]}") from error


def restore_mask(answer: dict[str, Any]) -> np.ndarray:
    """Mask (H, W), bool, on the image's own pixels: cut the box out of the square, resize, compare with 0.5.

    Raises ValueError for an image that could not be read.
    """
    if answer["status"]:
        raise ValueError(answer["error"])
    square = np.asarray(answer["mask"], dtype=np.float32)[..., 0]
    top, left, inner_height, inner_width = answer["box"]
    height, width = answer["size"]
    inner = square[top : top + inner_height, left : left + inner_width]
    mask = np.asarray(Image.fromarray(inner).resize((width, height), Image.Resampling.BILINEAR)) > THRESHOLD
    if not mask.any() and (square > THRESHOLD).any():  # a lesion never vanishes by resizing
        row, column = np.unravel_index(int(square.argmax()), square.shape)
        row, column = (row - top + 0.5) * height / inner_height, (column - left + 0.5) * width / inner_width
        mask[int(np.clip(row, 0, height - 1)), int(np.clip(column, 0, width - 1))] = True
    return mask


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--address", default="http://127.0.0.1:8501")
    parser.add_argument("--model", default="out", help="name under which the model is served")
    parser.add_argument("--mask", help="PNG file for the mask")
    arguments = parser.parse_args()
    try:
        with open(arguments.image, "rb") as file:
            data = file.read()
        (answer,) = predict([data], arguments.address, arguments.model, os.environ.get("BUSMT_TOKEN", ""))
        mask = restore_mask(answer)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"{arguments.image}: {error}", file=sys.stderr)
        return 2
    if arguments.mask:
        Image.fromarray(mask.astype(np.uint8) * 255).save(arguments.mask)
    result = {
        "class": CLASSES[answer["class_id"]],
        "probabilities": dict(zip(CLASSES, answer["label"], strict=True)),
        "refer": answer["refer"],
        "lesion_pixels": int(mask.sum()),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
