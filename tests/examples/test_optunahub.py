"""The folder for OptunaHub's registry has the form that it asks for, and works as a package."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml

import optuna_biotune

ROOT = Path(__file__).parents[2]
REGISTRY = ROOT / "examples" / "optunahub" / "package"
PACKAGE = REGISTRY / "samplers" / "biotune"

optunahub = pytest.importorskip("optunahub", reason="optunahub is not installed")


def test_the_package_gives_the_installed_sampler_and_runs_a_study() -> None:
    package = optunahub.load_local_module(package="samplers/biotune", registry_root=str(REGISTRY))
    assert set(package.__all__) <= set(optuna_biotune.__all__)
    study = optuna.create_study(sampler=package.BioTuneSampler(seed=0))
    study.optimize(
        lambda trial: sum(package.suggest_plan(trial, ("body", "head")).multipliers.values()),
        n_trials=15,
    )
    assert type(study.sampler) is optuna_biotune.BioTuneSampler
    assert package.FineTuningPlan.from_trial(study.best_trial).names == ("body", "head")


@pytest.mark.slow
def test_the_example_finds_a_plan_and_loads_no_torch() -> None:
    code = (
        "import runpy, sys\n"
        f"runpy.run_path({str(PACKAGE / 'example.py')!r}, run_name='__main__')\n"
        "print('torch' in sys.modules)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    found = re.search(
        r"Full fine-tuning (0\.\d+), best plan (0\.\d+):\n(.*)\nFalse$", finished.stdout
    )
    assert found is not None, finished.stdout
    assert float(found[2]) >= float(found[1]) > 0.6


def test_the_front_matter_is_what_the_registry_reads() -> None:
    _, front_matter, text = (PACKAGE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(front_matter)
    assert set(fields) == {"author", "title", "description", "tags", "optuna_versions", "license"}
    texts = [*fields["tags"], *fields["optuna_versions"]]
    texts += [fields[name] for name in ("author", "title", "description", "license")]
    assert all(isinstance(one, str) and one for one in texts)
    assert "sampler" in fields["tags"]
    for section in ("Abstract", "Class or Function Names", "Installation", "Example"):
        assert f"\n## {section}\n" in text


def test_the_license_is_that_of_the_repository() -> None:
    assert (PACKAGE / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
