"""Name lists: which samples of a cohort to use, as published by others or shipped with busmt."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pandas as pd

from busmt.config import CLASSES
from busmt.data.tables import read_table
from busmt.errors import DataError

_SUFFIX = ".csv"


@dataclass(frozen=True)
class NameList:
    """The image_ids that a list keeps.

    Attributes:
        name: the list's built-in name or its file.
        ids: the image_ids to keep, in the list's order, each once.
    """

    name: str
    ids: tuple[str, ...]


def read_name_list(source: str) -> NameList:
    """Read a name list: a CSV file, or the name of a list that ships with busmt.

    Two forms are read: `class;id` (BUSI's numbering: `benign;20` is "benign (20)"), or a table with the column
    `image_id`. Where such a table has a column `decision`, as busmt's own decisions.csv has, the rows that
    say "removed" are left out.

    Raises:
        DataError: no such file or built-in list, or neither form; the message names what is missing.
    """
    table = _table(source)
    if {"class", "id"} <= set(table.columns):
        labels = table["class"].str.strip().str.lower()
        unknown = labels[~labels.isin(CLASSES)]
        if len(unknown):
            raise DataError(f"{source}: row {unknown.index[0] + 2} has the unknown class {unknown.iloc[0]!r}")
        ids = labels + " (" + table["id"].str.strip() + ")"
    elif "image_id" in table.columns:
        kept = table["decision"] != "removed" if "decision" in table.columns else slice(None)
        ids = table.loc[kept, "image_id"].str.strip()
    else:
        raise DataError(f"{source}: a name list needs the columns class;id or image_id, got {', '.join(table.columns)}")
    names = tuple(dict.fromkeys(name for name in ids if name))
    if not names:
        raise DataError(f"{source}: the list names no image")
    return NameList(source, names)


def built_in_lists() -> tuple[str, ...]:
    """Names of the lists that ship with busmt."""
    folder = resources.files("busmt.data") / "lists"
    return tuple(sorted(entry.name.removesuffix(_SUFFIX) for entry in folder.iterdir() if _is_name_list(entry.name)))


def _is_name_list(name: str) -> bool:
    return name.endswith(_SUFFIX) and "-curated-" in name


def _table(source: str) -> pd.DataFrame:
    if source in built_in_lists():
        packaged = resources.files("busmt.data") / "lists" / f"{source}{_SUFFIX}"
        with resources.as_file(packaged) as path:
            return _read(path, source)
    path = Path(source)
    if not path.is_file():
        known = ", ".join(built_in_lists()) or "none"
        raise DataError(f"{source}: no such file, nor a built-in list (built in: {known})")
    return _read(path, source)


def _read(path: Path, source: str) -> pd.DataFrame:
    try:
        with open(path, "rb") as file:
            separator = ";" if b";" in file.readline(10_000) else ","
    except OSError as error:
        raise DataError(f"{source}: not a readable CSV name list") from error
    return read_table(path, "CSV name list", sep=separator, dtype=str, keep_default_na=False)
