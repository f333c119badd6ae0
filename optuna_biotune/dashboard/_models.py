"""Fine-tuned models as artifacts of a study, which optuna-dashboard offers for download."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from optuna import Study
from optuna.artifacts import upload_artifact
from optuna.trial import FrozenTrial

from optuna_biotune.visualization._trials import best_first, planned_trials

if TYPE_CHECKING:
    from optuna_biotune._compat import ArtifactStore
    from optuna_biotune.finetune.refit import RefitResult


def top_trials(study: Study, n_trials: int) -> list[FrozenTrial]:
    """Return the complete trials of the best values, best first, to refit and upload some.

    The first of them need not be :func:`optuna_biotune.best_trial`, which goes by all trials. With
    several objectives they are ranked by non-dominated front and crowding distance.

    Args:
        study: A study of one or several objectives.
        n_trials: At least 1; fewer are returned if there are fewer.

    Raises:
        ValueError: If ``n_trials`` is below 1, no trial has finished, or none has a plan.
    """
    if n_trials < 1:
        raise ValueError(f"`n_trials` must be at least 1, but got {n_trials}.")
    complete = [one for one in planned_trials(study) if one.is_complete]
    return [one.trial for one in best_first(study, complete)[:n_trials]]


def upload_model(
    study: Study,
    result: RefitResult,
    artifact_store: ArtifactStore,
    *,
    name: str = "model",
    files: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Upload a fine-tuned model's weights and plan as artifacts of a study.

    ``<name>.safetensors`` has the weights, which ``safetensors.torch.load_model(network, path)``
    puts into a network of the same architecture, and ``<name>.plan.json`` the plan. They belong to
    the study, because Optuna lets no artifact be added to a finished trial. Each call adds new
    ones.

    Args:
        study: The study.
        result: What ``FineTuningObjective.refit`` returned.
        artifact_store: Where the files go, such as
            ``optuna.artifacts.FileSystemArtifactStore("artifacts")``, which the dashboard shows if
            it is started with ``--artifact-dir artifacts``.
        name: Begins the files' names, such as ``"trial12"``; no path.
        files: Further texts to upload beside them, by the end of the name:
            ``{"report.md": text}`` becomes ``<name>.report.md``.

    Returns:
        File name to artifact identifier.

    Raises:
        ValueError: If a file's name is a path.
        ImportError: If safetensors is not installed.
    """
    try:
        from safetensors.torch import save_model
    except ImportError as error:
        raise ImportError(
            "Uploading models needs safetensors: pip install 'optuna-biotune[dashboard]'."
        ) from error
    texts = {"plan.json": result.plan.to_json(), **(files or {})}
    for text_name in (name, *texts):
        if not text_name or Path(text_name).name != text_name:
            raise ValueError(
                f"`name` and the names of `files` must be file names, but got {text_name!r}."
            )
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / f"{name}.safetensors"
        save_model(result.model, str(weights))
        paths = [weights]
        for text_name, text in texts.items():
            paths.append(Path(folder) / f"{name}.{text_name}")
            paths[-1].write_text(text, encoding="utf-8")
        return {
            path.name: upload_artifact(
                artifact_store=artifact_store, file_path=str(path), study_or_trial=study
            )
            for path in paths
        }
