"""The networks of the benchmarks: small ones for the CPU, and those of the BioTune paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from networks.small_densenet import SmallDenseNet
from networks.small_inception import SmallInception
from networks.small_resnet import SmallResNet
from networks.small_vgg import SmallVGG
from optuna_biotune.finetune import pretrained

__all__ = ["NETWORKS", "PAPER_NETWORKS", "Network", "build_network", "network_named"]


@dataclass(frozen=True)
class Network:
    """A network that can be fine-tuned.

    Attributes:
        build: Builds it with random weights, given the number of classes.
        head: Name of the module that is replaced for another number of classes.
        size: Height and width of the images that it was pre-trained on.
    """

    build: Callable[[int], nn.Module]
    head: str
    size: int = 32


NETWORKS: dict[str, Network] = {
    "small_resnet": Network(SmallResNet, head="fc"),
    "small_densenet": Network(SmallDenseNet, head="fc"),
    "small_vgg": Network(SmallVGG, head="classifier"),
    "small_inception": Network(SmallInception, head="fc"),
}
"""The networks that ``pretrain.py`` trains from scratch, small enough to fine-tune hundreds of
times on a CPU, by name."""


def _torchvision(name: str, head: str, size: int = 224) -> Network:
    """Return a network of torchvision, without auxiliary heads."""
    build = partial(pretrained.build_network, pretrained.NetworkName("torchvision", name))
    return Network(build, head, size)


PAPER_NETWORKS: dict[str, Network] = {
    "resnet50": _torchvision("resnet50", head="fc"),
    "densenet121": _torchvision("densenet121", head="classifier"),
    "vgg19": _torchvision("vgg19", head="classifier.6"),
    "inception_v3": _torchvision("inception_v3", head="fc", size=299),
}
"""The networks of the BioTune paper, whose weights torchvision downloads, by name."""


def network_named(name: str) -> Network:
    """Return one of :data:`NETWORKS` or :data:`PAPER_NETWORKS`.

    Raises:
        ValueError: If the name is unknown.
    """
    known = {**NETWORKS, **PAPER_NETWORKS}
    if name not in known:
        raise ValueError(f"`name` must be one of {', '.join(known)}, but got {name!r}.")
    return known[name]


def build_network(name: str, n_classes: int) -> nn.Module:
    """Build a network with random weights, drawn from torch's global generator.

    Args:
        name: One of :data:`NETWORKS` or :data:`PAPER_NETWORKS`.
        n_classes: Outputs of its head, at least 1.

    Returns:
        The network on the CPU, its weights in channels-last format, which is faster there, too.

    Raises:
        ValueError: If the name is unknown.
    """
    return network_named(name).build(n_classes).to(memory_format=torch.channels_last)
