"""The report and the model card say what the files of a run say."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from html.parser import HTMLParser

import h5py
import numpy as np
import pandas as pd
import pytest
from disc_cohort import FakePredictor, evaluate_with_cases, make_cohort, make_run

from busmt.data.images import plain
from busmt.errors import DataError
from busmt.evaluation.card import write_card
from busmt.evaluation.evaluate import evaluate_run
from busmt.evaluation.headline import headline
from busmt.evaluation.narrative import limitations, parameter_count, protocol_sentences, run_facts
from busmt.evaluation.report import read_externals, read_home, write_report
from busmt.training.run import Run


def put_network(run):
    """A .keras file of 123 weights, which is all that the report reads of it."""
    with h5py.File(run.path / "weights.h5", "w") as file:
        file.create_dataset("layers/dense/vars/0", data=np.zeros((12, 10), np.float32))
        file.create_dataset("layers/dense/vars/1", data=np.zeros(3, np.float32))
    with zipfile.ZipFile(run.path / "model.keras", "w") as archive:
        archive.write(run.path / "weights.h5", "model.weights.h5")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two folds; the first was also scored on a cohort of two classes."""
    folder = tmp_path_factory.mktemp("report")
    catalog = make_cohort(folder / "data")
    opened = []
    for fold in range(2):
        run = Run.open(make_run(folder / f"run <{fold}>", catalog, fold=fold))
        put_network(run)
        evaluate_with_cases(run, FakePredictor())
        opened.append(run)
    other = make_cohort(folder / "other", per_class=4, classes=("benign", "malignant"), seed=3)
    other.table["cohort"] = "other-clinic"
    evaluate_run(opened[0], FakePredictor(), external=other, resamples=50, pictures=False)
    return opened


class Page(HTMLParser):
    """Text, links and sources of a page; fails on tags that are not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.links, self.ids, self.text = [], [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values["id"]} if "id" in values else set()
        self.sources += [values["src"]] if "src" in values else []
        self.links += [values["href"]] if "href" in values else []
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(runs):
    return Page(write_report(runs[:1]).read_text())


def test_the_page_needs_no_network_and_is_well_formed(page):
    assert page.open == []
    assert page.sources
    assert all(source.startswith("data:image/") for source in page.sources)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)


def test_the_page_holds_every_figure_of_the_metrics(page, runs):
    text = " ".join(" ".join(page.text).split())
    for scored in (read_home(runs[:1]), *read_externals(runs[0])):
        for line in headline(scored.metrics):
            assert f"{line.name} {line.value} {line.interval}".strip() in re.sub(r"\s+", " ", text), line.name
    for heading in ("Protocol", "External cohort: other-clinic", "Subgroups", "Limitations", "To repeat it"):
        assert heading in text
    assert read_home(runs[:1]).metrics["provenance"]["model_sha256"] in text


def test_names_are_escaped(runs):
    html = write_report(runs[:1]).read_text()
    assert "run &lt;0&gt;" in html
    assert "run <0>" not in html


def test_folds_are_put_together(runs, tmp_path):
    home = read_home(runs)
    assert home.metrics["images"] == 24
    single = [read_home([run]).evaluation.per_image for run in runs]
    expected = np.nanmean(np.concatenate([table["dice"] for table in single]))
    assert home.metrics["segmentation"]["measures"]["dice"]["value"] == pytest.approx(expected)
    text = write_report(runs, tmp_path / "both.html").read_text()
    metrics = json.loads((tmp_path / "both.metrics.json").read_text())
    assert metrics["segmentation"] == plain(home.metrics["segmentation"])
    assert metrics["provenance"]["fold"] == [0, 1]
    assert len(pd.read_csv(tmp_path / "both.per_image.csv")) == 24
    assert "Fold by fold" in text
    assert "<h1>run &lt;0&gt;, run &lt;1&gt;</h1>" in text
    assert "2 networks were trained, each with another fold held out (folds 0, 1)" in text
    with pytest.raises(DataError, match="tested by two of the runs"):
        read_home([runs[0], runs[0]])


def test_a_run_without_evaluation_is_named(tmp_path):
    run = Run.open(make_run(tmp_path / "bare", make_cohort(tmp_path / "data")))
    with pytest.raises(DataError, match="run `busmt evaluate` first"):
        write_report([run])


def test_protocol_says_what_was_done(runs):
    facts = run_facts(runs[0])
    text = " ".join(protocol_sentences([facts]))
    parts = runs[0].folds()["part"].value_counts()
    assert f"{parts['test']} images" in text
    assert f"{parts['train']} images were trained on; {parts['validation']} others" in text
    assert "24 images (8 normal, 8 benign, 8 malignant) in 12 groups" in text
    assert facts["parameters"] == 123


def test_limitations_follow_from_the_facts(runs):
    real, home = run_facts(runs[0]), read_home(runs[:1]).metrics
    externals = [scored.metrics for scored in read_externals(runs[0])]
    alone, with_other = limitations([real], home), limitations([real], home, externals)
    assert any("other scanners" in note for note in alone)
    assert not any("other scanners" in note for note in with_other)
    assert any("On other-clinic" in note for note in with_other)
    assert any("does not name patients" in note for note in alone)
    assert not any("does not name patients" in note for note in limitations([{**real, "patients": True}], home))
    assert any("1 of 2 folds" in note for note in alone)
    assert any("phantoms" in note for note in limitations([{**real, "phantoms": True}], home))
    seeds = [real, {**real, "training": {**real["training"], "seed": 7}}]
    assert not any("One training seed" in note for note in limitations(seeds, home))


def test_removed_images_are_told(runs):
    (runs[0].path / "decisions.csv").write_text("image_id,decision,rule\na,kept,\nb,removed,duplicate\n")
    try:
        assert "1 further images were removed before the split (1 as duplicate)" in " ".join(
            protocol_sentences([run_facts(runs[0])])
        )
    finally:
        (runs[0].path / "decisions.csv").unlink()


def test_the_card_of_a_run_on_all_images_has_the_figures_of_a_cross_validation(runs, tmp_path):
    pooled = read_home(runs).metrics | {"cross_validation": {"folds": [0, 1]}}
    pooled["provenance"] |= {"part": "cross-validation"}
    markdown, data = write_card(runs[0], tmp_path, pooled)
    card, text = json.loads(data.read_text()), markdown.read_text()
    assert card["metrics"][0]["part"] == "cross-validation"
    assert f"### discs, cross-validation: {pooled['images']} images" in text
    assert "No image was left to test it: the figures are those of 2 networks of the same configuration" in text
    for line in headline(pooled):
        if line.main:
            assert f"| {line.name} | {line.value} | {line.interval} |" in text
    assert not any("folds was tested" in note for note in card["limitations"])


def test_the_card_of_an_average_says_that_it_is_one(runs, tmp_path):
    pooled = read_home(runs).metrics | {"cross_validation": {"folds": [0, 1]}}
    pooled["provenance"] |= {"part": "cross-validation"}
    run = Run.open(shutil.copytree(runs[0].path, tmp_path / "average"))
    members = [{"run": one.name, "fold": fold, "seed": 0, "sha256": "0" * 64} for fold, one in enumerate(runs)]
    run.write_json("environment.json", run.environment() | {"ensemble": members, "averaged": "weights"})
    text = write_card(run, tmp_path / "card", pooled)[0].read_text()
    assert "This network averages the weights of 2 networks, each trained with another of" in text
    assert "An average of 2 trainings of at most" in text


def test_model_card_has_no_holes(runs, tmp_path):
    markdown, data = write_card(runs[0], tmp_path)
    card = json.loads(data.read_text())
    assert [block["cohort"] for block in card["metrics"]] == ["discs", "other-clinic"]
    assert card["training"]["parameters"] == 123
    assert len(card["hashes"]["network_sha256"]) == 64
    text = markdown.read_text()
    assert "None" not in text
    assert "{{" not in text
    for line in card["metrics"][0]["lines"]:
        assert f"| {line['name']} | {line['value']} | {line['interval']} |" in text
    for note in card["limitations"]:
        assert note in text


def test_a_file_that_is_no_network_is_named(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"no zip")
    with pytest.raises(DataError, match="not a .keras file"):
        parameter_count(tmp_path / "model.keras")
