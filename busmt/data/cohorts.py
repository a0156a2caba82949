"""Readers: BUSI folder, BUS-BRA folder, generic CSV. Each returns a Catalog."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from busmt.config import CLASSES
from busmt.data import images
from busmt.data.catalog import MASK_SEPARATOR, Catalog
from busmt.errors import DataError

_BUSI_MASK = re.compile(r"^(?P<stem>.+)_mask(?:_\d+)?$")


def read_cohort(path: str | Path, cohort: str = "auto") -> Catalog:
    """Read a cohort; headers are checked, pixels are not (`Catalog.verify` does that).

    Args:
        path: a BUSI folder (normal/, benign/, malignant/), a BUS-BRA folder (bus_data.csv, Images/,
            Masks/), or a CSV with the columns image, label and optionally masks, image_id, group,
            patient, fold, spacing_mm and metadata; its paths are relative to the CSV's folder.
        cohort: "auto", "busi", "bus-bra" or "csv".

    Raises:
        DataError: nothing readable there, or a sample that is not valid; the message names the file.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    kind = _recognise(path) if cohort == "auto" else cohort
    reader = {"busi": read_busi, "bus-bra": read_bus_bra, "csv": read_csv}[kind]
    return reader(path)


def read_busi(path: str | Path) -> Catalog:
    """BUSI (Al-Dhabyani et al., Data in Brief 28 (2020) 104863): class folders, several masks united.

    Raises:
        DataError: no class folder, no image, a lesion without mask, a mask without image, or sizes that differ.
    """
    folder = _busi_root(Path(path))
    rows = []
    for label in CLASSES:
        class_folder = folder / label
        if not class_folder.is_dir():
            continue
        files = sorted(
            (entry for entry in class_folder.iterdir() if entry.suffix.lower() in images.IMAGE_SUFFIXES), key=_natural
        )
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
                raise DataError(f"{entry}: no mask {entry.stem}_mask{entry.suffix} beside it")
            rows.append(_row(entry.stem, entry, own, label))
    if not rows:
        raise DataError(f"{folder}: no images in {', '.join(name + '/' for name in CLASSES)}")
    table = pd.DataFrame(rows)
    for image_id in table["image_id"][table["image_id"].duplicated()].unique():
        same = table["image_id"] == image_id
        table.loc[same, "image_id"] = table.loc[same, "label"] + "/" + image_id
    table["cohort"] = "busi"
    return _checked(table, str(folder))


def read_bus_bra(path: str | Path) -> Catalog:
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
    return _checked(pd.DataFrame(rows), str(folder))


def read_csv(path: str | Path) -> Catalog:
    """A CSV with one row per image; see `read_cohort` for its columns.

    Raises:
        DataError: a column or file is missing, a class is unknown, or sizes differ.
    """
    path = Path(path)
    table = _read_table(path, ("image", "label"))
    folder = path.resolve().parent
    for column in ("image_id", "masks", "group", "cohort", "patient"):
        if column in table:
            table[column] = table[column].map(lambda cell: "" if pd.isna(cell) else str(cell))
    if "masks" not in table:
        table["masks"] = table["mask"].fillna("") if "mask" in table else ""
    if "image_id" not in table:
        table["image_id"] = [Path(str(name)).stem for name in table["image"]]
    table["image"] = [str(folder / str(name)) for name in table["image"]]
    table["masks"] = [
        MASK_SEPARATOR.join(str(folder / part) for part in str(masks).split(MASK_SEPARATOR) if part)
        for masks in table["masks"]
    ]
    table["label"] = table["label"].map(lambda cell: str(cell).strip().lower())
    if "group" in table:
        table["group"] = table["group"].where(table["group"] != "", table["image_id"])
    elif "patient" in table:
        table["group"] = "patient " + table["patient"]
    if "cohort" not in table:
        table["cohort"] = path.stem
    return _checked(table, str(path))


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


def _row(image_id: str, image: Path, masks: list[Path], label: str) -> dict:
    return {
        "image_id": image_id,
        "image": str(image.resolve()),
        "masks": MASK_SEPARATOR.join(str(mask.resolve()) for mask in masks),
        "label": label,
    }


def _checked(table: pd.DataFrame, source: str) -> Catalog:
    catalog = Catalog(table, source)
    for sample in catalog:
        size = images.image_size(sample.image)
        for mask in sample.masks:
            mask_size = images.image_size(mask)
            if mask_size != size:
                raise DataError(f"{mask}: mask is {mask_size[1]}x{mask_size[0]} pixels, its image {size[1]}x{size[0]}")
    return catalog


def _read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path}: not a readable CSV table") from error
    missing = [column for column in columns if column not in table]
    if missing:
        raise DataError(f"{path}: the column {missing[0]} is missing; needed: {', '.join(columns)}")
    return table


def _natural(path: Path) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
