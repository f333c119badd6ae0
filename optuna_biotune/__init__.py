"""BioTune for Optuna: evolve which blocks of a network to freeze, and how fast to train the rest.

Names are loaded on first use, so that importing this package loads neither torch nor Optuna.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna_biotune import dashboard, visualization
    from optuna_biotune.finetune.objective import FineTuningObjective, RefitResult
    from optuna_biotune.finetune.partition import BlockPartition, partition_blocks
    from optuna_biotune.genotype import FineTuningPlan, suggest_plan
    from optuna_biotune.recipe import Recipe
    from optuna_biotune.recommendation import best_plan, best_trial
    from optuna_biotune.sampler import BioTuneSampler
    from optuna_biotune.stopping import StopOnPlateau
    from optuna_biotune.storage import make_storage

__version__ = "0.1.0"

__all__ = [
    "BioTuneSampler",
    "BlockPartition",
    "FineTuningObjective",
    "FineTuningPlan",
    "Recipe",
    "RefitResult",
    "StopOnPlateau",
    "best_plan",
    "best_trial",
    "dashboard",
    "make_storage",
    "partition_blocks",
    "suggest_plan",
    "visualization",
]

_MODULE_OF = {
    "BioTuneSampler": "sampler",
    "BlockPartition": "finetune.partition",
    "FineTuningObjective": "finetune.objective",
    "FineTuningPlan": "genotype",
    "Recipe": "recipe",
    "RefitResult": "finetune.objective",
    "StopOnPlateau": "stopping",
    "best_plan": "recommendation",
    "best_trial": "recommendation",
    "make_storage": "storage",
    "partition_blocks": "finetune.partition",
    "suggest_plan": "genotype",
}


_MODULES = {"dashboard", "visualization"}


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used."""
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the names that are not loaded yet, too."""
    return sorted({*globals(), *__all__})
