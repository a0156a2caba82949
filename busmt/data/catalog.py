"""Catalog: a validated table with one row per image.

>>> import pandas as pd
>>> Catalog(pd.DataFrame({"image_id": ["a"], "image": ["a.png"], "masks": [""], "label": ["cyst"]}))
Traceback (most recent call last):
busmt.errors.DataError: catalog: image a has the unknown class 'cyst'; known: normal, benign, malignant
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from busmt.config import CLASSES
from busmt.data import images, tables
from busmt.errors import DataError

REQUIRED_COLUMNS: tuple[str, ...] = ("image_id", "image", "masks", "label")
MASK_SEPARATOR = "|"


@dataclass(frozen=True)
class Sample:
    """One row of a catalog.

    Attributes:
        image_id: unique name; for BUSI the file's stem, such as "benign (1)".
        image: path of the image.
        masks: paths of its mask files; their union is the lesion mask.
        label: class name.
        group: everything that shows the same lesion or patient has the same group.
    """

    image_id: str
    image: str
    masks: tuple[str, ...]
    label: str
    group: str

    def read_mask(self) -> np.ndarray:
        """Lesion mask (H, W), bool, checked against the image's size. Raises DataError."""
        return images.read_mask(self.masks, images.image_size(self.image))


class Catalog:
    """A validated pandas table, one row per image.

    Columns: `image_id` (unique), `image` (path), `masks` (paths joined by "|", may be empty for a normal),
    `label` (class name), `group` (default: the image_id), `cohort`, and optionally `patient`, `fold`
    (official test fold, from 0), `spacing_mm` (pixel spacing) and any metadata.

    Args:
        table: the rows; a copy is kept, sorted as given.
        source: what to call the table in error messages.

    Raises:
        DataError: a column or mask is missing, an image_id occurs twice, or a class is unknown.
    """

    def __init__(self, table: pd.DataFrame, source: str = "catalog"):
        table = table.copy().reset_index(drop=True)
        missing = [column for column in REQUIRED_COLUMNS if column not in table]
        if missing:
            raise DataError(f"{source}: the column {missing[0]} is missing; needed: {', '.join(REQUIRED_COLUMNS)}")
        if table.empty:
            raise DataError(f"{source}: holds no image")
        for column in REQUIRED_COLUMNS:
            table[column] = table[column].fillna("").astype(str)
        for optional, fallback in (("group", table["image_id"]), ("cohort", "")):
            if optional not in table:
                table[optional] = fallback
            table[optional] = table[optional].fillna(fallback).astype(str)
        blank = table[(table["image_id"] == "") | (table["image"] == "")]
        if len(blank):
            raise DataError(f"{source}: row {blank.index[0] + 1} has no image_id or image")
        twice = table["image_id"][table["image_id"].duplicated()]
        if len(twice):
            raise DataError(f"{source}: the image_id {twice.iloc[0]!r} occurs twice")
        for image_id, label, masks in zip(table["image_id"], table["label"], table["masks"], strict=True):
            if label not in CLASSES:
                raise DataError(
                    f"{source}: image {image_id} has the unknown class {label!r}; known: {', '.join(CLASSES)}"
                )
            if label != CLASSES[0] and not masks:
                raise DataError(f"{source}: image {image_id} is {label} but has no mask")
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Sample]:
        for row in self.table[[*REQUIRED_COLUMNS, "group"]].itertuples(index=False):
            masks = tuple(part for part in row.masks.split(MASK_SEPARATOR) if part)
            yield Sample(row.image_id, row.image, masks, row.label, row.group)

    def __getitem__(self, position: int) -> Sample:
        return next(iter(self.take([position])))

    @property
    def ids(self) -> list[str]:
        """The image_ids, in row order."""
        return self.table["image_id"].tolist()

    @property
    def labels(self) -> np.ndarray:
        """Class indices (N,), int64, in row order."""
        return self.table["label"].map(CLASSES.index).to_numpy(np.int64)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that occur, in the order of `CLASSES`."""
        present = set(self.table["label"])
        return tuple(name for name in CLASSES if name in present)

    def counts(self) -> dict[str, int]:
        """Images per class, every class named."""
        return {name: int((self.table["label"] == name).sum()) for name in CLASSES}

    def take(self, positions: Sequence[int] | np.ndarray) -> Catalog:
        """The rows at these positions, in this order."""
        return Catalog(self.table.iloc[np.asarray(positions, dtype=np.int64)])

    def select(self, ids: Iterable[str]) -> Catalog:
        """The rows with these image_ids, in catalog order."""
        return Catalog(self.table[self.table["image_id"].isin(set(ids))])

    def fingerprint(self) -> str:
        """sha256 over ids, classes, groups and file contents; the same wherever the folder lies."""
        digest = hashlib.sha256()
        for sample in self:
            digest.update(repr((sample.image_id, sample.label, sample.group)).encode())
            for path in (sample.image, *sample.masks):
                digest.update(bytes.fromhex(images.file_hash(path)))
        return digest.hexdigest()

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Decode every image and mask once.

        Args:
            progress: called with (done, total).

        Raises:
            DataError: one line naming the first bad file and how many there are.
        """
        faults: list[str] = []
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for done, fault in enumerate(pool.map(_fault, list(self)), start=1):
                if fault:
                    faults.append(fault)
                if progress:
                    progress(done, len(self))
        if faults:
            more = f" (and {len(faults) - 1} more unusable samples)" if len(faults) > 1 else ""
            raise DataError(f"{faults[0]}{more}")

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table, atomically; paths relative to the file's folder where they lie below it."""
        folder = Path(path).resolve().parent
        table = self.table.copy()
        table["image"] = [_relative(name, folder) for name in table["image"]]
        table["masks"] = [
            MASK_SEPARATOR.join(_relative(part, folder) for part in masks.split(MASK_SEPARATOR) if part)
            for masks in table["masks"]
        ]
        tables.write_table(path, table)


def _fault(sample: Sample) -> str | None:
    try:
        images.read_encoded(sample.image)
        mask = sample.read_mask()
    except DataError as error:
        return str(error)
    if sample.label != CLASSES[0] and not mask.any():
        return f"{sample.masks[0]}: the mask of a {sample.label} image is empty"
    if sample.label == CLASSES[0] and mask.any():
        return f"{sample.masks[0]}: the mask of a {sample.label} image is not empty"
    return None


def _relative(name: str, folder: Path) -> str:
    path = Path(name)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else name
