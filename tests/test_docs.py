"""What README, CONTRIBUTING and the documentation show can be typed, runs, links somewhere and is spelt."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import yaml

from busmt.cli.main import cli
from busmt.config import Config

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(language: str) -> list[Block]:
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
            if match[1] == language:
                name = path.relative_to(ROOT).as_posix()
                found.append(Block(name, text[: match.start()].count("\n") + 2, language, match[2]))
    return found


def commands() -> Iterator[tuple[str, str]]:
    """Every `busmt …` in bash and console blocks."""
    for block in [*blocks("bash"), *blocks("console")]:
        for line in block.text.replace("\\\n", " ").splitlines():
            if block.language == "console" and not line.startswith("$ "):
                continue
            for part in re.split(r"&&|;|\|", line.removeprefix("$ ").split(" #")[0]):
                if re.search(r"\bbusmt [a-z]", part):
                    yield str(block), part.strip()


@pytest.mark.parametrize("where, text", [*commands()])
def test_command_exists_with_these_options(where, text):
    words = shlex.split(text)
    rest = words[[Path(word).name for word in words].index("busmt") + 1 :]
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, rest[0])
        assert found is not None, rest[0]
        command, context, rest = found, click.Context(found), rest[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in rest if word.startswith("--")} <= known


def test_readme_has_exactly_two_set_up_commands():
    readme = PAGES[0].read_text(encoding="utf-8")
    for marker in ("run", "test"):
        block = re.search(rf"<!-- {marker} -->\n```bash\n(.*?)\n```", readme, flags=re.DOTALL)
        assert block is not None
        assert "\n" not in block[1]
        assert block[1].startswith("python3 -m venv .venv && .venv/bin/pip install -e ")


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_a_configuration(block):
    Config.from_dict(yaml.safe_load(block.text))


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_can_be_read(block):
    json.loads(block.text)


_RUN_BLOCKS = """
import json, os, sys
for place, pieces in json.load(open(sys.argv[1])).items():
    os.chdir(place)
    namespace = {"__name__": "__main__"}
    for where, text in pieces:
        exec(compile(text, where, "exec"), namespace)
"""


def test_python_blocks_run(python, phantom_folder, tiny_run_folder, tmp_path):
    """Each page's blocks in order, in a folder with `phantoms` and the finished run `runs/first`."""
    work: dict[str, list[tuple[str, str]]] = {}
    for block in blocks("python"):
        place = tmp_path / Path(block.page).stem
        if not place.exists():
            shutil.copytree(phantom_folder, place / "phantoms")
            shutil.copytree(tiny_run_folder, place / "runs" / "first")
        work.setdefault(str(place), []).append((str(block), block.text))
    assert len(work) >= 5
    (tmp_path / "work.json").write_text(json.dumps(work))
    python(_RUN_BLOCKS, tmp_path / "work.json", MPLBACKEND="agg")


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in blocks("console")}))
def test_console_blocks_show_what_happens(page, tmp_path):
    """Commands run in order in one folder; what is shown must be printed, with … for anything."""
    programs = tmp_path / "bin"
    programs.mkdir()
    busmt = programs / "busmt"
    busmt.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m busmt "$@"\n')
    busmt.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "120",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    for block in (block for block in blocks("console") if block.page == page):
        for step in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            answer = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=600,
            )  # fmt: skip
            assert answer.returncode == 0, f"{block}: {command}\n{answer.stdout}"
            pattern = r"\s+".join(re.escape(word).replace("…", ".*?") for word in shown.split())
            assert re.fullmatch(rf"\s*{pattern}\s*", answer.stdout, flags=re.DOTALL), (
                f"{block}: {command}\n{answer.stdout}"
            )


def anchors(path: Path) -> set[str]:
    """Anchors of the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if DOCS / "generated" in path.parents:
            continue  # made by the build, which checks them
        if DOCS / "notebooks" in path.parents:
            path = ROOT / "notebooks" / path.name
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target}"


def test_spelling():
    pytest.importorskip(
        "codespell_lib", reason="codespell is not installed : its licence is GPL, so no extra brings it"
    )
    places = [*PAGES, *sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "busmt"]
    # the built tablet app is minified and holds others' code; Paeth is the name of a PNG filter's author
    options = ["--skip", "*.pyc,*.csv,*/tablet/app/*,*/node_modules/*", "--ignore-words-list", "paeth"]
    command = [sys.executable, "-m", "codespell_lib", *options, *map(str, places)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The documentation, built strictly; notebooks are not executed."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed (extra docs)")
    out = tmp_path_factory.mktemp("site")
    options = ["-W", "--keep-going", "-q", "-D", "nb_execution_mode=off", "-d", str(out / "trees"), "-b", "html"]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(out / "html")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return out / "html"


@pytest.mark.slow
def test_site_needs_no_network(site):
    """Whatever a browser would load by itself lies beside the pages."""
    loaded = re.compile(r"<(?:script|img|iframe|source)[^>]+src=\"([^\"]+)\"|<link[^>]+href=\"([^\"]+)\"")
    for page in site.rglob("*.html"):
        for pair in loaded.findall(page.read_text(encoding="utf-8")):
            target = pair[0] or pair[1]
            assert not re.match(r"(https?:)?//", target), f"{page.name}: {target}"
            if not target.startswith(("data:", "#")):
                assert (page.parent / target.split("?")[0].split("#")[0]).exists(), f"{page.name}: {target}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", style.read_text(encoding="utf-8")), style.name


@pytest.mark.slow
def test_every_link_of_the_site_leads_somewhere(site):
    ids: dict[Path, set[str]] = {}
    for page in site.rglob("*.html"):
        for target in re.findall(r"<a [^>]*href=\"([^\"]+)\"", page.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            assert path.exists(), f"{page.name}: {target}"
            if anchor and path.suffix == ".html":
                if path not in ids:
                    ids[path] = set(re.findall(r"\bid=\"([^\"]+)\"", path.read_text(encoding="utf-8")))
                assert anchor in ids[path], f"{page.name}: {target}"


@pytest.mark.slow
def test_reference_pages_are_complete(site):
    """Every command, every key of the configuration and every public module has its place."""
    import dataclasses
    import pkgutil
    import typing

    import busmt
    from busmt.cli.main import COMMANDS

    page = (site / "commands.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f'id="busmt-{name}"' not in page] == []
    page = (site / "generated" / "configuration.html").read_text(encoding="utf-8")
    for kind in typing.get_type_hints(Config).values():
        for key in dataclasses.fields(kind):
            assert f">{key.name}<" in page, key.name
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "generated").glob("api*.html"))
    for info in pkgutil.walk_packages(busmt.__path__, "busmt."):
        hidden = info.name.rpartition(".")[2].startswith("_") or info.name.startswith("busmt.cli")
        if not info.ispkg and not hidden:
            assert f'id="module-{info.name}"' in text, info.name


@pytest.mark.slow
def test_equations_are_drawn_by_the_browser(site):
    page = (site / "refinement.html").read_text(encoding="utf-8")
    assert page.count("<math") >= 10
    assert "mathjax" not in page.lower()
