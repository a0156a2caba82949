"""What the fused kernel of batch normalisation saves: the time of a training step with it and with Keras' own, in turn.

    python benchmarks/batch_norm_cost.py --rounds 12 --out benchmarks/results/batch_norm_cost.json

The network of the preset small with random weights, 160x160, batch 16, on noise. Both networks are in one process and
take turns, so that other work on the machine meets both; the result is the median of the ratios of neighbouring steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()

    from busmt.config import Config
    from busmt.training import determinism

    config = Config.preset("small", {"network": {"pretrained": False}})
    determinism.prepare(0, True)
    steps = {"fused": train_step(config, True), "keras": train_step(config, False)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(round(time.perf_counter() - start, 4))
    result = {
        "network": config.to_dict()["network"],
        "batch_size": config.training.batch_size,
        "cores": os.cpu_count(),
        "seconds_per_step": times,
        "ratio": round(statistics.median(a / b for a, b in zip(times["fused"], times["keras"], strict=True)), 3),
    }
    text = json.dumps(result, indent=2) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


def train_step(config: Any, fused: bool) -> Any:
    """One compiled training step on a batch of noise; called twice, so that it is traced and warm."""
    import numpy as np

    from busmt.model import normalisation
    from busmt.model.network import build_network
    from busmt.training.trainer import compile_trainer

    size, batch, draw = config.network.input_size, config.training.batch_size, np.random.default_rng(0)
    trainer = compile_trainer(build_network(config.network), config, 100)
    image = draw.random((batch, size, size, 1), np.float32)
    truth = {"mask": (image > 0.8).astype(np.float32), "label": np.eye(3, dtype=np.float32)[draw.integers(0, 3, batch)]}
    there = normalisation.fusible

    def step() -> None:
        trainer.train_on_batch(image, truth)

    normalisation.fusible = there if fused else lambda inputs: False  # asked while the step is traced
    try:
        step()
        step()
    finally:
        normalisation.fusible = there
    return step


if __name__ == "__main__":
    sys.exit(main())
