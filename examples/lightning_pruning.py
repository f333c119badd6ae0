"""Search for a plan with PyTorch Lightning, and prune trials by optuna-integration's callback.

pip install lightning optuna-integration
python examples/lightning_pruning.py
"""

from __future__ import annotations

import argparse
import logging
import warnings

import lightning
import optuna
import torch
from optuna_integration import PyTorchLightningPruningCallback
from own_training_loop import TRAIN, VAL, Objective, build_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from optuna_biotune import BioTuneSampler, FineTuningPlan, partition_blocks, suggest_plan

EPOCHS = 8
TASK = Objective()  # the digits, and a network that was trained to read them


class Classifier(lightning.LightningModule):
    """Fine-tunes a network by the plan of a trial."""

    def __init__(self, trial: optuna.Trial) -> None:
        super().__init__()
        self.network = build_model(n_classes=2)
        self.network[:-1].load_state_dict(TASK.pretrained)
        self.blocks = partition_blocks(self.network, example_input=TASK.images[:2])
        self.plan = suggest_plan(trial, self.blocks.names)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give each trained block its learning rate, and leave the frozen ones out."""
        return torch.optim.AdamW(self.blocks.param_groups(self.plan, lr=3e-3))

    def on_train_epoch_start(self) -> None:
        """Hold frozen blocks in evaluation mode."""
        self.blocks.train(self.plan)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss."""
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Log the accuracy, which the callback reports to the trial."""
        correct = self.network(batch[0]).argmax(1) == batch[1]
        self.log("val_accuracy", correct.float().mean())


def objective(trial: optuna.Trial) -> float:
    """Train the trial's plan."""
    torch.manual_seed(0)
    train, val = (TensorDataset(TASK.images[p], TASK.labels[p] % 2) for p in (TRAIN, VAL))
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        callbacks=[PyTorchLightningPruningCallback(trial, monitor="val_accuracy")],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(trial), DataLoader(train, 20, shuffle=True), DataLoader(val, 140))
    return float(trainer.callback_metrics["val_accuracy"])


def main() -> None:
    """Search, and print the best plan."""
    parser = argparse.ArgumentParser(description="Search with PyTorch Lightning.")
    parser.add_argument("--trials", type=int, default=25)
    trials = parser.parse_args().trials
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    study = optuna.create_study(
        direction="maximize",
        sampler=BioTuneSampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=10, n_warmup_steps=3),
    )
    study.optimize(objective, n_trials=trials)
    pruned = len(study.get_trials(states=(optuna.trial.TrialState.PRUNED,)))
    print(f"Best accuracy {study.best_value:.3f}; {pruned} of {trials} trials were pruned.")
    print(FineTuningPlan.from_trial(study.best_trial).multipliers)


if __name__ == "__main__":
    main()
