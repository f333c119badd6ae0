"""Blocks of a network that nobody described: found from its modules and one forward pass.

The children of the network are its units. A unit that holds nearly everything, such as a wrapped
backbone, is replaced by its children. Units are ordered by execution and gathered into blocks:
each unit with weights of its own opens a block, and what cannot stand alone (normalization,
activations, pooling, class tokens) joins the block before it. The last block is the head.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from optuna_biotune.finetune.execution_order import record_execution
from optuna_biotune.finetune.module_names import (
    DROPOUTS,
    below,
    children_names,
    covers,
    first_names,
    is_normalization_only,
    parameters_by_name,
    short_names,
)

# A unit is opened if it holds this share of the parameters of the body: it would else be one block.
_DOMINANT_SHARE = 0.9
# A body of fewer units than this is opened further where a list of modules allows it.
_FEWEST_BODY_UNITS = 3

_PLAIN_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class _Units:
    """The units of a network while they are being chosen, with what is known about each."""

    def __init__(self, model: nn.Module, ranks: dict[str, int]) -> None:
        self.model = model
        self.parameters = parameters_by_name(model)
        self.own = [name for name, first in first_names(self.parameters).items() if name == first]
        self.modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
        self.ranks = ranks
        self.names = self.sorted(children_names(model, ""))
        while (opened := self._next_to_open()) is not None:
            inside = children_names(model, opened)
            self.names = self.sorted([name for name in self.names if name != opened] + inside)

    def rank(self, unit: str) -> float:
        """Return the rank of the first use of anything in the unit, infinite if there is none."""
        return min(
            (rank for name, rank in self.ranks.items() if covers(unit, name)), default=math.inf
        )

    def sorted(self, units: list[str]) -> list[str]:
        """Order units by first use; units that are not used come last, as registered."""
        return sorted(units, key=self.rank)

    def size(self, unit: str) -> int:
        """Return the number of parameters in the unit, tied ones counted where they come first."""
        return sum(self.parameters[name].numel() for name in below(unit, self.own))

    def opens_a_block(self, unit: str) -> bool:
        """Tell whether the unit can be a block: a module with more than normalization in it."""
        if unit not in self.modules or self.rank(unit) == math.inf:
            return False
        inside = below(unit, self.own)
        if all(isinstance(self._owner(name), nn.LayerNorm) for name in inside):
            return False
        return not is_normalization_only(self.parameters[name] for name in inside)

    def _owner(self, parameter: str) -> nn.Module:
        return self.modules[parameter.rpartition(".")[0]]

    def _can_open(self, unit: str) -> bool:
        """Tell whether a unit has children that were seen running and hold parameters."""
        return any(
            child in self.modules and self.size(child) and self.rank(child) < math.inf
            for child in children_names(self.model, unit)
        )

    def _next_to_open(self) -> str | None:
        """Return the unit to replace by its children, or None if all are fine as they are."""
        units = [unit for unit in self.names if self.opens_a_block(unit)]
        if not units:
            return None
        *body, head = units
        body_size = sum(map(self.size, body))
        for unit in filter(self._can_open, sorted(body, key=self.size, reverse=True)):
            if self.size(unit) >= _DOMINANT_SHARE * body_size:
                return unit
            if len(body) < _FEWEST_BODY_UNITS and self._is_sequence(unit):
                return unit
        if not body and self._can_open(head):
            return head
        if len(body) < _FEWEST_BODY_UNITS and self._can_open(head):
            share = self.size(head) / (body_size + self.size(head))
            if share >= _DOMINANT_SHARE and not self._is_classifier(head):
                return head
        return None

    def _is_sequence(self, unit: str) -> bool:
        """Tell whether a unit is a list of modules, or has a list of possible blocks in it."""
        if isinstance(self.modules[unit], _PLAIN_CONTAINERS):
            return True
        return any(
            isinstance(self.modules.get(child), _PLAIN_CONTAINERS)
            and sum(map(self.opens_a_block, children_names(self.model, child))) > 1
            for child in children_names(self.model, unit)
        )

    def _is_classifier(self, unit: str) -> bool:
        """Tell whether a unit is no more than a flat stack of linear and normalization layers."""
        inside = below(unit, self.own)
        flat = all("." not in name.removeprefix(f"{unit}.").rpartition(".")[0] for name in inside)
        return flat and all(
            isinstance(self._owner(name), nn.Linear) or self.parameters[name].dim() <= 1
            for name in inside
        )


def automatic_blocks(
    model: nn.Module, example_input: torch.Tensor | None = None
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Group the modules of any network into blocks in the order in which they run.

    Args:
        model: The network. Left as it was; see :func:`record_execution`.
        example_input: A batch as the network takes it. None tries common ones.

    Returns:
        Names of the modules and direct parameters of each block, in execution order, the head
        last; and the names of the parameters that the forward pass in evaluation mode does not
        use, which belong to no block.

    Raises:
        ValueError: If the network does not run, see :func:`record_execution`, or if it shows
            nothing of what it runs.
    """
    ranks = record_execution(model, example_input)
    units = _Units(model, ranks)
    if all(units.rank(name) == math.inf for name in units.own):
        raise ValueError(
            f"`model` is a {type(model).__name__} whose forward pass uses none of its parameters "
            "in a way that can be seen (is it scripted?): give its blocks in `blocks`."
        )
    blocks: list[list[str]] = [[]]
    for unit in units.names:
        if units.rank(unit) == math.inf:
            continue
        if units.opens_a_block(unit) and any(map(units.opens_a_block, blocks[-1])):
            blocks.append([])
        blocks[-1].append(unit)
    if len(blocks) > 1:
        _move_dropout_to_head(units, blocks)
    largest = [max(block, key=units.size) for block in blocks]
    named = dict(zip(short_names(largest), map(tuple, blocks), strict=True))
    unused = tuple(
        name
        for unit in units.names
        if units.rank(unit) == math.inf
        for name in below(unit, units.own)
    )
    return named, unused


def _move_dropout_to_head(units: _Units, blocks: list[list[str]]) -> None:
    """Let the dropout that ends the body follow the head, whose input it drops."""
    body, head = blocks[-2:]
    last = max(index for index, unit in enumerate(body) if units.size(unit))
    trailing = [
        unit
        for unit in body[last + 1 :]
        if any(isinstance(module, DROPOUTS) for module in units.modules[unit].modules())
    ]
    body[:] = [unit for unit in body if unit not in trailing]
    head[:0] = trailing
