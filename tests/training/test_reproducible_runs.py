"""The same command gives the same weights, bit for bit, also when it was interrupted, killed and resumed.

The images are 128x128 and the batch 8, because smaller trainings agree even where threads could change sums.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from busmt.training.determinism import usable_cores
from busmt.training.run import Run

SETTINGS = """
network: {encoder: unet, input_size: 128, width: 8, depth: 2}
training: {batch_size: 8, epochs: 3}
"""


STOPPING = """
import os, sys
from busmt.cli.display import TrainingDisplay
from busmt.cli.main import main

number, place = int(sys.argv.pop(1)), sys.argv.pop(1)
step = TrainingDisplay.step

def stop(display, epoch, count, losses):
    step(display, epoch, count, losses)
    if f"{epoch}/{count}" == place:
        os.kill(os.getpid(), number)

TrainingDisplay.step = stop
main()
"""
"""A busmt that sends itself a signal after a step: a test process may be too slow to do it in time."""

ONE_CORE = {min(os.sched_getaffinity(0))} if hasattr(os, "sched_getaffinity") else None
"""Where the operating system can take cores from a process."""


class Commands:
    """`busmt train` in processes of their own."""

    def __init__(self, data, folder):
        self.data, self.folder = data, folder
        (folder / "settings.yaml").write_text(SETTINGS)

    def start(self, *arguments, cores=None, busmt=("-m", "busmt")) -> subprocess.Popen:
        command = [sys.executable, *busmt, *map(str, arguments)]

        def prepare():
            # a shell starts background jobs with Ctrl-C ignored, and a test run may be one
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if cores:
                os.sched_setaffinity(0, cores)

        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=prepare,
        )

    def new(self, name, **how) -> subprocess.Popen:
        return self.start(
            "train", "--data", self.data, "--config", "settings.yaml", "--seed", 5, "--name", name, "--json", **how
        )

    def finish(self, process) -> dict:
        output, errors = process.communicate(timeout=540)
        assert process.returncode == 0, errors
        return json.loads(output)

    def run(self, name) -> Run:
        return Run.open(self.folder / "runs" / name)


def stopping(number, epoch, step) -> tuple[str, ...]:
    """Arguments of Python for a busmt that gets a signal after a step of an epoch, which is counted from 0."""
    return ("-c", STOPPING, str(int(number)), f"{epoch}/{step}")


def arrays(path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def assert_same_training(one: Run, other: Run) -> None:
    pd.testing.assert_frame_equal(one.history(), other.history(), check_exact=True)
    for name in sorted(path.name for path in (one.path / "checkpoints").iterdir()):
        first, second = (arrays(run.path / "checkpoints" / name) for run in (one, other))
        assert list(first) == list(second)
        assert all(np.array_equal(first[key], second[key]) for key in first), name
    assert one.calibration() == other.calibration()


@pytest.fixture(scope="module")
def commands(phantom_folder, tmp_path_factory):
    return Commands(phantom_folder, tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="module")
def uninterrupted(commands) -> Run:
    answer = commands.finish(commands.new("whole"))
    assert answer["epochs"] == 3
    run = commands.run("whole")
    first, second = (arrays(run.path / "checkpoints" / f"epoch_0000{epoch}.npz") for epoch in (1, 2))
    assert not np.array_equal(first["network/0000"], second["network/0000"])  # something is being learned
    cores = usable_cores()
    assert run.environment()["threads"] == {"cores": cores, "inter_op": 1, "intra_op": cores}
    return run


def test_a_run_that_was_interrupted_and_killed_ends_with_the_same_weights(commands, uninterrupted):
    """Ctrl-C in the second epoch, SIGKILL in the third, then resumed to its end: three processes, one training.

    The last one may run on one core only. With as many threads as cores, its sums would be cut into other parts.
    """
    process = commands.new("stopped", busmt=stopping(signal.SIGINT, epoch=1, step=2))
    _, errors = process.communicate(timeout=540)
    assert process.returncode == 130, errors
    assert "continue with: busmt train --resume runs/stopped" in errors
    assert "Traceback" not in errors
    assert len(commands.run("stopped").history()) == 1
    assert not commands.run("stopped").finished

    killed = stopping(signal.SIGKILL, epoch=2, step=2)
    process = commands.start("train", "--resume", "runs/stopped", busmt=killed)
    _, errors = process.communicate(timeout=540)
    assert process.returncode == -signal.SIGKILL, errors
    assert len(commands.run("stopped").history()) == 2
    assert not commands.run("stopped").finished

    answer = commands.finish(commands.start("train", "--resume", "runs/stopped", "--json", cores=ONE_CORE))
    assert answer["epochs"] == 3
    assert commands.run("stopped").environment()["threads"] == uninterrupted.environment()["threads"]
    assert_same_training(uninterrupted, commands.run("stopped"))


@pytest.mark.slow
def test_a_run_matches_its_repetition_on_fewer_cores(commands, uninterrupted):
    process = commands.start("reproduce", "runs/whole", "--to", "again", "--json", cores=ONE_CORE)
    output, errors = process.communicate(timeout=540)
    assert process.returncode == 0, output + errors
    result = json.loads(output)
    assert result["matches"]
    assert result["first_difference"] is None
    again = Run.open(commands.folder / "again")
    assert again.environment()["reproduces"] == str(uninterrupted.path.resolve())
    assert_same_training(uninterrupted, again)
    first = uninterrupted.environment()["threads"]
    if ONE_CORE and first["cores"] > 1:
        assert again.environment()["threads"] == first | {"cores": 1}
        assert f"threads.cores: {first['cores']}, now 1" in result["environment"]
        assert f"training uses {first['intra_op']} threads, as recorded, on fewer usable cores (1)" in " ".join(
            errors.split()
        )


@pytest.mark.slow
def test_two_runs_of_the_same_command_give_the_same_weights_at_full_width(commands):
    """2 million weights, as many operations at once as there are cores would allow."""
    (commands.folder / "settings.yaml").write_text(SETTINGS.replace("width: 8, depth: 2", "width: 24, depth: 4"))
    for name in ("first", "second"):
        commands.finish(commands.new(name))
    (commands.folder / "settings.yaml").write_text(SETTINGS)
    assert_same_training(commands.run("first"), commands.run("second"))
