from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import optuna_biotune

PACKAGE = Path(optuna_biotune.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TORCH = {"torch", "torchvision", "timm"}
# From the genes up to Optuna's sampler: no module imports one that stands after it.
LAYERS = ("genotype", "evolution", "generations", "sampler")


def run_python(code: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def imports(module: str) -> Iterator[str]:
    """Give the dotted name of everything that a module imports, also inside its functions."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(module: str) -> set[str]:
    """Return the names of the packages outside the standard library that a module imports."""
    return {name.split(".")[0] for name in imports(module)} - set(sys.stdlib_module_names)


def own_imports(module: str) -> set[str]:
    """Return the modules of this package that a module imports."""
    found = set()
    for name in imports(module):
        if name.startswith("optuna_biotune."):
            inner = name.removeprefix("optuna_biotune.")
            found.add(inner if inner in MODULES else inner.rpartition(".")[0])
    return found


# Importing the package


def test_importing_the_package_loads_neither_torch_nor_optuna_in_under_a_second() -> None:
    code = (
        "import sys, time\n"
        "begin = time.perf_counter()\n"
        "import optuna_biotune\n"
        "seconds = time.perf_counter() - begin\n"
        "print(seconds, 'torch' in sys.modules, 'optuna' in sys.modules)\n"
    )
    seconds, torch, optuna = run_python(code).split()
    assert (torch, optuna) == ("False", "False")
    assert float(seconds) < 1.0


def test_the_sampler_and_the_storage_load_no_torch() -> None:
    code = (
        "import sys\n"
        "from optuna_biotune import BioTuneSampler, FineTuningPlan, make_storage, suggest_plan\n"
        "print('torch' in sys.modules)\n"
    )
    assert run_python(code) == "False"


@pytest.mark.parametrize("name", optuna_biotune.__all__)
def test_a_public_name_resolves(name: str) -> None:
    assert getattr(optuna_biotune, name).__doc__


def test_public_names_are_listed_before_they_are_used() -> None:
    listed = run_python("import optuna_biotune; print(*dir(optuna_biotune))").split()
    assert set(optuna_biotune.__all__) <= set(listed)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'optuna_biotune' has no attribute 'BioTuner'"):
        optuna_biotune.BioTuner  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    pyproject = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.search(r'^version = "(.+)"$', pyproject, flags=re.MULTILINE)
    assert declared is not None
    assert declared.group(1) == optuna_biotune.__version__


# Directions of imports


def test_the_genotype_needs_numpy_only() -> None:
    assert packages("genotype") == {"numpy"}


def test_the_evolution_knows_neither_optuna_nor_torch() -> None:
    assert packages("evolution") <= {"numpy", "optuna_biotune"}
    for module in own_imports("evolution"):
        assert packages(module) <= {"numpy", "optuna_biotune"}


@pytest.mark.parametrize("module", LAYERS)
def test_a_layer_imports_none_above_it(module: str) -> None:
    above = set(LAYERS[LAYERS.index(module) + 1 :])
    assert not own_imports(module) & above


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("finetune")])
def test_fine_tuning_works_with_any_sampler(module: str) -> None:
    assert not own_imports(module) & {"evolution", "generations", "sampler", "storage"}


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("finetune")])
def test_only_fine_tuning_imports_torch(module: str) -> None:
    assert not packages(module) & TORCH


@pytest.mark.parametrize("module", [name for name in MODULES if name != "_compat"])
def test_private_parts_of_optuna_are_imported_in_one_module_only(module: str) -> None:
    private = [
        name
        for name in imports(module)
        if name.startswith("optuna.") and any(part.startswith("_") for part in name.split("."))
    ]
    assert not private
