"""BioTuneSampler, FineTuningPlan and suggest_plan of optuna-biotune, for OptunaHub."""

from optuna_biotune import BioTuneSampler, FineTuningPlan, suggest_plan

__all__ = ["BioTuneSampler", "FineTuningPlan", "suggest_plan"]
