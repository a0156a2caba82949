"""The validation score that picks the checkpoint, and what is fitted on validation data."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from busmt.config import CLASSES, LABEL_OUTPUT, MASK_OUTPUT, MASK_THRESHOLD, NORMAL, tasks_of
from busmt.evaluation.calibration import fit_referral, fit_temperature
from busmt.evaluation.classification import MALIGNANT
from busmt.model.network import REFINEMENT_LAYER
from busmt.training.trainer import MultiTaskTrainer

_THRESHOLDS = np.round(np.arange(0.2, 0.81, 0.05), 2)


class ValidationSet:
    """The validation part, letterboxed once and scored on the model grid. Volumes have a third S.

    Args:
        images: (N, S, S, 1), float32, in [0, 1].
        masks: (N, S, S, 1), uint8, in {0, 1}.
        labels: (N,), class indices.
        batch_size: images per step.
    """

    def __init__(self, images: np.ndarray, masks: np.ndarray, labels: np.ndarray, batch_size: int):
        self.images, self.masks, self.labels = images, masks.astype(bool), labels
        self.batch_size = batch_size

    def predict(self, network: keras.Model) -> dict[str, np.ndarray]:
        """By task, as far as the network has it: refined lesion probabilities (N, S, S, 1) as "mask", class
        probabilities (N, 3) as "label"."""
        outputs = self.outputs(network)
        return {task: outputs[task] for task in tasks_of(outputs)}

    def outputs(self, network: keras.Model) -> dict[str, np.ndarray]:
        """All outputs of `network` by name, each (N, ...)."""
        parts = []
        for start in range(0, len(self.images), self.batch_size):
            batch = self.images[start : start + self.batch_size]
            count = len(batch)
            if count < self.batch_size and keras.backend.backend() == "jax":
                # JAX compiles anew for every shape, which costs more than a few images more
                batch = np.pad(batch, [(0, self.batch_size - count)] + [(0, 0)] * (batch.ndim - 1))
            outputs = network.predict_on_batch(batch)
            parts.append({name: np.asarray(value)[:count] for name, value in outputs.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def loss(self, trainer: MultiTaskTrainer, outputs: dict[str, np.ndarray]) -> float:
        """What training minimises, of the answers of `outputs`: the mean over images, each counted once."""
        truth = {MASK_OUTPUT: self.masks, LABEL_OUTPUT: np.eye(len(CLASSES))[self.labels]}
        tensors = [
            {name: ops.convert_to_tensor(value, "float32") for name, value in values.items()}
            for values in (truth, outputs)
        ]
        return float(trainer.weigh(trainer.task_losses(*tensors)))

    def score(self, network: keras.Model) -> dict[str, float]:
        """Scores of the refined outputs of `network`, as `score_answers` has them."""
        return self.score_answers(self.predict(network))

    def score_answers(self, answers: dict[str, np.ndarray]) -> dict[str, float]:
        """Scores of what `predict` returns; `val_score` is what training maximises.

        `val_score` is the mean of lesion Dice and class score; the class score is the mean of
        balanced accuracy, which is what is asked for, and macro AUROC, which is steadier on few images. A network
        with one task has the scores of that task alone.
        """
        scores: dict[str, float] = {}
        tasks = []
        if MASK_OUTPUT in answers:
            lesion = _any(self.masks)
            found = answers[MASK_OUTPUT][lesion] > MASK_THRESHOLD
            dice = float(dice_per_image(self.masks[lesion], found).mean()) if lesion.any() else 1.0
            scores["val_dice"] = dice
            tasks.append(dice)
        if LABEL_OUTPUT in answers:
            accuracy, auroc = class_scores(self.labels, answers[LABEL_OUTPUT])
            scores |= {"val_balanced_accuracy": accuracy, "val_auroc": auroc}
            tasks.append(0.5 * (accuracy + auroc))
        return {**scores, "val_score": sum(tasks) / len(tasks)}

    def fit_threshold(self, network: keras.Model) -> float:
        """The mask threshold with the best lesion Dice, of a network with masks; folded into its last layer.

        Images that are classified as normal have an empty mask whatever the threshold, and take no part.
        """
        answers = self.predict(network)
        maps, used = answers[MASK_OUTPUT], _any(self.masks)
        if LABEL_OUTPUT in answers:
            used &= answers[LABEL_OUTPUT].argmax(axis=1) != NORMAL
        if not used.any():
            return MASK_THRESHOLD
        dice = [dice_per_image(self.masks[used], maps[used] > t).mean() for t in _THRESHOLDS]
        # of equally good thresholds the one nearest to the middle
        best = max(range(len(dice)), key=lambda i: (round(dice[i], 3), -abs(_THRESHOLDS[i] - MASK_THRESHOLD)))
        threshold = float(_THRESHOLDS[best])
        offset = network.get_layer(REFINEMENT_LAYER).mask_offset
        offset.assign(float(np.asarray(offset)) - np.log(threshold / (1 - threshold)))
        return threshold


def calibrate(network: keras.Model, validation: ValidationSet) -> dict[str, Any]:
    """Fit what each task of the network has to be fitted, and write it down with the scores that come of it."""
    tasks = tasks_of(network.output)
    fitted: dict[str, float | None] = {}
    if MASK_OUTPUT in tasks:
        fitted["mask_threshold"] = validation.fit_threshold(network)
    if LABEL_OUTPUT in tasks:
        temperature = fit_temperature(validation.predict(network)[LABEL_OUTPUT], validation.labels)
        network.get_layer(REFINEMENT_LAYER).temperature.assign(temperature)
        fitted["temperature"] = float(temperature)
    answers = validation.predict(network)
    if LABEL_OUTPUT in tasks:
        malignant = bool((validation.labels == CLASSES.index(MALIGNANT)).any())  # without it there is no rule to fit
        referral = fit_referral(answers[LABEL_OUTPUT], validation.labels).threshold if malignant else None
        fitted["referral_threshold"] = referral
    facts = {"fitted_on": "validation", "images": len(validation.labels)}
    return {**facts, **fitted, "validation": validation.score_answers(answers)}


def dice_per_image(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Dice of bool masks (N, ..., 1), (N,); 1 where both are empty."""
    space = tuple(range(1, truth.ndim))
    overlap = (truth & predicted).sum(axis=space)
    total = truth.sum(axis=space) + predicted.sum(axis=space)
    return np.where(total > 0, 2 * overlap / np.maximum(total, 1), 1.0)


def _any(masks: np.ndarray) -> np.ndarray:
    """Which masks hold a lesion, (N,), bool."""
    return np.asarray(masks.reshape(len(masks), -1).any(axis=1))


def class_scores(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Balanced accuracy and macro one-vs-rest AUROC over the classes that occur."""
    from sklearn.metrics import roc_auc_score

    present = np.unique(labels)
    hits = [float((probabilities[labels == name].argmax(axis=1) == name).mean()) for name in present]
    if len(present) < 2:
        return float(np.mean(hits)), 1.0
    areas = [roc_auc_score(labels == name, probabilities[:, name]) for name in present]
    return float(np.mean(hits)), float(np.mean(areas))
