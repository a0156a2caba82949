"""Stratified folds that never split a group.

The folds file has one row per image: `image_id, group, label, fold, part`. `fold` is the test fold that
the image belongs to; `part` says where it is when one fold is held out: train, validation or test.
"""

from __future__ import annotations

import os
import warnings

import numpy as np
import pandas as pd

from busmt.config import FoldsConfig
from busmt.data import tables
from busmt.data.catalog import Catalog
from busmt.errors import ConfigError, DataError

PARTS: tuple[str, ...] = ("train", "validation", "test")
COLUMNS: tuple[str, ...] = ("image_id", "group", "label", "fold", "part")


def make_folds(catalog: Catalog, config: FoldsConfig) -> pd.DataFrame:
    """Split a catalog; official folds (a `fold` column in the catalog) are honoured.

    With `config.file` the folds of that file are used: its `part` too where it holds out the same fold.
    Where `config.fold` is None no image is in the part "test".

    Returns:
        One row per image in catalog order, with the columns of `COLUMNS`.

    Raises:
        ConfigError: the held-out fold does not exist.
        DataError: too few groups of a class, or a folds file that does not fit the catalog.
    """
    given = read_folds(config.file) if config.file else None
    if given is not None:
        folds = _match(given, catalog, str(config.file))
    elif "fold" in catalog.table:
        folds = _official(catalog)
    else:
        folds = _stratify(catalog, config.count, config.seed, "folds.count")
    if config.fold is not None and config.fold not in set(folds.tolist()):
        raise ConfigError(f"folds.fold is {config.fold}, but the folds are {sorted(set(folds.tolist()))}")
    table = catalog.table[["image_id", "group", "label"]].copy()
    table["fold"] = folds
    if given is not None and held_out(given) == config.fold:
        table["part"] = given.set_index("image_id").loc[catalog.ids, "part"].to_numpy()
    else:
        table["part"] = _parts(catalog, folds, config)
    check_folds(table)
    needed = PARTS if config.fold is not None else PARTS[:2]
    absent = [part for part in needed if part not in set(table["part"])]
    if absent:
        raise DataError(f"{config.file or 'folds'}: no image in the part {absent[0]}")
    return table


def read_folds(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a folds file.

    Raises:
        DataError: missing, not a table, a column is missing, an image occurs twice, a fold is no whole
            number, or a group is split.
    """
    table = tables.read_table(
        path, "folds file", dtype=str, keep_default_na=False
    )  # an image may be called "NA" or "001"
    for column in COLUMNS:
        if column not in table:
            raise DataError(f"{path}: the column {column} is missing; needed: {', '.join(COLUMNS)}")
    if not set(table["part"]) <= set(PARTS):
        raise DataError(f"{path}: the column part holds something else than {', '.join(PARTS)}")
    twice = table["image_id"][table["image_id"].duplicated()]
    if len(twice):
        raise DataError(f"{path}: the image_id {twice.iloc[0]!r} occurs twice")
    wrong = table[~table["fold"].str.fullmatch(r"-?\d{1,9}")]
    if len(wrong):
        raise DataError(f"{path}: image {wrong['image_id'].iloc[0]}: no whole number in the column fold")
    table["fold"] = table["fold"].astype(np.int64)
    check_folds(table, str(path))
    return table


def write_folds(table: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a folds file, atomically."""
    tables.write_table(path, table[list(COLUMNS)])


def held_out(given: pd.DataFrame) -> int | None:
    """The fold that a folds file holds out as test part; None where its test part spans several folds."""
    folds = given.loc[given["part"] == "test", "fold"].unique()
    return int(folds[0]) if len(folds) == 1 else None


def check_folds(table: pd.DataFrame, source: str = "folds") -> None:
    """Raise DataError where a group has images in two folds or two parts."""
    for column in ("fold", "part"):
        spread = table.groupby("group")[column].nunique()
        split = spread[spread > 1]
        if len(split):
            raise DataError(f"{source}: the group {split.index[0]!r} is split over two values of {column}")


def _stratify(catalog: Catalog, count: int, seed: int, what: str) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold

    table = catalog.table
    groups = table.groupby("label")["group"].nunique()
    if groups.min() < count:
        scarce = groups.idxmin()
        raise DataError(f"{what} is {count}, but the class {scarce} has only {groups.min()} independent groups")
    splitter = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
    folds = np.zeros(len(catalog), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for fold, (_, test) in enumerate(splitter.split(table, table["label"], table["group"])):
            folds[test] = fold
    return folds


def _official(catalog: Catalog) -> np.ndarray:
    folds = pd.to_numeric(catalog.table["fold"], errors="coerce")
    wrong = (folds % 1 != 0).to_numpy()  # true for NaN and infinity as well
    if wrong.any():
        name = catalog.table["image_id"][wrong].iloc[0]
        raise DataError(f"image {name}: no valid number in the column fold")
    return folds.to_numpy(np.int64)


def _match(given: pd.DataFrame, catalog: Catalog, source: str) -> np.ndarray:
    known = given.set_index("image_id")
    absent = [name for name in catalog.ids if name not in known.index]
    if absent:
        raise DataError(f"{source}: has no row for {absent[0]!r} ({len(absent)} of {len(catalog)} images are missing)")
    folds = known.loc[catalog.ids, "fold"].to_numpy(np.int64)
    check_folds(catalog.table[["group"]].assign(fold=folds, part="test"), source)
    return folds


def _parts(catalog: Catalog, folds: np.ndarray, config: FoldsConfig) -> np.ndarray:
    """Test is the held-out fold; validation is one stratified share of the rest, whole groups."""
    part = np.full(len(catalog), "train", dtype=object)
    held = -1 if config.fold is None else config.fold
    part[folds == held] = "test"
    rest = np.flatnonzero(folds != held)
    shares = max(2, round(1 / config.validation_share))
    inner = _stratify(catalog.take(rest), shares, config.seed + 1 + held, "1 / folds.validation_share")
    part[rest[inner == 0]] = "validation"
    return part
