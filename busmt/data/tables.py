"""CSV tables: read within limits, written so that no spreadsheet takes a cell for a formula.

A spreadsheet runs a cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return as a formula. Text of
this kind, such as a file name from somebody else, is written with a `'` before it, which spreadsheets take for
"this is text"; reading takes it away again, so that every text comes back as it was (OWASP, "CSV Injection").

>>> escape("=HYPERLINK(1)"), escape("-1.5"), unescape(escape("'=x"))
("'=HYPERLINK(1)", '-1.5', "'=x")
"""

from __future__ import annotations

import csv
import io
import os
import re
from typing import Any

import pandas as pd

from busmt.data.images import read_bytes, write_atomically
from busmt.errors import DataError

MAX_TABLE_BYTES = 64 * 2**20
"""Largest accepted CSV file: some 300 000 rows of a catalog."""

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def read_table(path: str | os.PathLike[str], what: str = "CSV table", **options: Any) -> pd.DataFrame:
    """A CSV file as a table.

    Args:
        path: the file.
        what: what to call it in an error.
        **options: pandas'.

    Raises:
        DataError: the file is missing, too large, or not a CSV table in UTF-8.
    """
    content = read_bytes(path, MAX_TABLE_BYTES)
    if b"\0" in content:
        raise DataError(f"{path}: not a readable {what} (it holds zero bytes)")
    try:
        table = pd.read_csv(io.BytesIO(content), **({"encoding": "utf-8-sig"} | options))
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path}: not a readable {what}") from error
    except (ValueError, TypeError, OverflowError, LookupError, MemoryError) as error:
        raise DataError(f"{path}: not a readable {what} ({type(error).__name__})") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise DataError(f"{path}: not a readable {what} (a row has more cells than the first)")
    return _texts(table, unescape)


def write_table(path: str | os.PathLike[str], table: pd.DataFrame, **options: Any) -> None:
    """Write a table as CSV without its index, atomically; `options` are pandas'.

    Raises:
        DataError: the file cannot be written.
    """
    safe = _texts(table, escape)
    if any("\r" in value for _, column in safe.items() for value in column if isinstance(value, str)):
        options["quoting"] = csv.QUOTE_NONNUMERIC  # Python alone leaves such a line end bare
    text = safe.to_csv(index=False, **options)
    write_atomically(path, text.encode("utf-8", "backslashreplace"))  # names of files may be no text


def escape(text: str) -> str:
    """The text, with a `'` before it where a spreadsheet would run it. Numbers stay as they are."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unescape(text: str) -> str:
    """What `escape` was given."""
    return text[1:] if _ESCAPED.match(text) else text


def _texts(table: pd.DataFrame, change: Any) -> pd.DataFrame:
    """A copy with `change` applied to every text in it and to the column names."""
    changed = table.copy()
    for position, kind in enumerate(table.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            column = table.iloc[:, position].map(lambda value: change(value) if isinstance(value, str) else value)
            changed.isetitem(position, column.astype(kind))
    changed.columns = [change(name) if isinstance(name, str) else name for name in table.columns]
    return changed
