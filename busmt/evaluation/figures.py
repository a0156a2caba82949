"""Figures of an evaluation, as PNG and SVG.

Colours are from Okabe and Ito's palette for colour-blind readers; classes differ by line style as well.
Figures are built on matplotlib's object interface, so that no window system and no global state is used.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from busmt.config import CLASSES
from busmt.data.images import write_atomically
from busmt.evaluation import calibration
from busmt.evaluation.classification import MALIGNANT, BinaryCurve, binary_curve
from busmt.evaluation.compare import NOT_SHOWN
from busmt.evaluation.intervals import LEVEL, resample
from busmt.evaluation.protocol import Evaluation
from busmt.evaluation.summary import SIZES, scored_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: dict[str, str] = {"normal": "#009E73", "benign": "#0072B2", "malignant": "#D55E00"}
"""One colour per class."""
_STYLES = {"normal": ":", "benign": "--", "malignant": "-"}
_GREY = "#5B6470"
_BAND_RESAMPLES = 400
_GRID = np.linspace(0, 1, 201)


def write_figures(evaluation: Evaluation, folder: str | os.PathLike[str]) -> list[Path]:
    """Write every figure that the evaluation has data for, each as PNG and SVG.

    Returns:
        The written files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in figures_of(evaluation).items():
        written += save_figure(draw(evaluation), folder / name)
    return written


def figures_of(evaluation: Evaluation) -> dict[str, Callable[[Evaluation], Figure]]:
    """Figure name to the function that draws it, only those that have something to show."""
    available: dict[str, Callable[[Evaluation], Figure]] = {}
    if evaluation.per_image["dice"].notna().any():
        available["dice"] = draw_dice
    if evaluation.metrics["classification"]:
        available |= {"confusion": draw_confusion, "roc": draw_roc, "precision_recall": draw_precision_recall}
        available |= {"reliability": draw_reliability, "risk_coverage": draw_risk_coverage}
        if MALIGNANT in evaluation.classes:
            available["referral"] = draw_referral
    return available


def draw_dice(evaluation: Evaluation) -> Figure:
    """Dice of every lesion image, by class and by lesion size, with medians and quartiles."""
    table = evaluation.per_image[evaluation.per_image["lesion_pixels"] > 0]
    groups = [("all lesions", table, _GREY)]
    groups += [(name, table[table["label"] == name], COLOURS[name]) for name in CLASSES]
    groups += [(f"{name} lesion", table[table["lesion_size"] == name], _GREY) for name in SIZES]
    groups = [group for group in groups if len(group[1])]
    figure, axes = _figure(width=1.1 + 0.85 * len(groups))
    generator = np.random.default_rng(0)
    for place, (_, part, colour) in enumerate(groups):
        values = part["dice"].to_numpy()
        jitter = place + generator.uniform(-0.28, 0.28, len(values))
        axes.scatter(jitter, values, s=7, color=colour, alpha=0.35, linewidths=0, rasterized=True)
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        axes.plot([place - 0.33, place + 0.33], [middle, middle], color="black", linewidth=2)
        axes.plot([place, place], [low, high], color="black", linewidth=2)
    axes.set_xticks(range(len(groups)), [f"{name}\nn={len(part)}" for name, part, _ in groups], fontsize=8)
    axes.set(ylabel="Dice per image", ylim=(-0.03, 1.03), title="Segmentation (bar: median and quartiles)")
    axes.grid(axis="y", alpha=0.3)
    return figure


def draw_confusion(evaluation: Evaluation) -> Figure:
    """Confusion matrix, counts and shares of each true class."""
    classes = evaluation.classes
    counts = np.asarray(evaluation.metrics["classification"]["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure(width=4.2)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        dark = shares[row, column] > 0.55
        text = f"{count}\n{100 * shares[row, column]:.0f} %"
        axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes, rotation=90, va="center")
    axes.set(xlabel="predicted", ylabel="true", title="Confusion")
    return figure


def draw_roc(evaluation: Evaluation) -> Figure:
    """ROC curve of every class against the rest, with a bootstrap band for malignant."""
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, alpha=0.6)

    def draw(name: str, curve: BinaryCurve, weighted: list[BinaryCurve]) -> None:
        axes.plot(
            np.append(0, curve.false_positive_rate[0]),
            np.append(0, curve.sensitivity[0]),
            color=COLOURS[name],
            linestyle=_STYLES[name],
            label=f"{name}: {_measure(evaluation, f'auroc_{name}')}",
        )
        if weighted:
            bands = [_roc_on_grid(part) for part in weighted]
            _band(axes, np.concatenate(bands), COLOURS[name])

    _one_versus_rest(evaluation, draw)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC, one class against the rest (AUROC, 95 %)")
    _unit_square(axes, "lower right")
    return figure


def draw_precision_recall(evaluation: Evaluation) -> Figure:
    """Precision-recall curve of every class against the rest, with a bootstrap band for malignant."""
    figure, axes = _figure()

    def draw(name: str, curve: BinaryCurve, weighted: list[BinaryCurve]) -> None:
        axes.plot(
            curve.sensitivity[0],
            curve.precision[0],
            color=COLOURS[name],
            linestyle=_STYLES[name],
            label=f"{name}: {_measure(evaluation, f'average_precision_{name}')}",
        )
        if weighted:
            bands = [_precision_on_grid(part) for part in weighted]
            _band(axes, np.concatenate(bands), COLOURS[name])

    _one_versus_rest(evaluation, draw)
    axes.set(xlabel="recall", ylabel="precision", title="Precision and recall (average precision, 95 %)")
    _unit_square(axes, "lower left")
    return figure


def draw_reliability(evaluation: Evaluation) -> Figure:
    """Share of right answers against the probability that was given, with the number of images per bin."""
    labels, probabilities = scored_labels(evaluation.per_image, evaluation.classes)
    table = calibration.reliability(labels, probabilities, bins=10)
    count, correct, confident = table.count[0], table.correct[0], table.confident[0]
    used = count > 0
    share, mean = correct[used] / count[used], confident[used] / count[used]
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8)
    low, high = _wilson(correct[used], count[used])
    axes.errorbar(
        mean, share, yerr=(np.maximum(share - low, 0), np.maximum(high - share, 0)), fmt="o-", color=COLOURS["benign"]
    )
    for x, y, images in zip(mean, share, count[used], strict=True):
        axes.annotate(f"{images:.0f}", (x, y), xytext=(6, -10), textcoords="offset points", fontsize=7, color=_GREY)
    error = _interval(evaluation.metrics["calibration"]["ece"])
    axes.set(
        xlabel="probability of the predicted class", ylabel="share that was right", title=f"Calibration: ECE {error}"
    )
    _unit_square(axes, None)
    return figure


def draw_risk_coverage(evaluation: Evaluation) -> Figure:
    """Error rate among the most confident images, against their share."""
    labels, probabilities = scored_labels(evaluation.per_image, evaluation.classes)
    coverages, risks = calibration.risk_coverage(labels, probabilities)
    figure, axes = _figure()
    axes.plot(coverages, risks, color=COLOURS["benign"], drawstyle="steps-post")
    area = evaluation.metrics["calibration"]["aurc"]
    axes.set(xlabel="share of images decided by the model", ylabel="error rate among them", xlim=(0, 1))
    axes.set_ylim(0, max(0.05, 1.1 * float(risks.max())))
    axes.set_title(f"Risk and coverage (area {area:.3f})")
    axes.grid(alpha=0.3)
    return figure


def draw_referral(evaluation: Evaluation) -> Figure:
    """Sensitivity for malignancy against the share of cases that a person sees."""
    table = evaluation.per_image
    labels = table["label"].map(CLASSES.index).to_numpy()
    shares, found = calibration.referral_curve(table[[f"p_{name}" for name in CLASSES]].to_numpy(), labels)
    figure, axes = _figure()
    axes.plot(shares, found, color=COLOURS["malignant"], drawstyle="steps-post")
    axes.axhline(calibration.REFERRAL_SENSITIVITY, color=_GREY, linewidth=0.8, linestyle="--")
    rule = evaluation.metrics["calibration"].get("referral")
    if rule:
        axes.plot([rule["referred"]], [rule["sensitivity"]], "o", color="black", label="rule fitted on validation")
        axes.legend(loc="lower right", frameon=False)
    axes.set(xlabel="share of cases referred to a person", ylabel="malignant cases found or referred")
    axes.set(xlim=(-0.01, 1.01), ylim=(min(0.8, float(found.min()) - 0.02), 1.005), title="Referral")
    axes.grid(alpha=0.3)
    return figure


def draw_history(history: pd.DataFrame, kept: int | None = None) -> Figure:
    """Losses and the validation scores after each epoch.

    Args:
        history: a row per epoch, as in history.csv.
        kept: the epoch, from 0, whose weights were kept.
    """
    figure, axes = _figure(width=7.0, height=3.5)
    epochs = history["epoch"].to_numpy() + 1
    scores = {"val_dice": "Dice", "val_balanced_accuracy": "balanced accuracy", "val_auroc": "AUROC"}
    colours = zip(scores.items(), ("#0072B2", "#D55E00", "#009E73"), ("-", "--", ":"), strict=True)
    for (column, name), colour, style in colours:
        if column in history and history[column].notna().any():
            axes.plot(epochs, history[column], color=colour, linestyle=style, label=f"validation {name}")
    if kept is not None:
        axes.axvline(kept + 1, color=_GREY, linewidth=0.8, label=f"kept: epoch {kept + 1}")
    axes.set(xlabel="epoch", ylim=(0, 1), title="Training")
    axes.grid(alpha=0.3)
    if "loss" in history:
        losses = axes.twinx()
        losses.plot(epochs, history["loss"], color="black", alpha=0.4, label="training loss")
        if "val_loss" in history:  # runs of earlier versions lack it
            losses.plot(epochs, history["val_loss"], "-.", color="black", alpha=0.4, label="validation loss")
        losses.set_ylabel("loss")
        losses.spines["top"].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    return figure


def draw_differences(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Figure:
    """What each system gains or loses against ours on the same images: a panel a measure, intervals, zero for ours.

    Args:
        rows: of a table of systems, in its order: `system`, `ours`, `measures` and `differences`.
        titles: measure to the heading of its panel.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 + 1.8 * len(titles), 1.1 + 0.28 * len(rows)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(titles), sharey=True))
    ours, colour = next(row for row in rows if row["ours"])["measures"], COLOURS["benign"]
    for axes, (measure, title) in zip(panels, titles.items(), strict=True):
        axes.axvline(0, color=_GREY, linewidth=0.8)
        for place, row in enumerate(rows):
            gap = row["differences"].get(measure)
            if gap:
                circle = "none" if gap["verdict"] == NOT_SHOWN else "full"
                axes.plot([gap["low"], gap["high"]], [place, place], color=colour, linewidth=1.5)
                axes.plot(gap["value"], place, "o", color=colour, markersize=5, fillstyle=circle)
            elif row["ours"]:
                axes.plot(0, place, "D", color="black", markersize=5)
        axes.set_title(f"{title}\n(ours {ours[measure]['value']:.3f})" if ours.get(measure) else title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.3)
        axes.locator_params(axis="x", nbins=4)  # more labels than these run into one another
    panels[0].set_yticks(
        range(len(rows)), [f"{row['system']} (ours)" if row["ours"] else row["system"] for row in rows]
    )
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel("difference to ours, 95 % interval; a full circle where one is shown", fontsize=9)
    return figure


def save_figure(figure: Figure, path: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write a figure next to each other in several formats; `path` without suffix."""
    written = []
    for suffix in formats:
        target = path.with_name(f"{path.name}.{suffix}")
        write_atomically(target, render(figure, suffix))
        written.append(target)
    return written


def render(figure: Figure, suffix: str) -> bytes:
    """Encoded figure; SVG without a date, so that equal data give equal files."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "busmt", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
    return buffer.getvalue()


def _figure(width: float = 5.2, height: float = 4.2) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(10)
    return figure, axes


def _unit_square(axes: Axes, legend: Literal["lower left", "lower right"] | None) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    if legend:
        axes.legend(loc=legend, frameon=False, fontsize=8)


def _one_versus_rest(evaluation: Evaluation, draw: Callable[[str, BinaryCurve, list[BinaryCurve]], None]) -> None:
    classes, table = evaluation.classes, evaluation.per_image
    labels, probabilities = scored_labels(table, classes)
    names = [MALIGNANT] if len(classes) == 2 and MALIGNANT in classes else list(classes)
    for name in names:
        index = classes.index(name)
        weighted = []
        if name == MALIGNANT and table["group"].nunique() > 1:
            for weights in resample(table["group"].to_numpy(), _BAND_RESAMPLES, seed=0):
                weighted.append(binary_curve(labels == index, probabilities[:, index], weights))
        draw(name, binary_curve(labels == index, probabilities[:, index]), weighted)


def _band(axes: Axes, curves: np.ndarray, colour: str) -> None:
    """Pointwise interval of curves (B, len(_GRID)); undefined ones are left out."""
    curves = curves[np.isfinite(curves).all(axis=1)]
    if len(curves):
        low, high = np.quantile(curves, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0)
        axes.fill_between(_GRID, low, high, color=colour, alpha=0.15, linewidth=0)


def _roc_on_grid(curve: BinaryCurve) -> np.ndarray:
    """Sensitivity (B, len(_GRID)) at each false-positive rate."""
    pairs = zip(curve.false_positive_rate, curve.sensitivity, strict=True)
    return np.stack([np.interp(_GRID, np.append(0, rate), np.append(0, found)) for rate, found in pairs])


def _precision_on_grid(curve: BinaryCurve) -> np.ndarray:
    """Precision (B, len(_GRID)) at the first threshold that reaches each recall."""
    rows = []
    for recall, precision in zip(curve.sensitivity, curve.precision, strict=True):
        places = np.searchsorted(recall, _GRID - 1e-12, side="left")
        rows.append(precision[np.minimum(places, len(precision) - 1)])
    return np.stack(rows)


def _wilson(hits: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % score interval of a share (Wilson, 1927)."""
    z = 1.959964
    share, shrink = hits / count, 1 + z**2 / count
    middle = (share + z**2 / (2 * count)) / shrink
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / shrink
    return middle - half, middle + half


def _measure(evaluation: Evaluation, name: str) -> str:
    return _interval(evaluation.metrics["classification"]["measures"][name])


def _interval(estimate: dict[str, Any]) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None or not np.isfinite(value) else f"{value:.3f}"

    return f"{number(estimate['value'])} ({number(estimate['low'])}-{number(estimate['high'])})"
