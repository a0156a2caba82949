"""The systems that busmt is compared with, each in one file, with the inputs and outputs of our own network.

`BASELINES` lists them without importing keras, for command lines; `build` makes one.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from busmt.config import OURS, NetworkConfig
from busmt.errors import ConfigError

if TYPE_CHECKING:
    import keras


_Recipe = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Baseline:
    """A system to compare with.

    Attributes:
        module: file of this package that builds it.
        line: what it is, for a list.
        tasks: what `network.tasks` must be for it.
        published_width: `network.width` of the publication; None where it does not say, or where there is none.
        recipe: settings that belong to the system, beneath those of the user: section to key to value.
    """

    module: str
    line: str
    tasks: str = "both"
    published_width: int | None = None
    recipe: _Recipe = field(default_factory=dict)


_PLAIN: dict[str, Any] = {"encoder": "unet", "attention": False, "refinement": "none"}
_AUMENTE: _Recipe = {
    "network": {**_PLAIN, "refinement": "rules"},
    "balance": {"mode": "round"},
    "augment": {"rotation": 180.0, "scale": 0.0, "stretch": 0.0, "shift": 0.0, "gamma": 0.0, "contrast": 0.0,
                "brightness": 0.0, "noise": 0.0},
    "loss": {"mask": "dice", "label": "focal", "label_smoothing": 0.0, "mask_weight": 0.35, "label_weight": 0.65},
}  # fmt: skip
_BRANCH: _Recipe = {"network": {"refinement": "none"}}

BASELINES: dict[str, Baseline] = {
    "aumente-unetpp": Baseline(
        "aumente", "multi-task UNet++, oversampling, two hard rules (Aumente-Maestro 2025)", "both", 24, _AUMENTE
    ),
    "aumente-nnunet": Baseline(
        "aumente", "multi-task nnU-Net-style network, the same (Aumente-Maestro 2025)", "both", 32, _AUMENTE
    ),
    "unet": Baseline("unet", "U-Net, mask alone (Ronneberger 2015)", "mask", 64, {"network": _PLAIN}),
    "attention-unet": Baseline(
        "attention_unet", "Attention U-Net, mask alone (Oktay 2018)", "mask", 64,
        {"network": {**_PLAIN, "attention": True}},
    ),
    "classifier": Baseline(
        "classifier", "our encoder and a dense layer, class alone", "label", None,
        {"network": {"attention": False, "refinement": "none"}},
    ),
    "aau-net": Baseline(
        "aau_net", "adaptive attention U-Net, mask alone (Chen 2022)", "mask", 32, {"network": _PLAIN}
    ),
    "hybrid-receptive-field": Baseline(
        "hybrid_receptive_field", "U-Net of blocks with mixed receptive fields, mask alone (after Feng, Liu, Xue)",
        "mask", None, {"network": _PLAIN},
    ),
    "branch-bottleneck": Baseline(
        "branches", "our encoder and decoder, class branch at the bottleneck (Vilaça 2026)", "both", None, _BRANCH
    ),
    "branch-decoder": Baseline(
        "branches", "the same, class branch at the decoder's end (Vilaça 2026)", "both", None, _BRANCH
    ),
    "branch-both": Baseline("branches", "the same, class branch at both (Vilaça 2026)", "both", None, _BRANCH),
    "sequential": Baseline(
        "branches", "segmentation, then classification of the masked image (Vilaça 2026)", "both", None, _BRANCH
    ),
    "boundary-aware": Baseline(
        "boundary_aware", "multi-task with a boundary branch (after Liu, He, Xu)", "both", None, {"network": _PLAIN}
    ),
    "nnunet-like": Baseline(
        "nnunet_like", "strong plain U-Net with heavy augmentation, mask alone (after Isensee 2021)", "mask", 32,
        {
            "network": _PLAIN,
            "augment": {"rotation": 180.0, "scale": 0.4, "stretch": 0.3, "shift": 0.2, "gamma": 0.5, "contrast": 0.4,
                        "brightness": 0.2, "noise": 0.2},
        },
    ),
}  # fmt: skip
"""Name, as in `busmt.config.ARCHITECTURES`, to the system."""


def build(config: NetworkConfig) -> keras.Model:
    """Build a baseline; see `busmt.model.network.build_network`.

    Raises:
        ConfigError: it does not have the tasks that `network.tasks` asks for.
        DataError: it starts from ImageNet weights that are not installed.
    """
    check_tasks(config)
    module = importlib.import_module(f"busmt.model.baselines.{BASELINES[config.architecture].module}")
    network: keras.Model = module.build(config)
    return network


def check_tasks(config: NetworkConfig) -> None:
    """Raise ConfigError where a baseline does not have the tasks that are asked for."""
    if config.architecture == OURS:
        return
    expected = BASELINES[config.architecture].tasks
    if config.tasks != expected:
        raise ConfigError(
            f"network.tasks must be {expected} for network.architecture {config.architecture}, got {config.tasks}"
        )


def recipe(name: str) -> dict[str, Any]:
    """Settings that a system is trained with unless the user says otherwise: section to key to value."""
    if name == OURS:
        return {}
    system = BASELINES[name]
    settings: dict[str, Any] = {section: dict(values) for section, values in system.recipe.items()}
    settings["network"] = {**settings.get("network", {}), "architecture": name, "tasks": system.tasks}
    return settings


def published_width(name: str) -> dict[str, Any]:
    """The setting that makes a system as wide as published, as `recipe` gives its own; none where it is not known."""
    width = None if name == OURS else BASELINES[name].published_width
    return {} if width is None else {"network": {"width": width}}
