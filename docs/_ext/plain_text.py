"""Docstrings and command help are written for readers of plain text: what reStructuredText would misread is escaped."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

_CODE = re.compile(r"(``.*?``|`[^`]*`)")
_LINE_BLOCK = re.compile(r"\s*\| ")  # what sphinx-click makes of paragraphs that are not to be wrapped
_MARKUP = re.compile(r"([*|\\]|(?<=\w)_(?!\w))")


def setup(app: Sphinx) -> dict[str, bool]:
    """Escape docstrings before Napoleon reads them, and the texts of commands."""
    app.connect("autodoc-process-docstring", lambda app, kind, name, value, options, lines: escape(lines), priority=400)
    app.setup_extension("sphinx_click")
    for part in ("description", "epilog"):
        app.connect(f"sphinx-click-process-{part}", lambda app, context, lines: (show_examples(lines), escape(lines)))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def show_examples(lines: list[str]) -> None:
    """Turn the examples of a command, which sphinx-click makes a line block, into a block of code."""
    shown = False
    text = []
    for line in lines:
        if line.strip() == "| Examples:":
            shown = True
            text += ["Examples::", ""]
        elif shown and line.startswith("| "):
            text.append(f"    {line[2:].strip()}")
        else:
            shown = False
            text.append(line)
    lines[:] = text


def escape(lines: list[str]) -> None:
    """Escape markup characters outside code, doctests, literal blocks and tables; the list is changed."""
    example = literal = False
    for number, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        literal = literal and (not line.strip() or line.startswith(" "))
        if not (example or literal or line.lstrip().startswith(("====", ".."))):
            literal = line.endswith("::")
            start = _LINE_BLOCK.match(line)
            begin = start[0] if start else ""
            pieces = _CODE.split(line[len(begin) :])
            pieces[::2] = [_MARKUP.sub(r"\\\1", piece) for piece in pieces[::2]]
            lines[number] = begin + "".join(pieces)
