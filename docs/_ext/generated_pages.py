"""Pages that are made from the code at each build: configuration, modules, and copies of the notebooks.

They go to docs/generated and docs/notebooks, which git ignores.
"""

from __future__ import annotations

import dataclasses
import pkgutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from busmt.config import PRESETS, Config

ROOMS = {
    "data": "Data: catalogs, curation, folds, balance, images",
    "model": "Model: layers, network, losses",
    "training": "Training: run folder, loop, checkpoints",
    "evaluation": "Evaluation: metrics, intervals, calibration, report",
    "deployment": "Deployment: exports and their parity",
}
"""Package to the title of its page."""
SINGLE = ("config", "prediction", "overlay", "errors")
"""Modules at the top that share one page."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the pages before Sphinx looks for sources."""
    app.connect("config-inited", lambda app, config: write_pages(Path(app.srcdir)))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(docs: Path) -> None:
    """Write all generated pages; unchanged ones are left alone, so that they are not read again."""
    pages = {"configuration.md": configuration_page(), "api.md": api_page()}
    pages |= {f"api-{room}.md": room_page(room, title) for room, title in ROOMS.items()}
    folder = docs / "generated"
    folder.mkdir(exist_ok=True)
    for stale in {path.name for path in folder.iterdir()} - set(pages):
        (folder / stale).unlink()
    for name, text in pages.items():
        _write(folder / name, text.encode())
    notebooks = docs / "notebooks"
    notebooks.mkdir(exist_ok=True)
    sources = sorted((docs.parent / "notebooks").glob("*.ipynb"))
    for stale in {path.name for path in notebooks.iterdir()} - {path.name for path in sources}:
        (notebooks / stale).unlink()
    for path in sources:
        text = path.read_text(encoding="utf-8").replace("](../docs/", "](../")  # they lie one folder deeper here
        _write(notebooks / path.name, text.encode())


def configuration_page() -> str:
    """Every section and key of the configuration, from the dataclasses."""
    parts = [
        "# Configuration",
        "Each key with its default, what it accepts and what the presets make of it. `config.yaml` in a run folder "
        "holds all of them. Unknown keys, wrong types and values out of range are refused.",
    ]
    presets = {name: Config.preset(name) for name in PRESETS}
    for section in dataclasses.fields(Config):
        holder = typing.get_type_hints(Config)[section.name]
        parts += [f"## {section.name}", _first_paragraph(holder), _table(section.name, holder, presets)]
    return "\n\n".join(parts) + "\n"


def _table(section: str, holder: Any, presets: dict[str, Config]) -> str:
    types = typing.get_type_hints(holder)
    rows = ["| key | type | default | accepts | meaning |", "|---|---|---|---|---|"]
    for key in dataclasses.fields(holder):
        changed = {
            name: getattr(getattr(preset, section), key.name)
            for name, preset in presets.items()
            if getattr(getattr(preset, section), key.name) != key.default
        }
        default = _yaml(key.default) + "".join(f"<br>{name}: {_yaml(value)}" for name, value in changed.items())
        meaning = key.metadata["help"].replace("|", "\\|")
        rows.append(
            f"| `{key.name}` | {_type_name(types[key.name])} | {default} | {_accepted(key.metadata)} | {meaning} |"
        )
    return "\n".join(rows)


def _yaml(value: Any) -> str:
    if value is None:
        return "`null`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type_name(kind: Any) -> str:
    names = [part.__name__ for part in typing.get_args(kind) or (kind,)]
    return " or ".join("null" if name == "NoneType" else name for name in names)


def _accepted(metadata: typing.Mapping[str, Any]) -> str:
    if metadata["choices"]:
        return ", ".join(f"`{choice}`" for choice in metadata["choices"])
    low, high = metadata["low"], metadata["high"]
    if low is None:
        return ""
    return f"at least {low}" if high is None else f"{low} to {high}"


def api_page() -> str:
    """The public names of `import busmt`, and where the rest is."""
    links = "\n".join(f"- [{title}](api-{room}.md)" for room, title in ROOMS.items())
    return (
        "# Python interface\n\n"
        "`import busmt` offers the names that most scripts need; they are imported when first used. Everything else "
        "without a leading underscore may be used from its module.\n\n"
        "```{eval-rst}\n.. automodule:: busmt\n```\n\n"
        f"{_public_table()}\n\n{links}\n\n"
        + "\n\n".join(_module(f"busmt.{name}") for name in SINGLE)
        + "\n\n```{toctree}\n:hidden:\n\n"
        + "\n".join(f"api-{room}" for room in ROOMS)
        + "\n```\n"
    )


def _public_table() -> str:
    import busmt

    rows = ["| name | what |", "|---|---|"]
    for name in busmt.__all__:
        value = getattr(busmt, name)
        text = _first_paragraph(value) if callable(value) else "class names in the order of every array"
        if name != "__version__":
            rows.append(f"| `busmt.{name}` | {text} |")
    return "\n".join(rows)


def room_page(room: str, title: str) -> str:
    """All modules of a package."""
    return f"# {title}\n\n" + "\n\n".join(_module(name) for name in _modules(f"busmt.{room}")) + "\n"


def _modules(package: str) -> Iterator[str]:
    import importlib

    module = importlib.import_module(package)
    if module.__doc__:
        yield package
    for info in pkgutil.iter_modules(module.__path__, f"{package}."):
        if info.name.rpartition(".")[2].startswith("_"):
            continue
        if info.ispkg:
            yield from _modules(info.name)
        else:
            yield info.name


def _module(name: str) -> str:
    return f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :show-inheritance:\n```"


def _first_paragraph(value: Any) -> str:
    return " ".join((value.__doc__ or "").strip().split("\n\n")[0].split()).replace("|", "\\|")


def _write(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        path.write_bytes(data)
