"""Train each trial on several processes at once, with PyTorch's distributed data parallel.

    pip install optuna-integration
    torchrun --nproc-per-node 2 examples/distributed/data_parallel.py --trials 36

Rank 0 owns the study. ``TorchDistributedTrial`` gives all ranks the same plan, and lets all of them
prune at the same epoch. This runs on CPUs; on GPUs take the backend "nccl" and move the network and
its images to ``cuda:LOCAL_RANK``.
"""

from __future__ import annotations

import argparse
import warnings

import digits
import optuna
import torch
import torch.distributed as dist
from optuna.exceptions import ExperimentalWarning
from optuna.trial import BaseTrial, TrialState
from optuna_integration import TorchDistributedTrial
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

from optuna_biotune import BioTuneSampler, FineTuningPlan, partition_blocks, suggest_plan

_BATCH_SIZE = 8  # images on each rank


class Objective:
    """Trains the plan of a trial on all ranks; each of them calls it."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._rank, self._n_ranks = dist.get_rank(), dist.get_world_size()
        self._weights = digits.pretrained_weights()
        self._data = digits.load()

    def __call__(self, trial: BaseTrial) -> float:
        """Return the accuracy on the validation images of all ranks."""
        torch.manual_seed(0)
        model = digits.build_network(2, self._weights)
        blocks = partition_blocks(model, example_input=self._data.train.tensors[0][:2])
        suggest_plan(trial, blocks.names)
        # Suggested values travel to the ranks in single precision; the parameters are exact.
        plan = FineTuningPlan.from_trial(trial)
        if not plan.trainable:  # Samplers that do not know the method propose that, too.
            return 0.0
        optimizer = torch.optim.Adam(blocks.param_groups(plan, lr=digits.LEARNING_RATE))
        # Frozen parameters require no gradient by now, so that nothing waits for one: there is no
        # need for `find_unused_parameters`.
        replica = DistributedDataParallel(model)
        accuracy = 0.0
        for epoch in range(self._epochs):
            blocks.train(plan)
            for images, labels in self._batches(epoch):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(replica(images), labels)
                torch.autograd.backward(loss)
                optimizer.step()
            accuracy = self._accuracy(model)
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned()
        return accuracy

    def _batches(self, epoch: int) -> list[tuple[Tensor, Tensor]]:
        """Return this rank's batches: every rank has as many, or the others would wait for it."""
        images, labels = self._data.train.tensors
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(len(labels), generator=generator)
        share = order[self._rank :: self._n_ranks][: len(order) // self._n_ranks]
        return [(images[batch], labels[batch]) for batch in torch.split(share, _BATCH_SIZE)]

    @torch.no_grad()
    def _accuracy(self, model: nn.Module) -> float:
        # BatchNorm's running averages differ between the ranks until the next training step.
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
        model.eval()
        images, labels = _share(self._data.val, self._rank, self._n_ranks)
        correct = (model(images).argmax(1) == labels).sum()
        dist.all_reduce(correct)
        return int(correct) / len(self._data.val)


def _share(dataset: TensorDataset, rank: int, n_ranks: int) -> tuple[Tensor, ...]:
    return tuple(tensor[rank::n_ranks] for tensor in dataset.tensors)


def main() -> None:
    """Search on all ranks, and print the best plan."""
    parser = argparse.ArgumentParser(description="Train each trial on several processes.")
    parser.add_argument("--trials", type=int, default=36, help="trials (default: 36)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of a training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)
    dist.init_process_group("gloo")
    objective = Objective(options.epochs)

    n_pruned = 0
    if dist.get_rank() == 0:
        study = optuna.create_study(
            direction="maximize",
            sampler=BioTuneSampler(seed=0),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        )
        study.optimize(
            lambda trial: objective(TorchDistributedTrial(trial)), n_trials=options.trials
        )
        n_pruned = len(study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)))
        plan = FineTuningPlan.from_trial(study.best_trial)
        print(f"{len(study.trials)} trials. Best: {study.best_value:.3f}, {plan.mask}")
    else:
        for _ in range(options.trials):
            try:
                objective(TorchDistributedTrial(None))
            except optuna.TrialPruned:
                n_pruned += 1
    print(f"Rank {dist.get_rank()} of {dist.get_world_size()} pruned {n_pruned} trials.")
    # A rank that leaves while another still exchanges numbers takes that one down.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
