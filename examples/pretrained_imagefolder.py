"""Fine-tune a pre-trained network on a folder of images, with the plan that BioTune finds.

    python examples/pretrained_imagefolder.py DATA_DIR --network resnet50
    python examples/pretrained_imagefolder.py DATA_DIR --network timm:convnext_tiny.fb_in1k

DATA_DIR holds one folder of images for each class, or folders ``train``, ``test`` and perhaps
``val`` that do. All images are kept in memory as the network takes them (0.6 MB each at 224 x 224
pixels). The search can be interrupted; the same command goes on with it.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import optuna
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import Subset
from torchvision import models
from torchvision.datasets import ImageFolder

from optuna_biotune import (
    BioTuneSampler,
    FineTuningObjective,
    FineTuningPlan,
    best_trial,
    make_storage,
)

CONNECTION_TIMEOUT = 10  # seconds without an answer


def read_folders(root: Path) -> tuple[Subset[Any], Subset[Any] | None, Subset[Any], list[str]]:
    """Return training, validation (or None) and test images, and the names of the classes."""
    if not (root / "train").is_dir():
        images = ImageFolder(root)
        train, test = train_test_split(
            range(len(images)), test_size=0.2, stratify=images.targets, random_state=0
        )
        return Subset(images, train), None, Subset(images, test), images.classes
    parts = {p: ImageFolder(root / p) for p in ("train", "val", "test") if (root / p).is_dir()}
    for part, images in parts.items():
        if images.classes != parts["train"].classes:
            raise ValueError(f"{root / part} must have the same class folders as {root / 'train'}.")
    if "test" not in parts:
        raise ValueError(f"{root} has a folder train, so it needs a folder test, too.")
    whole = {part: Subset(images, range(len(images))) for part, images in parts.items()}
    return whole["train"], whole.get("val"), whole["test"], parts["train"].classes


class Network:
    """A network of torchvision or timm: how to build it, its weights and its transform."""

    def __init__(self, name: str, weights: Path | None) -> None:
        self.library, _, self.name = name.rpartition(":")
        self.transform: Callable[[Any], Tensor]
        if self.library == "timm":
            from huggingface_hub import constants

            if not reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
                # The hub's client would try for minutes before it looks into its cache. By now
                # its environment variable may have been read.
                constants.HF_HUB_OFFLINE = True
            import timm
            from timm.data.config import resolve_data_config
            from timm.data.transforms_factory import create_transform

            configuration = timm.create_model(self.name).pretrained_cfg
            self.transform = create_transform(**resolve_data_config({}, configuration))  # type: ignore[no-untyped-call]
        elif self.library:
            raise ValueError(f"--network must be NAME (torchvision) or timm:NAME, not {name!r}.")
        else:
            self.transform = models.get_model_weights(self.name).DEFAULT.transforms()
        self.weights = self.download() if weights is None else load_weights(weights)

    def download(self) -> dict[str, Tensor]:
        """Download the pre-trained weights, or read them from the library's cache."""
        try:
            if self.library == "timm":
                import timm

                source: nn.Module = timm.create_model(self.name, pretrained=True)
                return source.state_dict()
            weights = models.get_model_weights(self.name).DEFAULT
            state: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
            return state
        except Exception as error:  # Each library and proxy fails in a way of its own.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConnectionError(
                f"The weights of {self.name} cannot be downloaded ({reason}): "
                "give a file that holds its state_dict, --weights FILE (.pth or .safetensors)."
            ) from error

    def build(self, n_classes: int) -> nn.Module:
        """Return the pre-trained network with a head for a number of classes."""
        model: nn.Module
        if self.library == "timm":
            import timm

            model = timm.create_model(self.name, num_classes=n_classes)
        else:
            # What torchvision sets by itself only when it loads the weights.
            special = {"transform_input": True} if "inception" in self.name else {}
            model = models.get_model(self.name, weights=None, num_classes=n_classes, **special)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        fitting = {k: v for k, v in self.weights.items() if v.shape == shapes.get(k)}
        absent = [k for k in shapes if k not in self.weights]
        if absent or len(fitting) < len(shapes) / 2:
            raise ValueError(f"The weights do not fit {self.name}: e.g. {absent or list(shapes)}.")
        model.load_state_dict(fitting, strict=False)
        return model


def reachable(url: str) -> bool:
    """Tell whether a server answers."""
    try:
        urlopen(url).close()
    except HTTPError:
        return True
    except OSError:
        return False
    return True


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state_dict from a file of torch.save or safetensors."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def search(options: argparse.Namespace) -> None:
    """Search for a plan, compare it with the usual ones, and save it with the network."""
    train, val, test, classes = read_folders(options.data)
    network = Network(options.network, options.weights)
    objective = FineTuningObjective(
        model=lambda: network.build(len(classes)),
        train=train,
        val=val,
        transform=network.transform,
        epochs=options.epochs,
        seeds=range(options.seeds),
    )
    options.output.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=options.network,
        storage=make_storage(options.output / "study.db"),
        sampler=BioTuneSampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=10, n_warmup_steps=5),
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
    print(f"Accuracy on {len(test)} test images, mean of {options.seeds} seeds:")
    for title, plan in {"Linear probe": probe, "Full fine-tuning": full, "BioTune": best}.items():
        result = objective.refit(plan, test=test)
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
    # Where a firewall drops packets, a download without a timeout never ends.
    socket.setdefaulttimeout(CONNECTION_TIMEOUT)
    try:
        search(parser.parse_args())
    except (ConnectionError, FileNotFoundError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
