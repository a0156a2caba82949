"""busmt explain"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from busmt.cli.common import json_option, print_json, progress, quiet_start, say
from busmt.config import CLASSES

if TYPE_CHECKING:
    from busmt.evaluation.explain import Explainer


@click.command(
    epilog="""\b
Examples:
  busmt explain image.png --model runs/busi
  busmt explain scans/ --model runs/busi --class malignant --out explanations/
\b
Writes NAME_explain.png and NAME_sanity.png for each image, and explanations.json.
Exit code 1: some images could not be read; they are named, the others are done.
"""
)
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE|FOLDER…")
@click.option("--model", required=True, type=click.Path(path_type=Path), help="Run folder or .keras file.")
@click.option("--class", "class_name", type=click.Choice(CLASSES), help="Class to explain  [default: the answer]")
@click.option("--out", default="explanations", show_default=True, type=click.Path(path_type=Path), help="Where to.")
@click.option("--no-sanity", is_flag=True, help="Leave out the figure with shuffled weights.")
@json_option
def explain(
    inputs: tuple[str, ...], model: Path, class_name: str | None, out: Path, no_sanity: bool, as_json: bool
) -> int:
    """Show where the network looked: attention gates and a class activation map over each image.

    The sanity figure shows the same maps with shuffled weights: a map that does not change shows the image,
    and not what was learned.
    """
    from busmt.cli.predict import LINK, collect_inputs, outside_links, refuse_overwriting
    from busmt.errors import BusmtError

    items = list(collect_inputs(inputs))
    refuse_overwriting(out, items)
    network = _network_file(model)
    quiet_start()
    from busmt.evaluation.explain import Explainer
    from busmt.prediction import load_network

    explainer = Explainer(load_network(network))
    target = CLASSES.index(class_name) if class_name else None
    rows: list[dict[str, Any]] = [{"image": str(path), "error": f"{path}: {LINK}"} for path in outside_links(inputs)]
    with progress("Explaining") as advance:
        for done, (path, name) in enumerate(items, start=1):
            row: dict[str, Any] = {"image": str(path)}
            try:
                row |= _explain_one(explainer, path, out / name, target, not no_sanity)
            except BusmtError as error:
                row["error"] = str(error)
            rows.append(row)
            advance(done, len(items))
    failed = [row for row in rows if "error" in row]
    _write(out, model, rows)
    for row in failed:
        say(f"busmt: error: {row['error']}")
    if as_json:
        print_json({"model": str(model), "explanations": rows})
    else:
        say(f"{len(rows) - len(failed)} of {len(rows)} images explained: {out}")
    return 1 if failed else 0


def _network_file(model: Path) -> Path:
    """The .keras file of a run folder, or the file itself; exports keep no gradients and cannot be explained."""
    from busmt.errors import RunError
    from busmt.training.run import Run

    if model.is_dir():
        return Run.open(model).model_path
    if model.suffix != ".keras" or not model.is_file():
        raise RunError(f"{model}: explanations need a run folder or a .keras file")
    return model


def _explain_one(explainer: Explainer, path: Path, place: Path, target: int | None, sanity: bool) -> dict[str, Any]:
    from busmt.data.images import read_colour
    from busmt.data.pipeline import read_image
    from busmt.evaluation.explain import draw_explanation, draw_sanity, sanity_scores
    from busmt.evaluation.figures import save_figure

    picture, letterbox = read_image(str(path), explainer.size)
    image = read_colour(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    explanation = explainer.explain(picture, target)
    figure = draw_explanation(image, letterbox, explanation, path.name)
    written = save_figure(figure, place.with_name(f"{place.name}_explain"), ("png",))
    row: dict[str, Any] = {
        "label": CLASSES[int(explanation.probabilities.argmax())],
        "probabilities": dict(zip(CLASSES, explanation.probabilities.tolist(), strict=True)),
        "explained": CLASSES[explanation.target],
    }
    if sanity:
        results = explainer.randomised(picture)
        written += save_figure(
            draw_sanity(image, letterbox, results), place.with_name(f"{place.name}_sanity"), ("png",)
        )
        row["similarity_after_shuffling"] = sanity_scores(results)
    return row | {"pictures": [str(file) for file in written]}


def _write(out: Path, model: Path, rows: list[dict[str, Any]]) -> None:
    from busmt.data.images import write_json

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "explanations.json", {"model": str(model), "explanations": rows})
