"""MultiTaskTrainer: the network with its losses, for `fit`. Runs on any Keras backend."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from busmt.config import (
    LABEL_LOGITS_OUTPUT,
    LABEL_OUTPUT,
    MASK_LOGITS_OUTPUT,
    MASK_OUTPUT,
    Config,
    LossConfig,
    tasks_of,
)
from busmt.model.losses import LABEL_LOSSES, MASK_LOSSES, dice_bce, logits_of, outline
from busmt.model.outputs import BOUNDARY_OUTPUT, DEEP_OUTPUT

_BOUNDARY_WEIGHT = 0.5
"""Share that the outline's loss is added with to the mask's, for networks that have a boundary branch."""


class MultiTaskTrainer(keras.Model):
    """Wraps the network for training; `network` itself is what is saved.

    Its tasks are those of its outputs; the loss of a task that it lacks is left out.

    Each task's loss is the mean of the loss before and after refinement: the raw outputs must be right
    by themselves, or the refinement would have nothing independent to exchange. With
    `task_balance: uncertainty` the weights are learned (Kendall et al., CVPR 2018): each task's
    loss is divided by exp(s) and s is added, s being a trainable log-variance.

    With deep supervision (outputs `mask_logits_deep1`, ...) the mask loss is the weighted mean over the final mask
    and these, each with half the weight of the one before (Isensee et al., Nature Methods 2021). A boundary branch
    adds Dice and cross-entropy of the lesion's outline.

    Args:
        network: as `busmt.model.network.build_network` returns.
        config: losses and task weights.
    """

    def __init__(self, network: keras.Model, config: LossConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network
        self.settings = config
        self.tasks = tasks_of(network.output)
        self.mask_loss, self.label_loss = MASK_LOSSES[config.mask], LABEL_LOSSES[config.label]
        self.parts = {task: keras.metrics.Mean(name=f"{task}_loss") for task in self.tasks}
        self.log_variances = None
        if config.task_balance == "uncertainty":
            self.log_variances = self.add_weight(shape=(len(self.tasks),), initializer="zeros", name="log_variances")
        self.build(network.input_shape)

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, inputs: Any, training: Any = False) -> Any:
        return self.network(inputs, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: Any = True
    ) -> Any:
        losses = self.task_losses(y, y_pred)
        for task, value in losses.items():
            self.parts[task].update_state(value)
        return self.weigh(losses)

    def weigh(self, losses: dict[str, Any]) -> Any:
        """The sum of the tasks' losses, as `config` weighs them."""
        weights = {MASK_OUTPUT: self.settings.mask_weight, LABEL_OUTPUT: self.settings.label_weight}
        total = 0.0
        for position, (task, value) in enumerate(losses.items()):
            if self.log_variances is None:
                total = total + weights[task] * value
            else:
                spread = self.log_variances[position]
                total = total + weights[task] * (ops.exp(-spread) * value + spread)
        return total

    def task_losses(self, truth: Any, predicted: Any) -> dict[str, Any]:
        """Loss of each task that the network has, scalars, means over the batch."""
        losses = {MASK_OUTPUT: self._mask_loss, LABEL_OUTPUT: self._label_loss}
        return {task: losses[task](truth[task], predicted) for task in self.tasks}

    def _mask_loss(self, truth: Any, predicted: Any) -> Any:
        truth = ops.cast(truth, "float32")
        raw = self.mask_loss(truth, predicted[MASK_LOGITS_OUTPUT])
        loss = 0.5 * (raw + self.mask_loss(truth, logits_of(predicted[MASK_OUTPUT])))
        deep = sorted(name for name in predicted if name.startswith(DEEP_OUTPUT))
        weights = [0.5**level for level in range(len(deep) + 1)]
        values = [loss, *(self.mask_loss(truth, predicted[name]) for name in deep)]
        loss = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
        if BOUNDARY_OUTPUT in predicted:
            loss = loss + _BOUNDARY_WEIGHT * dice_bce(outline(truth), predicted[BOUNDARY_OUTPUT])
        return ops.mean(loss)

    def _label_loss(self, truth: Any, predicted: Any) -> Any:
        smoothing = self.settings.label_smoothing
        raw = self.label_loss(truth, ops.softmax(predicted[LABEL_LOGITS_OUTPUT]), smoothing)
        return 0.5 * ops.mean(raw + self.label_loss(truth, predicted[LABEL_OUTPUT], smoothing))

    @property
    def metrics(self) -> Any:
        return [*super().metrics, *self.parts.values()]


def compile_trainer(network: keras.Model, config: Config, steps: int) -> MultiTaskTrainer:
    """A trainer with AdamW, linear warm-up and cosine decay to zero over all epochs.

    Args:
        steps: batches per epoch.
    """
    training = config.training
    warmup = int(round(training.warmup_epochs * steps))
    rate = keras.optimizers.schedules.CosineDecay(
        training.learning_rate if not warmup else 0.0,
        decay_steps=max(1, training.epochs * steps - warmup),
        warmup_target=training.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(
        rate,
        weight_decay=training.weight_decay,
        global_clipnorm=training.clip_norm or None,
        use_ema=training.ema > 0,
        ema_momentum=training.ema or 0.99,
        ema_overwrite_frequency=None,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "class_to_mask", "mask_to_class"])
    trainer = MultiTaskTrainer(network, config.loss)
    # explicit: "auto" may choose XLA with TensorFlow, which is slower on CPUs and not bit-identical to the graph, and
    # torch.compile, which Keras' layers are not made for
    trainer.compile(optimizer=optimizer, jit_compile=keras.backend.backend() == "jax")
    optimizer.build(trainer.trainable_variables)
    return trainer
