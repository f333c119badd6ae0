"""What a trial's training took: seconds by phase, images, memory and floating-point operations."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from optuna_biotune.finetune.execution_order import left_as_found
from optuna_biotune.finetune.gradients import main_logits
from optuna_biotune.finetune.host_memory import resident_memory
from optuna_biotune.finetune.network_split import NetworkSplit
from optuna_biotune.finetune.partition import BlockPartition
from optuna_biotune.genotype import FineTuningPlan

PHASES = ("frozen", "train", "validate")
"""Computing what frozen first blocks make of the images; training; validation."""


class Telemetry:
    """Adds up what the training of one trial takes.

    Args:
        device: Where it runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._phase: str | None = None
        self.seconds: dict[str, float] = defaultdict(float)
        self.images = 0
        self._most_resident = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds of the block to a phase, and not to the phase that it is inside of.

        Args:
            name: One of :data:`PHASES`.
        """
        outer, start = self._phase, time.perf_counter()
        self._phase = name
        try:
            yield
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            else:
                self._most_resident = max(self._most_resident, resident_memory())
        finally:
            seconds = time.perf_counter() - start
            self.seconds[name] += seconds
            if outer is not None:
                self.seconds[outer] -= seconds
            self._phase = outer

    def attributes(self, flops_per_image: float | None = None) -> dict[str, float]:
        """Return what was measured, as flat numbers for a trial's attributes.

        Args:
            flops_per_image: Floating-point operations that training takes for one image.

        Returns:
            ``seconds/<phase>``; ``images_per_second`` and ``teraflops_per_second`` of training;
            and ``memory_mib``: the most that was allocated on the CUDA device, or the most main
            memory of the whole process, as seen at the end of a phase.
        """
        values = {f"seconds/{name}": round(self.seconds[name], 4) for name in PHASES}
        peak = self._most_resident
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        values["memory_mib"] = round(peak / 2**20, 1)
        if self.images and self.seconds["train"] > 0:
            speed = self.images / self.seconds["train"]
            values["images_per_second"] = round(speed, 1)
            if flops_per_image is not None:
                values["teraflops_per_second"] = float(f"{speed * flops_per_image / 1e12:.4g}")
        return values


def training_flops(
    template: BlockPartition, plan: FineTuningPlan, split: NetworkSplit | None, example: Tensor
) -> float:
    """Count the floating-point operations of training on one image, forward and backward.

    Those are counted of matrix products and convolutions, as ``torch.utils.flop_counter`` does.

    Args:
        template: The partition of a network of the architecture. Its modes, gradients and which
            parameters require them are set; its weights and buffers stay.
        plan: The plan, which trains at least one block.
        split: If given, only what comes after its cut is counted.
        example: Two images as the network takes them, on its device.
    """
    model = template.model
    template.param_groups(plan, lr=1.0)
    with left_as_found(model):
        template.train(plan)
        with torch.no_grad():
            inputs = example if split is None else split.first(model, example.clone())
        counter = FlopCounterMode(display=False)
        with counter:
            output = model(inputs) if split is None else split.rest_in_training(model, inputs)
            main_logits(output).float().sum().backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        parameter.grad = None
    return counter.get_total_flops() / len(example)
