"""From logits to the outputs of a network: one end for every system, with one task or two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import layers

from busmt.config import CLASSES, LABEL_LOGITS_OUTPUT, LABEL_OUTPUT, MASK_LOGITS_OUTPUT, MASK_OUTPUT
from busmt.model.probability import TaskProbability
from busmt.model.refinement import ConsistencyRefinement
from busmt.model.rules import RuleRefinement

REFINEMENT_LAYER = "refinement"
"""Name of the last layer with weights: whatever its kind, it holds `mask_offset` and `temperature` of its tasks."""
DEEP_OUTPUT = "mask_logits_deep"
"""Beginning of the names of further mask logits (B, S, S, 1), the finest first: deep supervision."""
BOUNDARY_OUTPUT = "boundary_logits"
"""Logits of the lesion's outline (B, S, S, 1), for training."""


def finish(
    image: Any,
    mask_logits: Any = None,
    label_logits: Any = None,
    refinement: str = "none",
    auxiliary: Mapping[str, Any] | None = None,
) -> keras.Model:
    """The network from its input and its logits.

    Args:
        image: the input.
        mask_logits: (B, S, S, 1), or None for a network without masks.
        label_logits: (B, 3), output of `label_head`, or None for a network without classes.
        refinement: what makes both agree: "ours", "rules" or "none"; without meaning for one task.
        auxiliary: further outputs for the loss, by name: `DEEP_OUTPUT` with a number behind it, or `BOUNDARY_OUTPUT`.

    Returns:
        A model with the outputs `mask` and `mask_logits`, `label` and `label_logits`, as far as it has the task, and
        the auxiliary ones.
    """
    outputs: dict[str, Any] = {}
    if mask_logits is not None:
        mask_logits = layers.Identity(name=MASK_LOGITS_OUTPUT)(mask_logits)
    if mask_logits is not None and label_logits is not None:
        mask, label = _refinement(refinement)([mask_logits, label_logits])
    else:
        task = MASK_OUTPUT if mask_logits is not None else LABEL_OUTPUT
        alone = TaskProbability(task, name=REFINEMENT_LAYER)(mask_logits if label_logits is None else label_logits)
        mask = label = alone
    if mask_logits is not None:
        outputs |= {MASK_OUTPUT: layers.Identity(name=MASK_OUTPUT)(mask), MASK_LOGITS_OUTPUT: mask_logits}
    if label_logits is not None:
        outputs |= {LABEL_OUTPUT: layers.Identity(name=LABEL_OUTPUT)(label), LABEL_LOGITS_OUTPUT: label_logits}
    for name, logits in (auxiliary or {}).items():
        outputs[name] = layers.Identity(name=name)(logits)
    return keras.Model(image, outputs, name="busmt")


def label_head(features: Any) -> Any:
    """Class logits (B, 3) from a vector of features."""
    return layers.Dense(len(CLASSES), name=LABEL_LOGITS_OUTPUT)(features)


def _refinement(kind: str) -> Any:
    if kind == "rules":
        return RuleRefinement(name=REFINEMENT_LAYER)
    return ConsistencyRefinement(exchange=kind == "ours", name=REFINEMENT_LAYER)
