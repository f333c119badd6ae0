"""Fine-tune a pre-trained network on a folder of images, with the plan that BioTune finds.

    python examples/pretrained_imagefolder.py DATA_DIR --network resnet50
    python examples/pretrained_imagefolder.py DATA_DIR --network timm:convnext_tiny.fb_in1k

DATA_DIR holds one folder of images for each class, or folders ``train``, ``test`` and perhaps
``val`` that do. The search can be interrupted; the same command goes on with it. The package's
parts for networks and images by name are optional: ``FineTuningObjective`` takes any function that
builds a network, and any datasets.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import optuna
import torch

from optuna_biotune import (
    BioTuneSampler,
    FineTuningObjective,
    FineTuningPlan,
    best_trial,
    make_storage,
)
from optuna_biotune.finetune.image_folder import image_transform, read_image_folders
from optuna_biotune.finetune.pretrained import (
    NetworkName,
    PretrainedNetwork,
    preprocessing_of,
    pretrained_weights,
)


def search(options: argparse.Namespace) -> None:
    """Search for a plan, compare it with the usual ones, and save it with the network."""
    images = read_image_folders(options.data)
    name = NetworkName.parse(options.network)
    weights = pretrained_weights(name, options.weights)
    objective = FineTuningObjective(
        model=PretrainedNetwork(name, weights, n_classes=len(images.classes)).build,
        train=images.train,
        val=images.val,
        transform=image_transform(preprocessing_of(name)),
        epochs=options.epochs,
        seeds=range(options.seeds),
    )
    options.output.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=options.network,
        storage=make_storage(options.output / "study.db"),
        sampler=BioTuneSampler(seed=0),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=3, reduction_factor=2),
        direction="maximize",
        load_if_exists=True,
    )
    full = FineTuningPlan.full(objective.block_names)
    probe = FineTuningPlan.linear_probe(objective.block_names)
    study.enqueue_trial(full.to_params(), skip_if_exists=True)
    study.enqueue_trial(probe.to_params(), skip_if_exists=True)
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    remaining = options.trials - len(study.get_trials(deepcopy=False, states=states))
    if remaining > 0:
        study.optimize(objective, n_trials=remaining, show_progress_bar=True)

    best = FineTuningPlan.from_trial(best_trial(study))
    print(f"Accuracy on {len(images.test)} test images, mean of {options.seeds} seeds:")
    for title, plan in {"Linear probe": probe, "Full fine-tuning": full, "BioTune": best}.items():
        result = objective.refit(plan, test=images.test)
        print(f"  {title:20}{fmean(result.metrics['accuracy']):.3f}")
    (options.output / "plan.json").write_text(best.to_json() + "\n")
    torch.save(result.model.state_dict(), options.output / "model.pth")
    print(
        f"Saved plan.json, model.pth and study.db to {options.output}: {best.learning_rates(1e-3)}"
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Fine-tune a pre-trained network on a folder.")
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="class folders, or train/...")
    parser.add_argument("--network", default="resnet50", help="of torchvision, or timm:NAME")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="state_dict to start from")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3, help="networks a trial (default: 3)")
    parser.add_argument("--output", type=Path, default=Path("biotune"), metavar="DIR")
    try:
        search(parser.parse_args())
    except (ConnectionError, FileNotFoundError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
