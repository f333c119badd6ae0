"""Accuracy against trained parameters on real digits: the evolution beside NSGA-II, unscreened.

Each study fine-tunes the network of ``examples/quickstart.py`` with two objectives, validation
accuracy up and trained parameters down, and is scored by the hypervolume of what it found, both
objectives scaled to [0, 1] and measured from the point (accuracy 0, all parameters). A trial's
value depends on its plan alone, so both samplers search the same landscape.

    python benchmarks/pareto.py --seeds 10 --trials 60
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import optuna
import torch
from optuna.samplers import BaseSampler, NSGAIISampler
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from optuna_biotune import BioTuneSampler, FineTuningObjective

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
from quickstart import build_network, pretrain

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "BioTuneSampler": lambda seed: BioTuneSampler.paper(seed=seed),
    "NSGAIISampler": lambda seed: NSGAIISampler(seed=seed),
    "NSGAIISampler(population_size=10)": lambda seed: NSGAIISampler(seed=seed, population_size=10),
}


def digits_objective() -> FineTuningObjective:
    """Return the objective: adapt a reader of 0 to 4 to noisy images of 5 to 9."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    source = labels < 5
    pretrained = pretrain(images[source], labels[source])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    target, target_labels = (images + 0.4 * noise)[~source], labels[~source] - 5

    def build_model() -> torch.nn.Module:
        network = build_network(n_classes=5)
        network.load_state_dict(pretrained, strict=False)
        return network

    return FineTuningObjective(
        model=build_model,
        train=TensorDataset(target[:40], target_labels[:40]),
        val=TensorDataset(target[40:190], target_labels[40:190]),
        objectives=("accuracy", "trainable_params"),
        epochs=15,
        batch_size=16,
        seeds=(0,),
    )


def hypervolume(study: optuna.Study, n_parameters: int) -> float:
    """Return the area that the study's trials dominate, in [0, 1]."""
    values = [trial.values for trial in study.trials if trial.values]
    points = sorted((parameters / n_parameters, accuracy) for accuracy, parameters in values)
    area, best = 0.0, 0.0
    for index, (cost, accuracy) in enumerate(points):
        best = max(best, accuracy)
        next_cost = points[index + 1][0] if index + 1 < len(points) else 1.0
        area += best * (min(next_cost, 1.0) - min(cost, 1.0))
    return area


def main() -> None:
    """Run all studies, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="studies a sampler (default: 10)")
    parser.add_argument("--trials", type=int, default=60, help="trials a study (default: 60)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pareto.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objective = digits_objective()
    n_parameters = sum(p.numel() for p in build_network(n_classes=5).parameters())
    volumes: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    for seed in range(options.seeds):
        for name, sampler in SAMPLERS.items():
            study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler(seed))
            study.optimize(objective, n_trials=options.trials)
            volumes[name].append(hypervolume(study, n_parameters))
            print(f"seed {seed}  {name:36}{volumes[name][-1]:.4f}", flush=True)
    print(f"\nHypervolume after {options.trials} trials, mean and deviation of {options.seeds}:")
    for name, values in volumes.items():
        spread = stdev(values) if len(values) > 1 else 0.0
        print(f"  {name:36}{fmean(values):.4f} ± {spread:.4f}")
    ours = np.asarray(volumes["BioTuneSampler"])
    ahead = int((ours >= np.asarray(volumes["NSGAIISampler"])).sum())
    print(f"BioTuneSampler is at least level with NSGAIISampler in {ahead} of {options.seeds}.")
    result = {
        "command": f"python benchmarks/pareto.py --seeds {options.seeds} --trials {options.trials}",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "hypervolume": volumes,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
