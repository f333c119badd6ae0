"""Ways to fine-tune a pre-trained network, written from their papers, a module each."""

from __future__ import annotations

from methods.auto_rgn import AUTO_RGN
from methods.full import FULL
from methods.gradual_unfreezing import GRADUAL_UNFREEZING
from methods.layerwise_decay import LAYERWISE_DECAY
from methods.linear_probe import LINEAR_PROBE
from methods.lora import LORA
from methods.method import Method
from methods.plans import BIOTUNE, BIOTUNE_PAPER, TPE_PLANS
from methods.probe_then_full import PROBE_THEN_FULL
from methods.starting_point import L1_SP, L2_SP

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        BIOTUNE,
        BIOTUNE_PAPER,
        TPE_PLANS,
        FULL,
        LINEAR_PROBE,
        PROBE_THEN_FULL,
        GRADUAL_UNFREEZING,
        LAYERWISE_DECAY,
        L1_SP,
        L2_SP,
        AUTO_RGN,
        LORA,
    )
}
"""The methods that are compared, by name."""
