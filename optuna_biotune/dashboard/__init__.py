"""A study's plots, best plan and models in optuna-dashboard.

Needs the extra ``dashboard``: ``pip install "optuna-biotune[dashboard]"``. What is shown is stored
in the study's attributes, which the sampler itself never writes: publishing is your own act.
"""

from optuna_biotune.dashboard._models import top_trials, upload_model
from optuna_biotune.dashboard._publishing import PublishEachGeneration, publish

__all__ = ["PublishEachGeneration", "publish", "top_trials", "upload_model"]
