"""What is the same for all trainings of an objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optuna_biotune.finetune.partition import BlockPartition
from optuna_biotune.finetune.prefix import PrefixSharing


@dataclass(frozen=True)
class TrainingSettings:
    """What is the same for all plans, seeds and trials.

    Attributes:
        build_model: Builds a network, under the random numbers of a seed.
        template: The blocks, found once on a network of the same architecture.
        lr: Base learning rate, absolute.
        epochs: Most epochs a network trains for, and the length of the cosine schedule.
        patience: Epochs without improvement after which a seed stops.
        batch_size: Images a step.
        metric: Name of the validation metric.
        device: Where the networks run.
        precision: ``"fp32"`` or ``"bf16"``.
        augment: Changes a batch of training images, float [N, C, H, W] on the device; None for
            none.
        channels_last: Lay networks out with their channels last while they train.
        sharing: Lets networks keep what their frozen first blocks compute; None does not.
        weight_decay: Factor of Adam's L2 penalty.
    """

    build_model: Callable[[], nn.Module]
    template: BlockPartition
    lr: float
    epochs: int
    patience: int
    batch_size: int
    metric: str
    device: torch.device
    precision: str
    augment: Callable[[Tensor], Tensor] | None
    channels_last: bool = False
    sharing: PrefixSharing | None = None
    weight_decay: float = 0.0
