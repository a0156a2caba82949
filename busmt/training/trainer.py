"""MultiTaskTrainer: the network with its losses, for `fit`. Runs on any Keras backend."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from busmt.config import LABEL_LOGITS_OUTPUT, LABEL_OUTPUT, MASK_LOGITS_OUTPUT, MASK_OUTPUT, Config, LossConfig
from busmt.model.losses import MASK_LOSSES, label_cross_entropy, logits_of

LOSS_NAMES: tuple[str, ...] = ("mask_loss", "label_loss")


class MultiTaskTrainer(keras.Model):
    """Wraps the network for training; `network` itself is what is saved.

    Each task's loss is the mean of the loss before and after refinement: the raw outputs must be right
    by themselves, or the refinement would have nothing independent to exchange. With
    `task_balance: uncertainty` the weights are learned (Kendall et al., CVPR 2018): each task's
    loss is divided by exp(s) and s is added, s being a trainable log-variance.

    Args:
        network: as `busmt.model.network.build_network` returns.
        config: losses and task weights.
    """

    def __init__(self, network: keras.Model, config: LossConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = network
        self.settings = config
        self.mask_loss = MASK_LOSSES[config.mask]
        self.parts = {name: keras.metrics.Mean(name=name) for name in LOSS_NAMES}
        self.log_variances = None
        if config.task_balance == "uncertainty":
            self.log_variances = self.add_weight(shape=(2,), initializer="zeros", name="log_variances")
        self.build(network.input_shape)

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, inputs: Any, training: Any = False) -> Any:
        return self.network(inputs, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: Any = True
    ) -> Any:
        losses = self.task_losses(y, y_pred)
        for name, value in zip(LOSS_NAMES, losses, strict=True):
            self.parts[name].update_state(value)
        weights = (self.settings.mask_weight, self.settings.label_weight)
        total = 0.0
        for task, (weight, value) in enumerate(zip(weights, losses, strict=True)):
            if self.log_variances is None:
                total = total + weight * value
            else:
                total = total + weight * (ops.exp(-self.log_variances[task]) * value + self.log_variances[task])
        return total

    def task_losses(self, truth: Any, predicted: Any) -> tuple[Any, Any]:
        """(mask loss, class loss), scalars, means over the batch."""
        mask = ops.cast(truth[MASK_OUTPUT], "float32")
        smoothing = self.settings.label_smoothing
        raw_mask = self.mask_loss(mask, predicted[MASK_LOGITS_OUTPUT])
        refined_mask = self.mask_loss(mask, logits_of(predicted[MASK_OUTPUT]))
        raw_label = label_cross_entropy(truth[LABEL_OUTPUT], ops.softmax(predicted[LABEL_LOGITS_OUTPUT]), smoothing)
        refined_label = label_cross_entropy(truth[LABEL_OUTPUT], predicted[LABEL_OUTPUT], smoothing)
        return 0.5 * ops.mean(raw_mask + refined_mask), 0.5 * ops.mean(raw_label + refined_label)

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
    # explicit: "auto" may choose XLA, which is slower here on CPUs and not bit-identical to the graph
    trainer.compile(optimizer=optimizer, jit_compile=keras.backend.backend() != "tensorflow")
    optimizer.build(trainer.trainable_variables)
    return trainer
