"""A person's decisions, read from overrides.csv; they win over every rule."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

from busmt.data.tables import read_table
from busmt.errors import DataError

ACTIONS: tuple[str, ...] = ("keep", "remove", "regroup")
COLUMNS: tuple[str, ...] = ("image_id", "action", "group", "note")


@dataclass(frozen=True)
class Override:
    """One line of overrides.csv.

    Attributes:
        action: "keep", "remove", or "regroup": the sample belongs to `group` and to nothing else.
        group: the new group, for "regroup".
        note: why, in the person's words.
    """

    action: str
    group: str
    note: str


def read_overrides(path: str | os.PathLike[str], known: Collection[str]) -> dict[str, Override]:
    """image_id to decision, from a CSV with the columns image_id, action, and optionally group and note.

    Args:
        path: the file.
        known: image_ids of the cohort.

    Raises:
        DataError: no such file, a column is missing, an action or image_id is unknown, or an id occurs twice.
    """
    table = read_table(path, "CSV table of overrides", dtype=str, keep_default_na=False, comment="#")
    missing = [column for column in ("image_id", "action") if column not in table]
    if missing:
        raise DataError(f"{path}: the column {missing[0]} is missing; needed: image_id, action")
    found: dict[str, Override] = {}
    for number, row in enumerate(table.to_dict("records"), start=2):
        name, action = row["image_id"].strip(), row["action"].strip().lower()
        group = str(row.get("group", "")).strip()
        if name not in known:
            raise DataError(f"{path}: line {number}: the cohort has no image {name!r}")
        if name in found:
            raise DataError(f"{path}: line {number}: {name} is decided twice")
        if action not in ACTIONS:
            raise DataError(f"{path}: line {number}: action must be one of {', '.join(ACTIONS)}, got {action!r}")
        if (action == "regroup") != bool(group):
            wanted = "needs a group" if action == "regroup" else "takes no group; use regroup"
            raise DataError(f"{path}: line {number}: {action} {wanted}")
        found[name] = Override(action, group, str(row.get("note", "")).strip())
    return found
