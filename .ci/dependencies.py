"""What busmt is built on: versions, licences, bounds.

    python .ci/dependencies.py --write     # constraints.txt and docs/dependencies.md, from what is installed
    python .ci/dependencies.py --lowest    # prints the lower bounds as constraints, for a test of them
    python .ci/dependencies.py             # checks; exit code 1 where a bound or a licence is not kept

The packages are those that setup.cfg asks for, with all extras, and those that they ask for in turn.
"""

from __future__ import annotations

import argparse
import configparser
import re
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
_COPYLEFT = re.compile(r"\bA?GPL|GNU (AFFERO )?GENERAL PUBLIC|AFFERO", re.IGNORECASE)
_WEAK = re.compile(r"\bLGPL\S*|GNU (LESSER|LIBRARY) GENERAL PUBLIC", re.IGNORECASE)


@dataclass(frozen=True)
class Package:
    """An installed package of the closure; `asked` is what setup.cfg says of it, empty for the others."""

    name: str
    version: str
    licence: str
    asked: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write constraints.txt and docs/dependencies.md")
    parser.add_argument("--lowest", action="store_true", help="print the lower bounds as constraints")
    options = parser.parse_args()
    if options.lowest:
        print("\n".join(lowest()))
        return 0
    packages = closure()
    if options.write:
        (ROOT / "constraints.txt").write_text(constraints(packages), encoding="utf-8")
        (ROOT / "docs" / "dependencies.md").write_text(page(packages), encoding="utf-8")
    found = faults(packages)
    print("\n".join(found) or f"{len(packages)} packages: bounds kept, no GPL or AGPL")
    return 1 if found else 0


def asked() -> list[Requirement]:
    """What setup.cfg asks for, extras included, busmt's own extras left out."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    texts = [parser["options"]["install_requires"], *dict(parser["options.extras_require"]).values()]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [requirement for requirement in found if requirement.name != "busmt"]


def lowest() -> list[str]:
    """The lower bounds as constraints: of the lowest release, the newest patch."""
    bounds = {(r.name, s.version) for r in asked() for s in r.specifier if s.operator in (">=", "~=", "==")}
    return sorted(f"{name}=={version}.*" for name, version in bounds)


def closure() -> list[Package]:
    """Installed packages that busmt needs, by name."""
    wanted = {canonicalize_name(requirement.name): str(requirement.specifier) for requirement in asked()}
    todo, found = [(name, frozenset[str]()) for name in wanted], {}
    while todo:
        name, extras = todo.pop()
        try:
            dist = distribution(name)
        except PackageNotFoundError:
            continue  # of an extra that is not installed here
        if (name, extras) in found:
            continue
        found[name, extras] = Package(dist.metadata["Name"], dist.version, licence(dist), wanted.get(name, ""))
        for text in dist.requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras or {""}):
                todo.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    return sorted({package.name: package for package in found.values()}.values(), key=lambda p: p.name.lower())


def licence(dist: Distribution) -> str:
    """The licence as the package states it, in a few words."""
    stated = dist.metadata.get("License-Expression")
    if stated:
        return stated
    classifiers = [line for line in dist.metadata.get_all("Classifier") or [] if line.startswith("License :: ")]
    names = [line.rpartition(" :: ")[2] for line in classifiers if not line.endswith("OSI Approved")]
    if names:
        return " or ".join(names)
    text = dist.metadata.get("License") or ""
    return text.strip().splitlines()[0][:60] if text.strip() else "not stated"


def faults(packages: list[Package]) -> list[str]:
    """Bounds that are not kept, and licences that are not accepted."""
    found = []
    versions = {canonicalize_name(package.name): package.version for package in packages}
    for requirement in asked():
        version = versions.get(canonicalize_name(requirement.name))
        if version and not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement}: {version} is installed")
        if not requirement.specifier:
            found.append(f"{requirement}: has no lower bound")
    return found + [f"{p.name}: {p.licence} is not accepted" for p in packages if not is_accepted(p.licence)]


def is_accepted(text: str) -> bool:
    """No GPL or AGPL, unless another licence may be chosen. LGPL and MPL are accepted: nothing is linked into busmt."""
    choices = re.split(r"\s+or\s+", text, flags=re.IGNORECASE)
    return any(not _COPYLEFT.search(_WEAK.sub("", choice)) for choice in choices)


def constraints(packages: list[Package]) -> str:
    lines = "".join(f"{package.name}=={package.version}\n" for package in packages)
    return (
        '# The versions that busmt was tested with: pip install -c constraints.txt -e ".[test]"\n'
        "# Written by: python .ci/dependencies.py --write\n" + lines
    )


def page(packages: list[Package]) -> str:
    rows = "".join(f"| {p.name} | {p.version} | {p.licence} | {p.asked} |\n" for p in packages)
    return f"""# Dependencies

Written by `python .ci/dependencies.py --write`; a test compares it with setup.cfg and with what is installed. Versions
are those of [constraints.txt](../constraints.txt), licences as the packages state them. "Asked" is the bound in
setup.cfg; the packages without one come with the others. GPL and AGPL are not accepted.

| package | version | licence | asked |
|---|---|---|---|
{rows}
## An install that can be repeated

```bash
pip install -c constraints.txt -e ".[test]"
```

## The lower bounds

```bash
bash .ci/lowest
```

installs the lowest version that setup.cfg asks for of each package (its newest patch) into an environment of its own,
and runs the tests of data, model, training and commands there. No bound had to be raised: the tests of data, model and
commands passed, after one test that drew its words with OpenCV, whose letters changed between 4.10 and 5, was made to
draw them with Pillow.

## Known vulnerabilities

```bash
pip install pip-audit && pip-audit -r constraints.txt --no-deps
```

It asks the vulnerability service of PyPI or OSV, and needs a network that reaches it; it is therefore no part of the
tests.
"""


if __name__ == "__main__":
    sys.exit(main())
