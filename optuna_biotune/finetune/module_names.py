"""Names of the modules and parameters of a network, and what lies below them.

A name is a dotted path as in ``model.named_modules()`` or ``model.named_parameters()``; it covers
the parameter of that name, or every parameter of the module of that name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def parameters_by_name(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters in registration order; a tied one appears under each of its names."""
    return dict(model.named_parameters(remove_duplicate=False))


def first_names(parameters: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """Map each parameter name to the first name of the same tensor (its own, if it is not tied)."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in parameters.items()}


def covers(name: str, parameter: str) -> bool:
    """Tell whether a module or parameter name covers a parameter; "" covers all."""
    return not name or parameter == name or parameter.startswith(f"{name}.")


def below(name: str, parameters: Iterable[str]) -> list[str]:
    """Return those of the parameter names that a module or parameter name covers."""
    return [parameter for parameter in parameters if covers(name, parameter)]


def children_names(model: nn.Module, name: str) -> list[str]:
    """Return the names of a module's children and of its direct parameters.

    Args:
        model: The network.
        name: Name of a module, "" for the network itself.
    """
    module = model.get_submodule(name)
    prefix = f"{name}." if name else ""
    direct = [child for child, _ in module.named_parameters(recurse=False)]
    return [f"{prefix}{child}" for child in (*direct, *(c for c, _ in module.named_children()))]


def fewest_names(model: nn.Module, wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the fewest module and parameter names that cover exactly the given parameters.

    Args:
        model: The network.
        wanted: Parameter names as in ``model.named_parameters(remove_duplicate=False)``.

    Returns:
        Names in registration order. Modules without parameters are never among them.
    """
    remaining = set(wanted)
    parameters = parameters_by_name(model)

    def cover(name: str) -> list[str]:
        inside = below(name, parameters)
        if not remaining.intersection(inside):
            return []
        if name and remaining.issuperset(inside):
            return [name]
        return [found for child in children_names(model, name) for found in cover(child)]

    return tuple(cover(""))


def short_names(names: Iterable[str]) -> list[str]:
    """Shorten dotted names to their endings, as long as they stay distinct and begin with a letter.

    ``backbone.layer1`` becomes ``layer1``, but ``features.3`` stays.

    Args:
        names: Distinct dotted names.

    Returns:
        The shortened names in the same order; all unchanged if two would be the same.
    """
    full = list(names)
    short: list[str] = []
    for name in full:
        parts = name.split(".")
        start = len(parts) - 1
        while start > 0 and parts[start].isdigit():
            start -= 1
        short.append(".".join(parts[start:]))
    return short if len(set(short)) == len(full) else full


def is_normalization_only(tensors: Iterable[torch.Tensor]) -> bool:
    """Tell whether parameters only shift and scale: all of them are vectors or scalars."""
    return all(tensor.dim() <= 1 for tensor in tensors)
