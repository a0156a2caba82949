"""Ask a server over REST: TensorFlow Serving or `busmt serve`. Needs numpy and Pillow.

python client_rest.py image.png [--address http://127.0.0.1:8501] [--mask mask.png]
"""

import argparse
import base64
import json
import sys
import urllib.error
import urllib.request

import numpy as np
from PIL import Image

CLASSES = ("normal", "benign", "malignant")


def predict(images: list[bytes], address: str, timeout: float = 60.0) -> list[dict]:
    """One answer per image: mask, label, class_id, refer, size, box, status, error."""
    instances = [{"b64": base64.b64encode(data).decode()} for data in images]
    body = {"signature_name": "serving_bytes", "instances": instances}
    request = urllib.request.Request(
        f"{address}/v1/models/@NAME@:predict", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)["predictions"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{error.code}: {json.load(error).get('error')}") from error


def restore_mask(answer: dict) -> np.ndarray:
    """Mask (H, W), bool, on the image's own pixels: cut the box out of the square, resize, compare with 0.5."""
    square = np.asarray(answer["mask"], dtype=np.float32)[..., 0]
    top, left, inner_height, inner_width = answer["box"]
    height, width = answer["size"]
    inner = square[top : top + inner_height, left : left + inner_width]
    mask = np.asarray(Image.fromarray(inner).resize((width, height), Image.Resampling.BILINEAR)) > 0.5
    if not mask.any() and (square > 0.5).any():  # a lesion never vanishes by resizing
        row, column = np.unravel_index(int(square.argmax()), square.shape)
        row, column = (row - top + 0.5) * height / inner_height, (column - left + 0.5) * width / inner_width
        mask[int(np.clip(row, 0, height - 1)), int(np.clip(column, 0, width - 1))] = True
    return mask


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--address", default="http://127.0.0.1:8501")
    parser.add_argument("--mask", help="PNG file for the mask")
    arguments = parser.parse_args()
    with open(arguments.image, "rb") as file:
        answer = predict([file.read()], arguments.address)[0]
    if answer["status"]:
        print(f"{arguments.image}: {answer['error']}", file=sys.stderr)
        return 2
    mask = restore_mask(answer)
    if arguments.mask:
        Image.fromarray(mask.astype(np.uint8) * 255).save(arguments.mask)
    probabilities = dict(zip(CLASSES, answer["label"], strict=True))
    print(json.dumps({"class": CLASSES[answer["class_id"]], "probabilities": probabilities,
                      "refer": answer["refer"], "lesion_pixels": int(mask.sum())}))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
