"""LoRA: low-rank adapters on every convolution and linear layer, and the head as a whole.

All else stays as it was pre-trained, BatchNorm's statistics included. The scale of the adapters is
1, as their authors tune the learning rate instead (alpha equals the rank).
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from methods.method import Constants, Method, Stage, whole_training
from optuna_biotune import BlockPartition, FineTuningPlan

_BODY, _ADAPTERS, _HEAD = "body", "adapters", "head"


def with_adapters(blocks: BlockPartition, constants: Constants) -> BlockPartition:
    """Put adapters into a network, in place.

    Args:
        blocks: The blocks of the network, the head last.
        constants: With ``rank``.

    Returns:
        Three blocks: the body, which is to stay frozen, the adapters and the head.
    """
    model, head = blocks.model, blocks.names[-1]
    targets = [
        name
        for block in blocks.names[:-1]
        for name, module in blocks.named_modules(block).items()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    head_modules, head_parameters = blocks.named_modules(head), blocks.named_parameters(head)
    inject_adapter_in_model(
        LoraConfig(
            r=constants["rank"],
            lora_alpha=constants["rank"],
            target_modules=targets,
            exclude_modules=list(head_modules),
        ),
        model,
    )
    parameters = [name for name, _ in model.named_parameters() if name not in head_parameters]
    return BlockPartition(
        model,
        {
            _BODY: [name for name in parameters if ".lora_" not in name],
            _ADAPTERS: [name for name in parameters if ".lora_" in name],
            _HEAD: list(head_parameters),
        },
    )


def _stages(names: Sequence[str], constants: Constants, epochs: int) -> tuple[Stage, ...]:
    return whole_training(FineTuningPlan({_BODY: 0.0, _ADAPTERS: 1.0, _HEAD: 1.0}), epochs)


def _suggest(trial: optuna.Trial, names: Sequence[str]) -> dict[str, int]:
    return {"rank": trial.suggest_categorical("rank", [2, 4, 8, 16, 32])}


LORA = Method(
    name="LoRA",
    citation="Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen, LoRA: Low-Rank Adaptation of "
    "Large Language Models, ICLR 2022",
    stages=_stages,
    defaults={"rank": 8},
    suggest=_suggest,
    adapt=with_adapters,
)
