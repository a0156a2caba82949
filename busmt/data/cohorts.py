"""Readers: BUSI folder, BUS-BRA folder, generic CSV. Each returns a Catalog."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pandas as pd

from busmt.config import CLASSES
from busmt.data import images, tables
from busmt.data.catalog import MASK_SEPARATOR, Catalog
from busmt.errors import DataError

_TEXT_COLUMNS = ("image", "label", "masks", "mask", "image_id", "group", "cohort", "patient")
_BUSI_MASK = re.compile(r"^(?P<stem>.+)_mask(?:_\d+)?$")


def read_cohort(path: str | Path, cohort: str = "auto", *, strict: bool = True) -> Catalog:
    """Read a cohort; headers are checked, pixels are not (`Catalog.verify` does that).

    Args:
        path: a BUSI folder (normal/, benign/, malignant/), a BUS-BRA folder (bus_data.csv, Images/,
            Masks/), or a CSV with the columns image, label and optionally masks, image_id, group,
            patient, fold, spacing_mm and metadata; its paths are relative to the CSV's folder.
        cohort: "auto", "busi", "bus-bra" or "csv".
        strict: refuse missing masks and sizes that differ; curation reads without, to tell them all.

    Raises:
        DataError: nothing readable there, or a sample that is not valid; the message names the file.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    kind = _recognise(path) if cohort == "auto" else cohort
    readers = {"busi": read_busi, "bus-bra": read_bus_bra, "csv": read_csv}
    if kind not in readers:
        raise DataError(f"unknown kind of cohort {kind!r}; known: auto, {', '.join(readers)}")
    return readers[kind](path, strict=strict)


def read_busi(path: str | Path, *, strict: bool = True) -> Catalog:
    """BUSI (Al-Dhabyani et al., Data in Brief 28 (2020) 104863): class folders, several masks united.

    Raises:
        DataError: no class folder, no image, a folder of another class, a lesion without mask, a mask without
            image, or sizes that differ.
    """
    folder = _busi_root(Path(path))
    _refuse_other_classes(folder)
    rows = []
    for label in CLASSES:
        class_folder = folder / label
        if not class_folder.is_dir():
            continue
        files = _image_files(class_folder)
        masks: dict[str, list[Path]] = {}
        pictures = []
        for entry in files:
            match = _BUSI_MASK.match(entry.stem)
            if match:
                masks.setdefault(match["stem"], []).append(entry)
            else:
                pictures.append(entry)
        orphans = set(masks) - {entry.stem for entry in pictures}
        if orphans:
            raise DataError(f"{masks[min(orphans)][0]}: mask without its image")
        for entry in pictures:
            own = masks.get(entry.stem, [])
            if not own and label != CLASSES[0]:
                own = [entry.with_name(f"{entry.stem}_mask{entry.suffix}")]
                if strict:
                    raise DataError(f"{entry}: no mask {own[0].name} beside it")
            rows.append(_row(entry.stem, entry, own, label))
    if not rows:
        raise DataError(f"{folder}: no images in {', '.join(name + '/' for name in CLASSES)}")
    table = pd.DataFrame(rows)
    for image_id in table["image_id"][table["image_id"].duplicated()].unique():
        same = table["image_id"] == image_id
        table.loc[same, "image_id"] = table.loc[same, "label"] + "/" + image_id
    table["cohort"] = "busi"
    return _checked(table, str(folder), strict)


def read_bus_bra(path: str | Path, *, strict: bool = True) -> Catalog:
    """BUS-BRA (Gomez-Flores et al., Medical Physics 51 (2024) 3110-3123): patients are the groups.

    The official 5-fold partition becomes the column `fold` (0-4).

    Raises:
        DataError: a table, image or mask is missing, or sizes differ.
    """
    folder = Path(path)
    data = _read_table(folder / "bus_data.csv", ("ID", "Case", "Pathology"))
    folds_file = folder / "5-fold-cv.csv"
    folds = {}
    if folds_file.exists():
        partition = _read_table(folds_file, ("ID", "kFold"))
        folds = dict(zip(partition["ID"], partition["kFold"].astype(int) - 1, strict=True))
    rows = []
    for record in data.to_dict("records"):
        name = str(record["ID"])
        row = _row(
            name,
            folder / "Images" / f"{name}.png",
            [folder / "Masks" / f"{name.replace('bus_', 'mask_', 1)}.png"],
            str(record["Pathology"]).strip().lower(),
        )
        row |= {"group": f"bus-bra case {record['Case']}", "patient": record["Case"], "cohort": "bus-bra"}
        if folds:
            if name not in folds:
                raise DataError(f"{folds_file}: {name} has no fold")
            row["fold"] = folds[name]
        for column in ("Histology", "BIRADS", "Device", "Side"):
            if column in record:
                row[column.lower()] = record[column]
        rows.append(row)
    return _checked(pd.DataFrame(rows), str(folder), strict)


def read_csv(path: str | Path, *, strict: bool = True) -> Catalog:
    """A CSV with one row per image; see `read_cohort` for its columns.

    Raises:
        DataError: a column or file is missing, a class is unknown, or sizes differ.
    """
    path = Path(path)
    table = _read_table(path, ("image", "label"))
    folder = path.resolve().parent
    for column in _TEXT_COLUMNS:
        if column in table:
            table[column] = table[column].fillna("")
    blank = table["image"] == ""
    if blank.any():
        raise DataError(f"{path}: row {int(blank.to_numpy().argmax()) + 1} names no image")
    if "masks" not in table:
        table["masks"] = table.get("mask", "")
    if "image_id" not in table:
        stems = table["image"].map(lambda name: Path(name).stem)
        table["image_id"] = table["image"] if stems.duplicated().any() else stems
    table["image"] = [str(folder / name) for name in table["image"]]
    table["masks"] = [
        MASK_SEPARATOR.join(str(folder / part) for part in masks.split(MASK_SEPARATOR) if part)
        for masks in table["masks"]
    ]
    table["label"] = table["label"].str.strip().str.lower()
    if "group" in table:
        table["group"] = table["group"].where(table["group"] != "", table["image_id"])
    elif "patient" in table:
        table["group"] = ("patient " + table["patient"]).where(table["patient"] != "", table["image_id"])
    if "cohort" not in table:
        table["cohort"] = path.stem
    return _checked(table, str(path), strict)


def _recognise(path: Path) -> str:
    if path.is_file():
        return "csv"
    if (path / "bus_data.csv").exists():
        return "bus-bra"
    if (path / "catalog.csv").exists():
        raise DataError(f"{path}: pass the file {path / 'catalog.csv'} itself")
    _busi_root(path)
    return "busi"


def _busi_root(path: Path) -> Path:
    """The folder with the class folders: the path itself or the official folder below it."""
    for folder in (path, path / "Dataset_BUSI_with_GT"):
        if any((folder / label).is_dir() for label in CLASSES):
            return folder
    if not path.is_dir():
        raise DataError(f"{path}: not a folder")
    hint = "it is empty" if not any(path.iterdir()) else "it has none of them"
    raise DataError(f"{path}: expected BUSI class folders ({', '.join(CLASSES)}) or BUS-BRA's bus_data.csv; {hint}")


def _refuse_other_classes(folder: Path) -> None:
    """A class that busmt does not know must not vanish without a word."""
    for other in sorted(folder.iterdir()):
        if other.is_dir() and other.name not in CLASSES and _image_files(other):
            raise DataError(f"{other}: images of the unknown class {other.name!r}; known: {', '.join(CLASSES)}")


def _image_files(folder: Path) -> list[Path]:
    """Image files in natural order; hidden ones, such as the resource forks that macOS writes, are left out."""
    files = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted((entry for entry in files if entry.suffix.lower() in images.IMAGE_SUFFIXES), key=_natural)


def _row(image_id: str, image: Path, masks: list[Path], label: str) -> dict[str, Any]:
    paths = [_real(path) for path in (image, *masks)]
    return {
        "image_id": image_id,
        "image": paths[0],
        "masks": MASK_SEPARATOR.join(paths[1:]),
        "label": label,
    }


def _real(path: Path) -> str:
    """The path without links; one that a catalog can hold."""
    real = os.path.realpath(path)  # Path.resolve fails where links lead in a circle
    if MASK_SEPARATOR in real:
        raise DataError(f"{path}: a path must not contain {MASK_SEPARATOR!r}; rename it")
    try:
        real.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: its name is not valid UTF-8; rename it") from error
    return real


def _checked(table: pd.DataFrame, source: str, strict: bool) -> Catalog:
    catalog = Catalog(table, source)
    for sample in catalog if strict else ():
        size = images.image_size(sample.image)
        for mask in sample.masks:
            mask_size = images.image_size(mask)
            if mask_size != size:
                raise DataError(f"{mask}: mask is {mask_size[1]}x{mask_size[0]} pixels, its image {size[1]}x{size[0]}")
    return catalog


def _read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    table = tables.read_table(path, dtype=dict.fromkeys(_TEXT_COLUMNS, str))
    missing = [column for column in columns if column not in table]
    if missing:
        raise DataError(f"{path}: the column {missing[0]} is missing; needed: {', '.join(columns)}")
    return table


def _natural(path: Path) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
