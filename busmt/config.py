"""Every default of the system, once.

Frozen dataclasses that read from and write to YAML. Unknown keys, wrong types and values out of
range are refused with the name of the key and the value received.

>>> Config.preset("tiny").network.input_size
64
>>> Config.preset("small", {"training": {"epochs": 3}}).training.epochs
3
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from busmt.errors import ConfigError

CLASSES: tuple[str, ...] = ("normal", "benign", "malignant")
"""Class names in the order of every array, logit, file and label list."""
NORMAL: int = 0
"""Index of the class without a lesion."""
MASK_THRESHOLD: float = 0.5
"""A pixel belongs to the lesion where the refined mask probability exceeds this. Thresholds chosen on
validation are folded into the network's logits, so that 0.5 holds in every exported format."""
IMAGE_INPUT = "image"
MASK_OUTPUT = "mask"
LABEL_OUTPUT = "label"
MASK_LOGITS_OUTPUT = "mask_logits"
LABEL_LOGITS_OUTPUT = "label_logits"
TASKS: tuple[str, ...] = (MASK_OUTPUT, LABEL_OUTPUT)
OURS = "busmt"
"""The architecture that busmt is about; the others are there to compare it with."""
ARCHITECTURES: tuple[str, ...] = (
    OURS, "aumente-unetpp", "aumente-nnunet", "unet", "attention-unet", "classifier", "aau-net",
    "hybrid-receptive-field", "branch-bottleneck", "branch-decoder", "branch-both", "sequential", "boundary-aware",
    "nnunet-like",
)  # fmt: skip
"""Names of the systems that can be trained; `busmt.model.baselines` says what they are."""
MAX_CONFIG_BYTES = 16 * 1024
"""Largest accepted configuration file; a complete one has 2 KiB."""
PRESETS: tuple[str, ...] = ("tiny", "small", "base")
BALANCE_MODES: tuple[str, ...] = ("rotation", "round")
"""How often samples are repeated; see `busmt.data.balance.class_quota`."""
FOLD: str = "{fold}"
"""In `training.start`, stands for the number of the fold."""
PATH_SETTINGS: tuple[tuple[str, str], ...] = (
    ("data", "path"), ("curation", "curated"), ("folds", "file"), ("training", "start"),
)  # fmt: skip
"""Section and key of every setting that names a file or folder."""


def tasks_of(outputs: Iterable[str]) -> tuple[str, ...]:
    """The tasks of a network, an export or an answer: those of `TASKS` that are among the names of its outputs.

    >>> tasks_of(["mask_logits", "mask"])
    ('mask',)
    """
    names = set(outputs)
    return tuple(task for task in TASKS if task in names)


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
    yes_no: tuple[str, str] | None = None,
) -> Any:
    """Dataclass field with its help text and the values that it accepts (bounds are inclusive).

    `yes_no`: the choices that true and false stand for, where files of earlier versions hold those.
    """
    return field(
        default=default, metadata={"help": help, "low": low, "high": high, "choices": choices, "yes_no": yes_no}
    )


@dataclass(frozen=True)
class DataConfig:
    """What to read. Without a path, synthetic phantoms are made."""

    path: str | None = option(None, "BUSI or BUS-BRA folder, or a catalog CSV; none: synthetic phantoms")
    cohort: str = option("auto", "how to read the path", choices=("auto", "busi", "bus-bra", "csv"))
    phantoms_per_class: int = option(150, "phantoms made per class where no path is given", low=10, high=100000)
    phantom_seed: int = option(0, "seed of the phantoms", low=0)


@dataclass(frozen=True)
class CurationConfig:
    """What is removed before training and what counts as the same lesion."""

    enabled: bool = option(True, "curate the cohort before it is split into folds")
    duplicates: str = option(
        "best",
        "duplicate images of one lesion: keep the best copy, or all of them in one group",
        choices=("best", "all"),
    )
    contradictions: str = option(
        "remove", "one lesion filed under two classes: remove all its samples, or keep them", choices=("remove", "keep")
    )
    unusable: str = option(
        "remove",
        "images that are no B-mode scan, and masks that are missing, empty, inverted or of a wrong size",
        choices=("remove", "keep"),
    )
    drop_flags: str | None = option(
        None,
        "flags whose samples are removed too, comma-separated: axilla, marks, multifocal, small, mask-text, "
        "masks-disagree",
    )
    curated: str | None = option(
        None, "name list (CSV of class;id or image_id) of the samples to use, or a built-in list's name"
    )


@dataclass(frozen=True)
class FoldsConfig:
    """How the curated catalog is split. Groups (patients, duplicates) are never split."""

    count: int = option(5, "number of folds", low=2, high=50)
    fold: int | None = option(
        0, "the fold that is held out as test set; nothing (null): none, for pretraining and released models", low=0
    )
    validation_share: float = option(
        0.15, "share of the training side that picks checkpoint and thresholds", low=0.01, high=0.5
    )
    seed: int = option(
        0, "seed of the split; apart from the training seed, so that seeds share folds", low=0, high=2**31 - 1
    )
    file: str | None = option(None, "folds.csv of an earlier run to use instead of a new split")


@dataclass(frozen=True)
class BalanceConfig:
    """Deterministic class-balanced repetition of the training samples."""

    enabled: bool = option(True, "repeat the samples of minority classes")
    mode: str = option(
        "rotation",
        "rotation: up to the target, in a fixed rotation; round: each class round(1 / its share) times, whole",
        choices=BALANCE_MODES,
    )
    target: float = option(
        1.0, "for rotation: samples per class and epoch, relative to the largest class", low=0.1, high=1.0
    )


@dataclass(frozen=True)
class AugmentConfig:
    """Stateless augmentation: a pure function of (seed, epoch, position)."""

    enabled: bool = option(True, "augment training images")
    flip: bool = option(True, "mirror left and right with probability 0.5")
    rotation: float = option(20.0, "largest rotation, degrees", low=0.0, high=180.0)
    scale: float = option(0.35, "largest relative change of size", low=0.0, high=0.9)
    stretch: float = option(0.2, "largest relative change of the aspect ratio", low=0.0, high=0.5)
    shift: float = option(0.15, "largest shift, as a share of the side", low=0.0, high=0.5)
    gamma: float = option(0.5, "largest |ln gamma| of the grey-level curve", low=0.0, high=2.0)
    contrast: float = option(0.3, "largest relative change of contrast", low=0.0, high=0.9)
    brightness: float = option(0.1, "largest shift of the grey level, of a range of 1", low=0.0, high=0.9)
    noise: float = option(0.12, "largest standard deviation of multiplicative, speckle-like noise", low=0.0, high=1.0)


@dataclass(frozen=True)
class NetworkConfig:
    """The network."""

    architecture: str = option(
        OURS, "which system: busmt, or one of those that it is compared with (Baselines)", choices=ARCHITECTURES
    )
    tasks: str = option(
        "both", "both tasks, or a network with the mask or the class alone", choices=("both", MASK_OUTPUT, LABEL_OUTPUT)
    )
    encoder: str = option(
        "unet", "plain U-Net encoder, or an ImageNet-pretrained one", choices=("unet", "efficientnet_lite0")
    )
    pretrained: bool = option(True, "start a pretrained encoder from its ImageNet weights")
    input_size: int = option(128, "side of the square input, pixels; a multiple of 32", low=32, high=1024)
    width: int = option(24, "filters of the first U-Net level; doubled at each level below", low=4, high=256)
    depth: int = option(4, "number of poolings of the plain U-Net encoder", low=2, high=5)
    decoder_width: int = option(24, "filters of the decoder's finest level for pretrained encoders", low=4, high=256)
    dropout: float = option(0.2, "dropout rate at the bottleneck and in the class head", low=0.0, high=0.9)
    attention: bool = option(True, "additive attention gates on the skip connections")
    lesion_shape: bool = option(
        False, "show the class head size, orientation, compactness and margin of the predicted mask"
    )
    refinement: str = option(
        "ours",
        "what makes mask and class agree: the learned layer (ours), two hard rules in inference (rules), or nothing "
        "(none); true and false stand for ours and none",
        choices=("ours", "rules", "none"),
        yes_no=("ours", "none"),
    )


@dataclass(frozen=True)
class LossConfig:
    """Losses of the two tasks and their balance."""

    mask: str = option("dice_bce", "mask loss", choices=("dice_bce", "focal_tversky", "dice"))
    label: str = option("cross_entropy", "class loss", choices=("cross_entropy", "focal"))
    label_smoothing: float = option(0.1, "label smoothing of the class loss", low=0.0, high=0.5)
    mask_weight: float = option(1.0, "weight of the mask loss", low=0.0)
    label_weight: float = option(0.5, "weight of the class loss", low=0.0)
    task_balance: str = option(
        "fixed", "task weights: as given, or learned (homoscedastic uncertainty)", choices=("fixed", "uncertainty")
    )


@dataclass(frozen=True)
class TrainingConfig:
    """The optimisation."""

    epochs: int = option(60, "largest number of epochs", low=1, high=100000)
    batch_size: int = option(16, "images per step", low=1, high=4096)
    learning_rate: float = option(1e-3, "peak learning rate of AdamW", low=1e-8, high=10.0)
    weight_decay: float = option(0.02, "decoupled weight decay", low=0.0, high=10.0)
    warmup_epochs: float = option(2.0, "linear warm-up, epochs", low=0.0)
    clip_norm: float = option(5.0, "largest global gradient norm; 0: no limit", low=0.0)
    ema: float = option(0.98, "decay of the weight average that is evaluated and kept; 0: none", low=0.0, high=0.99999)
    choose: str = option(
        "score",
        "epoch whose weights are kept: the one with the best validation score, with the smallest validation loss, or "
        "the last",
        choices=("score", "loss", "last"),
    )
    patience: int = option(20, "epochs without a better one, as `choose` has it, before training stops", low=1)
    seed: int = option(0, "seed of weights, order and augmentation", low=0, high=2**31 - 1)
    order_seed: int | None = option(
        None,
        "seed of order and augmentation alone; nothing (null): training.seed. Trainings that differ in it alone set "
        "out from the same weights, which can therefore be averaged",
        low=0,
        high=2**31 - 1,
    )
    members: int = option(
        1,
        "for busmt crossval: trainings of each fold, with order seeds of their own, whose weights are averaged",
        low=1,
        high=100,
    )
    start: str | None = option(
        None,
        "finished run or .keras file whose weights the network starts from, where names and shapes agree; {fold} in "
        "its name stands for folds.fold",
    )
    deterministic: bool = option(True, "bit-identical results for the same seed on the same CPU")
    cache: str = option(
        "memory", "keep decoded training images in memory, or decode them each time", choices=("memory", "none")
    )


@dataclass(frozen=True)
class Config:
    """The whole configuration of a run; ``config.yaml`` in a run folder holds exactly this."""

    data: DataConfig = field(default_factory=DataConfig)
    curation: CurationConfig = field(default_factory=CurationConfig)
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @classmethod
    def preset(cls, name: str, overrides: Mapping[str, Any] | None = None) -> Config:
        """Configuration of a preset, with nested overrides on top.

        Args:
            name: "tiny" (tests and phantoms), "small" (laptop) or "base" (as large as the paper's).
            overrides: nested mapping, section to key to value.

        Raises:
            ConfigError: unknown preset, section or key, or a value that is not accepted.
        """
        if name not in PRESETS:
            raise ConfigError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
        return cls.from_dict(merge(_PRESET_OVERRIDES[name], overrides or {}))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "configuration") -> Config:
        """Build and validate a configuration from nested mappings; absent keys keep their defaults."""
        return _build(cls, values, where, "")

    @classmethod
    def from_yaml(cls, path: str | Path) -> Config:
        """Read a configuration file; absent keys keep their defaults."""
        return cls.from_dict(read_yaml(path), str(path))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries, in declaration order."""
        return dataclasses.asdict(self)

    def portable(self) -> dict[str, Any]:
        """As `to_dict`, with paths by their last part: what is kept in results that are shared."""
        values = self.to_dict()
        for section, key in PATH_SETTINGS:
            if values[section][key]:
                values[section][key] = Path(values[section][key]).name
        return values

    def to_yaml(self, path: str | Path) -> None:
        """Write every key with its value."""
        Path(path).write_text(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")

    def replace(self, overrides: Mapping[str, Any]) -> Config:
        """A copy with nested overrides applied and validated."""
        return Config.from_dict(merge(self.to_dict(), overrides))

    def in_fold(self, name: str) -> str:
        """The name of a file or folder, with the number of the fold that is held out where `FOLD` stands in it."""
        return name.replace(FOLD, str(self.folds.fold))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping safely.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not a configuration file")
        with open(path, "rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a configuration file ({_reason(error)})") from error
    if len(content) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: more than {MAX_CONFIG_BYTES // 1024} KiB, too large for a configuration file")
    try:
        values = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}: not valid YAML{line}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, got {type(values).__name__}")
    return values


class _Loader(yaml.SafeLoader):
    """Plain types only, and no aliases: a few lines of them can stand for more than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases are not accepted", mark)
        return super().compose_node(parent, index)


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Nested merge; overrides win. Neither argument is changed."""
    merged = dict(base)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


_PRESET_OVERRIDES: dict[str, dict[str, Any]] = {
    "tiny": {
        "network": {"input_size": 64, "width": 8, "depth": 3, "dropout": 0.1},
        "training": {"epochs": 36, "batch_size": 16, "learning_rate": 4e-3, "ema": 0.97},
    },
    "small": {
        "network": {"encoder": "efficientnet_lite0", "input_size": 160, "decoder_width": 24, "dropout": 0.3},
        "training": {"epochs": 40},
    },
    "base": {
        "network": {"input_size": 256, "width": 32, "depth": 4},
        "training": {"epochs": 150, "batch_size": 8, "patience": 40},
    },
}


def _build(cls: type, values: Any, where: str, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {prefix.rstrip('.') or 'the top level'} must be a mapping, got {_shown(values)}")
    known = {f.name: f for f in fields(cls)}
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {prefix}{_shown_key(key)}{_hint(str(key)[:80], known)}")
    hints = typing.get_type_hints(cls)
    arguments = {}
    for name, value in values.items():
        expected = hints[name]
        if dataclasses.is_dataclass(expected):
            section = {} if value is None else value  # in YAML, a section with every key commented out
            arguments[name] = _build(typing.cast(type, expected), section, where, f"{prefix}{name}.")
        else:
            arguments[name] = _check(value, expected, known[name], where, prefix + name)
    built = cls(**arguments)
    if cls is NetworkConfig and built.input_size % 32:
        raise ConfigError(f"{where}: {prefix}input_size must be a multiple of 32, got {built.input_size}")
    return built


def _check(value: Any, expected: Any, spec: dataclasses.Field[Any], where: str, key: str) -> Any:
    accepted = typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,)
    if spec.metadata["yes_no"] and isinstance(value, bool):
        value = spec.metadata["yes_no"][not value]
    if float in accepted and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else math.inf if value > 0 else -math.inf
    if float in accepted and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            value = float(value)
        except ValueError:
            value = str(value)
    if not any(type(value) is kind for kind in accepted):
        names = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in accepted)
        raise ConfigError(f"{where}: {key} must be {names}, got {_shown(value)}")
    if value is None:
        return value
    low, high, choices = (spec.metadata[name] for name in ("low", "high", "choices"))
    if choices and value not in choices:
        raise ConfigError(f"{where}: {key} must be one of {', '.join(map(str, choices))}, got {_shown(value)}")
    # written so that NaN fails
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"between {low} and {high}" if high is not None else f"at least {low}"
        raise ConfigError(f"{where}: {key} must be {bounds}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = 100
    try:
        return brief.repr(value)
    except ValueError:  # a whole number of thousands of digits
        return type(value).__name__


def _shown_key(key: Any) -> str:
    return key if isinstance(key, str) and len(key) <= 80 else _shown(key)


def _hint(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known keys: {', '.join(known)}"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
