"""Make result.png, the picture in the README: phantoms the model has not seen, truth blue, prediction orange.

python docs/images/make_result.py runs/first
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from busmt.data.images import write_png
from busmt.data.phantom import make_phantom
from busmt.overlay import PREDICTION_COLOUR, TRUTH_COLOUR, draw_outlines, write_caption
from busmt.prediction import Predictor


def main(model: str) -> None:
    predictor = Predictor.load(model)
    tiles = []
    with tempfile.TemporaryDirectory() as folder:
        for label, seed in (("benign", 90210), ("malignant", 90211), ("normal", 90212)):
            phantom = make_phantom(label, seed, (300, 380))
            path = Path(folder) / f"{label}.png"
            write_png(path, phantom.image)
            found = predictor.predict_file(path)
            outlines = [(phantom.mask, TRUTH_COLOUR), (found.mask, PREDICTION_COLOUR)]
            picture = draw_outlines(phantom.image, outlines)
            tiles.append(write_caption(picture, f"{found.label} {found.probabilities.max():.2f}"))
    write_png(Path(__file__).with_name("result.png"), np.hstack(tiles))


if __name__ == "__main__":
    main(sys.argv[1])
