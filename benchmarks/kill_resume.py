"""Kill a training with SIGKILL at random moments, resume it, and compare it with one that was never killed.

    python benchmarks/kill_resume.py --kills 20 --export-kills 3 --out benchmarks/results/kill_resume.json

128x128 pixels, batch 8, deterministic mode, synthetic phantoms. The moments: a random step; half-way through the
writing of a random file (checkpoint, best weights, history, environment); just before and just after its renaming;
before the finished network gets its name; and a random time. After the last kill the run is resumed to its end.
Then history, calibration, every weight of the network and every array of every checkpoint (weights, optimiser,
moving average, random states) are compared bit by bit. Exports are killed likewise, at a random file or time: what
then lies under a final name must load and agree with Keras, or be refused.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import busmt.data.images as images
import busmt.data.tables as tables
import busmt.training.checkpoint as checkpoint
from busmt.config import Config
from busmt.errors import BusmtError
from busmt.training.loop import SilentReporter, train
from busmt.training.prepare import prepare_run
from busmt.training.reproduce import compare_runs, describe_difference
from busmt.training.run import Run

TRAINING_MOMENTS = ("step", "half-written", "before-rename", "after-rename", "before-model", "time")
EXPORT_MOMENTS = ("half-written", "before-rename", "after-rename", "time")
SETTINGS: dict[str, Any] = {
    "data": {"phantoms_per_class": 12},
    "network": {"encoder": "unet", "input_size": 128, "width": 8, "depth": 2},
    "training": {"batch_size": 8, "epochs": 6, "patience": 6},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills of the training")
    parser.add_argument("--export-kills", type=int, default=3, help="kills of the export")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--minutes", type=float, default=60, help="no further kill after this time")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        trained = kill_training(Path(folder), options.kills, random.Random(options.seed), end)
        exported = kill_export(Path(folder), options.export_kills, random.Random(options.seed + 1), end)
    result = {
        "protocol": "phantoms, 128x128, batch 8, deterministic mode, CPU, fork per process",
        "seed": options.seed,
        "training": trained,
        "export": exported,
    }
    if options.out:
        images.write_json(options.out, result)
    print(json.dumps(result, indent=2))
    return 0 if trained["identical"] and exported["faults"] == 0 else 1


def kill_training(folder: Path, kills: int, chance: random.Random, end: float) -> dict[str, Any]:
    """Kill, resume, kill, … until all kills are spent, over as many trainings as that takes."""
    in_process(lambda: prepare_run(Config.preset("tiny", SETTINGS), folder / "start"))
    shutil.copytree(folder / "start", folder / "whole")
    started = time.monotonic()
    in_process(lambda: train(Run.open(folder / "whole")))
    duration = time.monotonic() - started
    done: Counter[str] = Counter()
    epochs, runs, differences = [], 0, []
    while done.total() < kills and time.monotonic() < end:
        victim = folder / f"victim-{runs}"
        shutil.copytree(folder / "start", victim)
        runs += 1
        while done.total() < kills and time.monotonic() < end:
            moment = chance.choice(TRAINING_MOMENTS)
            count, seconds = chance.randint(1, 7), chance.uniform(0, duration)
            if not killed(lambda m=moment, c=count, v=victim: train_and_die(v, m, c), moment, seconds):
                break  # it ended before that moment
            done[moment] += 1
            epochs.append(len(Run.open(victim).history()))
        if not Run.open(victim).finished:
            in_process(lambda v=victim: train(Run.open(v)))
        differences += differing(folder / "whole", victim)
        shutil.rmtree(victim)
    return {
        "kills": done.total(),
        "by_moment": dict(sorted(done.items())),
        "finished_epochs_when_killed": dict(sorted(Counter(epochs).items())),
        "trainings": runs,
        "identical": not differences and done.total() > 0,
        "differences": differences[:10],
    }


def kill_export(folder: Path, kills: int, chance: random.Random, end: float) -> dict[str, Any]:
    """Kill exports into one folder; look at what is left after each; then export to the end."""
    target = folder / "exports"
    started = time.monotonic()
    in_process(lambda: export(folder / "whole", folder / "unkilled"))
    duration = time.monotonic() - started
    done: Counter[str] = Counter()
    faults = 0
    for _ in range(kills):
        if time.monotonic() > end:
            break
        moment, count = chance.choice(EXPORT_MOMENTS), chance.randint(1, 4)
        seconds = chance.uniform(0, duration)
        if killed(lambda m=moment, c=count: export_and_die(folder / "whole", target, m, c), moment, seconds):
            done[moment] += 1
        faults += in_process(lambda: sys.exit(wrong_models(folder / "whole", target))) if target.exists() else 0
    in_process(lambda: export(folder / "whole", target))
    faults += in_process(lambda: sys.exit(wrong_models(folder / "whole", target)))
    return {"kills": done.total(), "by_moment": dict(sorted(done.items())), "faults": faults}


def train_and_die(folder: Path, moment: str, count: int) -> None:
    arm(moment, count)
    train(Run.open(folder), Dying(count if moment == "step" else None))


def export(folder: Path, target: Path) -> None:
    from busmt.deployment.export import export_run

    export_run(Run.open(folder), target)


def export_and_die(folder: Path, target: Path, moment: str, count: int) -> None:
    arm(moment, count)
    export(folder, target)


def wrong_models(folder: Path, target: Path) -> int:
    """Models under a final name that load but do not agree with Keras."""
    from busmt.prediction import Predictor

    reference = Predictor.load(folder)
    picture = np.random.default_rng(0).random((1, reference.size, reference.size, 1), np.float32)
    expected, wrong = reference.predict_arrays(picture), 0
    for place in sorted(entry for entry in target.iterdir() if entry.name.isdigit() or entry.suffix == ".tflite"):
        try:
            found = Predictor.load(place).predict_arrays(picture)
        except BusmtError:
            continue
        wrong += not all(np.allclose(found[name], expected[name], atol=1e-3) for name in ("mask", "label"))
    return wrong


class Dying(SilentReporter):
    """Kills its process at a step."""

    def __init__(self, at: int | None):
        self.left = at

    def step(self, epoch: int, step: int, losses: dict[str, float]) -> None:
        if self.left is not None:
            self.left -= 1
            if not self.left:
                die()


def arm(moment: str, count: int) -> None:
    """Make the process die at the count-th file that it writes, or at the first model that it names."""
    if moment == "before-model":
        Path.replace = lambda self, target: die()  # type: ignore[assignment, method-assign, return-value]
    if moment not in ("half-written", "before-rename", "after-rename"):
        return
    write, left = images.write_atomically, [count]

    def dying(path: str | os.PathLike[str], data: bytes, durable: bool = False) -> None:
        left[0] -= 1
        if left[0]:
            return write(path, data, durable)
        if moment == "after-rename":
            write(path, data, durable)
        else:
            draft = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.tmp")
            draft.write_bytes(data[: len(data) // 2] if moment == "half-written" else data)
        return die()

    for module in (images, tables, checkpoint):
        module.write_atomically = dying  # type: ignore[attr-defined]
    if "busmt.deployment.export" in sys.modules:
        sys.modules["busmt.deployment.export"].write_atomically = dying  # type: ignore[attr-defined]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(task: Callable[[], object], moment: str, seconds: float) -> bool:
    """Whether the process died of SIGKILL; an error of its own ends this program."""
    process = fork(task)
    if moment == "time":
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return verdict(status)
            time.sleep(0.05)
        os.kill(process, signal.SIGKILL)
    return verdict(os.waitpid(process, 0)[1])


def verdict(status: int) -> bool:
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"a process failed with {os.waitstatus_to_exitcode(status)}")
    return False


def in_process(task: Callable[[], object]) -> int:
    """Run to the end in a process of its own; its exit code, which must not come from an error."""
    code = os.waitstatus_to_exitcode(os.waitpid(fork(task), 0)[1])
    if code < 0 or code == 120:
        raise SystemExit(f"a process failed with {code}")
    return code


def fork(task: Callable[[], object]) -> int:
    """Start a task; TensorFlow is imported already, but has not run here, so that a fork is sound."""
    process = os.fork()
    if process:
        return process
    code = 0
    try:
        task()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 120
    os._exit(code)


def differing(one: Path, other: Path) -> list[str]:
    """Where two finished runs differ, checkpoints included."""
    reading, writing = os.pipe()

    def compare() -> None:
        first, second = Run.open(one), Run.open(other)
        found = [describe_difference(difference) for difference in compare_runs(first, second)]
        names = [sorted(path.name for path in (run.path / "checkpoints").glob("*.npz")) for run in (first, second)]
        if names[0] != names[1]:
            found.append(f"checkpoints {names[0]}, now {names[1]}")
        for name in set(names[0]) & set(names[1]):
            with np.load(one / "checkpoints" / name) as a, np.load(other / "checkpoints" / name) as b:
                if a.files != b.files or any(a[key].tobytes() != b[key].tobytes() for key in a.files):
                    found.append(f"checkpoint {name}")
        os.write(writing, json.dumps(found[:20]).encode())

    in_process(compare)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        return json.loads(pipe.read())


if __name__ == "__main__":
    sys.exit(main())
