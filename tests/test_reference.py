"""The reference has every public name, and docstrings refer to what exists.

Whether Sphinx renders it without a warning, the command in CONTRIBUTING.md tells.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import optuna_biotune
from tests.test_package import MODULES

PAGES = Path(__file__).parents[1] / "docs" / "reference"
DIRECTIVE = re.compile(r"^\.\. (\w+):: +(\S+)", re.MULTILINE)
ENTRY = re.compile(r"^   ~(\S+)$", re.MULTILINE)
ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):`([\w.]+)`")


def listed_in_the_index() -> set[str]:
    """Return the full names in the tables of the index."""
    entries = ENTRY.findall((PAGES / "index.rst").read_text())
    return {f"optuna_biotune.{name}" for name in entries}


def documented() -> dict[str, Any]:
    """Return what the pages document, by full name."""
    found = {}
    for page in sorted(PAGES.glob("*.rst")):
        module = ""
        for directive, name in DIRECTIVE.findall(page.read_text()):
            if directive in ("currentmodule", "automodule"):
                module = name
            elif directive.startswith("auto") and directive != "autosummary":
                name = name if name.startswith("optuna_biotune.") else f"{module}.{name}"
                found[name] = getattr(import_module(name.rpartition(".")[0]), name.rsplit(".")[-1])
    return found


DOCUMENTED = documented()


def test_every_public_name_is_documented() -> None:
    public = set()
    for module in (optuna_biotune, optuna_biotune.dashboard, optuna_biotune.visualization):
        names = {name for name in module.__all__ if not inspect.ismodule(getattr(module, name))}
        public |= {f"{module.__name__}.{name}" for name in names}
    assert public <= set(DOCUMENTED)


def test_the_index_lists_what_the_pages_document() -> None:
    assert listed_in_the_index() == set(DOCUMENTED)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_documented_name_and_its_public_members_have_docstrings(name: str) -> None:
    assert inspect.getdoc(DOCUMENTED[name])
    if inspect.isclass(DOCUMENTED[name]):
        for member, value in vars(DOCUMENTED[name]).items():
            is_code = inspect.isroutine(value) or isinstance(value, property)
            if is_code and not member.startswith("_"):
                assert getattr(DOCUMENTED[name], member).__doc__, member


def exists(target: str, module: ModuleType) -> bool:
    """Tell whether a role in a module names something, as Sphinx would look for it."""
    if target.startswith("."):
        target = f"{module.__name__}{target}"
    classes = [value for value in vars(module).values() if inspect.isclass(value)]
    if any(_reached(scope, target.split(".")) for scope in (module, *classes, optuna_biotune)):
        return True
    parts = target.split(".")
    for end in range(len(parts), 0, -1):
        try:
            return _reached(import_module(".".join(parts[:end])), parts[end:])
        except ImportError:
            continue
    return False


def _reached(scope: Any, parts: list[str]) -> bool:
    """Tell whether names lead from a module or class to something; fields of dataclasses count."""
    for part in parts:
        if part in getattr(scope, "__dataclass_fields__", {}):
            return True
        if not hasattr(scope, part):
            return False
        scope = getattr(scope, part)
    return True


@pytest.mark.parametrize("name", MODULES)
def test_what_the_docstrings_of_a_module_refer_to_exists(name: str) -> None:
    targets = ROLE.findall(MODULES[name].read_text(encoding="utf-8"))
    full = f"optuna_biotune.{name}".removesuffix(".__init__").replace(".__init__", "")
    module = import_module(full) if targets else optuna_biotune
    assert [target for target in targets if not exists(target, module)] == []
