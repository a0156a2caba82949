"""TaskProbability: the probability of a network with one task."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from busmt.config import LABEL_OUTPUT, MASK_OUTPUT, TASKS
from busmt.model.refinement import LIMIT


@keras.saving.register_keras_serializable(package="busmt")
class TaskProbability(layers.Layer):
    """Sigmoid of mask logits, or softmax of class logits, with the weight that is fitted on validation data.

    It stands where `ConsistencyRefinement` stands in a network with both tasks, and holds the same weight for its
    task: `mask_offset`, added to the mask logits, or `temperature`, which divides the class logits.

    Args:
        task: "mask" or "label".

    Input shape:
        (B, ..., 1) for the mask, (B, 3) for the label: logits.

    Output shape:
        As the input: probabilities in (0, 1).

    Example:
        >>> [float(p) for p in TaskProbability("label")(ops.zeros((1, 4)))[0]]
        [0.25, 0.25, 0.25, 0.25]
    """

    def __init__(self, task: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        self.task = task

    def build(self, input_shape: Any) -> None:
        if self.task == MASK_OUTPUT:
            self.mask_offset = self.add_weight(name="mask_offset", initializer="zeros", trainable=False)
        if self.task == LABEL_OUTPUT:
            self.temperature = self.add_weight(name="temperature", initializer="ones", trainable=False)
        self.built = True

    def call(self, logits: Any) -> Any:
        logits = ops.clip(logits, -LIMIT, LIMIT)
        if self.task == MASK_OUTPUT:
            return ops.sigmoid(logits + self.mask_offset)
        return ops.softmax(logits / self.temperature, axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape)

    def get_config(self) -> Any:
        return {**super().get_config(), "task": self.task}
