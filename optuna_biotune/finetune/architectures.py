"""Blocks of known networks: the four of the BioTune paper, and those that timm describes.

The tables name modules of torchvision's networks. They serve every depth of a family, and apply
only where they cover the network, so a network with another head falls back to automatic blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn
from torchvision import models

from optuna_biotune.finetune.module_names import (
    below,
    fewest_names,
    first_names,
    is_normalization_only,
    parameters_by_name,
    short_names,
)

Blocks = dict[str, tuple[str, ...]]

_INCEPTION_STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
_INCEPTION_MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")


def auxiliary_heads(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the auxiliary heads of torchvision's Inception v3 and GoogLeNet in a network.

    They run in training mode only, to give a second output that a plain loss does not use.

    Args:
        model: The network, which may hold one of these inside.

    Returns:
        Name of each such network ("" if it is ``model`` itself) to the names of its heads.
    """
    heads: dict[str, tuple[str, ...]] = {}
    for name, module in model.named_modules():
        if isinstance(module, models.Inception3):
            children: tuple[str, ...] = ("AuxLogits",)
        elif isinstance(module, models.GoogLeNet):
            children = ("aux1", "aux2")
        else:
            continue
        prefix = f"{name}." if name else ""
        present = [child for child in children if getattr(module, child, None) is not None]
        if present:
            heads[name] = tuple(f"{prefix}{child}" for child in present)
    return heads


def known_blocks(model: nn.Module) -> Blocks | None:
    """Return the blocks of a torchvision ResNet, DenseNet, VGG or Inception v3.

    Args:
        model: The network.

    Returns:
        Names of the modules of each block in execution order, or None if the network is of another
        kind or was changed so much that its table no longer covers it.
    """
    for architecture, table in _TABLES.items():
        if isinstance(model, architecture):
            blocks = table(model)
            parameters = parameters_by_name(model)
            modules = dict(model.named_modules())
            heads = [head for names in auxiliary_heads(model).values() for head in names]
            listed = [name for names in blocks.values() for name in names]
            covered = [
                parameter for name in (*listed, *heads) for parameter in below(name, parameters)
            ]
            complete = sorted(covered) == sorted(parameters)
            filled = all(below(name, parameters) for name in listed)
            if complete and filled and all(name in modules for name in listed):
                return blocks
    return None


def _resnet(model: nn.Module) -> Blocks:
    layers = ("layer1", "layer2", "layer3", "layer4")
    return {"stem": ("conv1", "bn1"), **{name: (name,) for name in layers}, "fc": ("fc",)}


def _densenet(model: nn.Module) -> Blocks:
    blocks: Blocks = {"stem": ()}
    for child, _ in model.get_submodule("features").named_children():
        module = f"features.{child}"
        if child.startswith(("denseblock", "transition")):
            blocks[child] = (module,)
        elif child in ("conv0", "norm0"):
            blocks["stem"] += (module,)
        elif child == "norm5":
            last = next(reversed(blocks))
            blocks[last] += (module,)
    return {**blocks, "classifier": ("classifier",)}


def _vgg(model: nn.Module) -> Blocks:
    stages: list[tuple[str, ...]] = [()]
    for child, module in model.get_submodule("features").named_children():
        if isinstance(module, nn.MaxPool2d):
            stages.append(())
        elif any(True for _ in module.parameters()):
            stages[-1] += (f"features.{child}",)
    filled = [stage for stage in stages if stage]
    blocks = {f"stage{number}": stage for number, stage in enumerate(filled, start=1)}
    return {**blocks, "classifier": ("classifier",)}


def _inception(model: nn.Module) -> Blocks:
    stem = tuple(f"Conv2d_{name}" for name in _INCEPTION_STEM)
    mixed = {f"Mixed_{name}": (f"Mixed_{name}",) for name in _INCEPTION_MIXED}
    return {"stem": stem, **mixed, "fc": ("fc",)}


_TABLES: dict[type[nn.Module], Callable[[nn.Module], Blocks]] = {
    models.ResNet: _resnet,
    models.DenseNet: _densenet,
    models.VGG: _vgg,
    models.Inception3: _inception,
}


def timm_blocks(model: nn.Module) -> Blocks | None:
    """Return the blocks of a timm network as its own ``group_matcher(coarse=True)`` groups them.

    Groups of normalization only join the block before them. The classifier is a block of its own,
    the last; what timm groups with it joins the block before, or is one if it is more than
    normalization.

    Args:
        model: The network.

    Returns:
        Names of the modules and direct parameters of each block, in timm's order, which is that of
        execution; None if it is not a timm network, or timm has no coarse groups for it.
    """
    if not hasattr(model, "group_matcher"):
        return None
    try:
        from timm.models import group_parameters

        matcher = cast(Any, model).group_matcher(coarse=True)
    except (ImportError, AssertionError, NotImplementedError):
        return None
    parameters = parameters_by_name(model)
    first = first_names(parameters)
    groups: list[list[str]] = [list(group) for group in group_parameters(model, matcher).values()]
    classifier = [
        parameter
        for name in _classifier_names(model)
        for parameter in below(name, parameters)
        if parameter == first[parameter]
    ]
    body: list[list[str]] = []
    for group in groups:
        rest = [name for name in group if name not in classifier]
        if body and is_normalization_only(parameters[name] for name in rest):
            body[-1] += rest
        elif rest:
            body.append(rest)
    blocks = [fewest_names(model, group) for group in (*body, classifier) if group]

    def size(name: str) -> int:
        return sum(parameters[parameter].numel() for parameter in below(name, parameters))

    named = short_names(max(names, key=size) for names in blocks)
    has_stem = isinstance(matcher, dict) and next(iter(matcher), None) == "stem"
    if has_stem and len(named) > 1 and "stem" not in named[1:]:
        named[0] = "stem"
    return dict(zip(named, blocks, strict=True))


def _classifier_names(model: nn.Module) -> list[str]:
    """Return the names of the modules that timm calls the classifier; some networks have two."""
    if not hasattr(model, "get_classifier"):
        return []
    classifier = cast(Any, model).get_classifier()
    wanted = classifier if isinstance(classifier, (tuple, list)) else (classifier,)
    return [name for name, module in model.named_modules() if any(module is w for w in wanted)]
