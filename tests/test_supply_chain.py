"""What busmt is built on, and what its code may not contain."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

import busmt

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(Path(busmt.__file__).parent.rglob("*.py"))


@pytest.fixture(scope="module")
def dependencies():
    spec = importlib.util.spec_from_file_location("dependencies", ROOT / ".ci" / "dependencies.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["dependencies"] = module
    spec.loader.exec_module(module)
    return module


def test_installed_versions_keep_the_bounds_and_no_licence_is_gpl(dependencies):
    packages = dependencies.closure()
    assert {"tensorflow", "keras", "numpy", "pandas"} <= {package.name.lower() for package in packages}
    assert dependencies.faults(packages) == []


def test_every_dependency_has_a_lower_bound_and_no_exact_pin(dependencies):
    for requirement in dependencies.asked():
        operators = {bound.operator for bound in requirement.specifier}
        assert ">=" in operators, requirement
        assert "==" not in operators, requirement


def test_a_bound_or_licence_that_is_not_kept_is_told(dependencies):
    found = dependencies.faults(
        [
            dependencies.Package("numpy", "1.0", "BSD-3-Clause", ">=2.0"),
            dependencies.Package("medpy", "0.5", "GPL-3.0-or-later", ""),
        ]
    )
    assert found == [
        next(f"{r}: 1.0 is installed" for r in dependencies.asked() if r.name == "numpy"),
        "medpy: GPL-3.0-or-later is not accepted",
    ]


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("MIT", True),
        ("LGPL-2.1-or-later", True),
        ("GNU Lesser General Public License v3 (LGPLv3)", True),
        ("MPL-2.0", True),
        ("GPL-2.0-only", False),
        ("GNU General Public License v3 (GPLv3)", False),
        ("GNU Affero General Public License v3", False),
        ("AGPL-3.0", False),
        ("MIT OR GPL-2.0-only", True),
        ("not stated", True),
    ],
)
def test_licences_are_told_apart(dependencies, text, accepted):
    assert dependencies.is_accepted(text) is accepted


def test_the_page_and_the_constraints_name_every_direct_dependency(dependencies):
    # a name may be written with hyphens or underscores
    page = (ROOT / "docs" / "dependencies.md").read_text().lower().replace("_", "-")
    constraints = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    for requirement in dependencies.asked():
        name = requirement.name.lower().replace("_", "-")
        assert f"| {name} |" in page, f"run: python .ci/dependencies.py --write ({name} is missing)"
        assert f"\n{name}==" in constraints, name
        pinned = constraints.partition(f"\n{name}==")[2].split("\n")[0]
        assert requirement.specifier.contains(pinned, prereleases=True), requirement


def calls(tree: ast.AST) -> set[str]:
    """Dotted names of everything that is called."""
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_what_a_file_says(path):
    """No pickle but the one that knows three names, no unsafe YAML, no eval, no shell."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {
        node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
    }
    allowed = {"pickle"} if path.name == "pretrained.py" else set()
    assert not imported & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"} - allowed
    called = calls(tree)
    assert not called & {
        "eval",
        "exec",
        "compile",
        "os.system",
        "os.popen",
        "pickle.load",
        "pickle.loads",
        "yaml.unsafe_load",
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert keywords.get("allow_pickle", "False") == "False"
            assert keywords.get("shell", "False") == "False"
            assert keywords.get("safe_mode", "True") == "True"
            if ast.unparse(node.func) in ("keras.saving.load_model", "keras.models.load_model"):
                assert keywords["safe_mode"] == "True"
            if ast.unparse(node.func) == "np.load":
                assert keywords["allow_pickle"] == "False"
            if ast.unparse(node.func) == "yaml.load":
                assert ast.unparse(node.args[1]) == "_Loader"  # of plain types


def test_the_loader_of_configurations_knows_plain_types_only():
    import yaml

    from busmt.config import _Loader

    assert issubclass(_Loader, yaml.SafeLoader)
    assert not issubclass(_Loader, yaml.UnsafeLoader)
    assert _Loader.yaml_constructors == yaml.SafeLoader.yaml_constructors
