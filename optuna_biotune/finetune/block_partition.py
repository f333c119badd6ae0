"""The blocks of a network, and what a fine-tuning plan makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import nn

from optuna_biotune.finetune.architectures import auxiliary_heads
from optuna_biotune.finetune.block_assignment import (
    assign_parameters,
    check_blocks,
    check_model,
    listed,
    place_modules,
)
from optuna_biotune.finetune.module_names import below, first_names, parameters_by_name
from optuna_biotune.genotype import FineTuningPlan


class BlockPartition:
    """An ordered partition of a network's parameters into blocks.

    It refers to the network and stores nothing on it. Parameters are looked up by name at each
    call, so the network may be moved to another device or data type; a copy of the network needs
    a partition of its own, see :meth:`for_model`.

    Frozen means: in no optimizer group, ``requires_grad`` False, ``grad`` None, in evaluation
    mode. A frozen block's parameters and buffers are bit-identical after training.

    A parameter tied across blocks counts as one of the first of these blocks, and trains only when
    all of them train, at the learning rate of the first.

    Args:
        model: The network.
        blocks: Block name to the names of its modules and parameters, in order.
        unused: Names of parameters that are in no block. They are always frozen.

    Raises:
        TypeError: See :func:`partition_blocks`.
        ValueError: See :func:`partition_blocks`.
    """

    def __init__(
        self, model: nn.Module, blocks: Mapping[str, Sequence[str]], unused: Sequence[str] = ()
    ) -> None:
        """Assign every parameter and module to its block."""
        check_model(model)
        self._model = model
        self._blocks = check_blocks(blocks)
        self._holders = assign_parameters(model, self._blocks, unused)
        self._homes = place_modules(model, self._blocks, self._holders)

    def __repr__(self) -> str:
        """Show the kind of network and the names of its blocks."""
        return f"BlockPartition({type(self._model).__name__}: {', '.join(self.names)})"

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self._blocks)

    @property
    def names(self) -> tuple[str, ...]:
        """Block names in execution order, the head last."""
        return tuple(self._blocks)

    @property
    def model(self) -> nn.Module:
        """The network that is partitioned."""
        return self._model

    @property
    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Block name to the names of its modules and parameters, as ``blocks`` takes them."""
        return dict(self._blocks)

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of the parameters in no block, always frozen.

        They are those of auxiliary heads, and of whatever a forward pass in evaluation mode did
        not use when the blocks were found by one. An auxiliary head runs in training mode only,
        and its output does not reach the loss. So that it does not run, :meth:`train` holds the
        network that owns it in evaluation mode itself, but not what is inside: Inception v3 then
        returns a tensor, the logits.
        """
        return tuple(name for name in self._parameters() if not self._holders[name])

    def for_model(self, model: nn.Module) -> BlockPartition:
        """Return the same partition of another instance of the same architecture.

        Faster than :func:`partition_blocks`, as it needs no forward pass.

        Args:
            model: The other network.

        Raises:
            TypeError: If ``model`` is not a module.
            ValueError: If its modules have other names.
        """
        check_model(model)
        unused = [name for name, held in self._holders.items() if not held]
        unknown = set(unused).difference(parameters_by_name(model))
        if unknown:
            raise ValueError(
                f"`model` must have the same parameters, but lacks {listed(sorted(unknown))}."
            )
        return BlockPartition(model, self._blocks, unused)

    def block_of(self, name: str) -> str | None:
        """Return the block of a module or parameter.

        Args:
            name: Name as in ``model.named_modules()`` or ``model.named_parameters()``.

        Returns:
            The block; None for a container that spans several blocks, and for what is unused.

        Raises:
            ValueError: If the network has no module or parameter of that name.
        """
        if name in self._homes:
            return self._homes[name]
        if name in self._holders:
            return next(iter(self._holders[name]), None)
        raise ValueError(f"`name` must name a module or parameter of the model, but got {name!r}.")

    def named_modules(self, block: str) -> dict[str, nn.Module]:
        """Return the modules of a block by name, at every depth, in registration order.

        Args:
            block: Name of the block.

        Raises:
            ValueError: If there is no such block.
        """
        self._check_block(block)
        return {
            name: module
            for name, module in self._model.named_modules()
            if self._homes.get(name) == block
        }

    def named_parameters(self, block: str) -> dict[str, nn.Parameter]:
        """Return the parameters of a block by name, in registration order.

        Args:
            block: Name of the block.

        Raises:
            ValueError: If there is no such block, or the network's modules have changed.
        """
        self._check_block(block)
        return {
            name: parameter
            for name, parameter in self._parameters().items()
            if self._holders[name][:1] == (block,)
        }

    def named_buffers(self, block: str) -> dict[str, torch.Tensor]:
        """Return the buffers of a block's modules by name, such as BatchNorm's statistics.

        Args:
            block: Name of the block.

        Raises:
            ValueError: If there is no such block.
        """
        return {
            name: buffer
            for prefix, module in self.named_modules(block).items()
            for name, buffer in module.named_buffers(prefix=prefix, recurse=False)
        }

    def modules(self, block: str) -> list[nn.Module]:
        """Return the modules of :meth:`named_modules`."""
        return list(self.named_modules(block).values())

    def parameters(self, block: str) -> list[nn.Parameter]:
        """Return the parameters of :meth:`named_parameters`."""
        return list(self.named_parameters(block).values())

    def buffers(self, block: str) -> list[torch.Tensor]:
        """Return the buffers of :meth:`named_buffers`."""
        return list(self.named_buffers(block).values())

    def n_parameters(self, block: str) -> int:
        """Return how many numbers the parameters of a block hold.

        Args:
            block: Name of the block.

        Raises:
            ValueError: If there is no such block, or the network's modules have changed.
        """
        return sum(parameter.numel() for parameter in self.parameters(block))

    def trainable_parameters(self, plan: FineTuningPlan) -> int:
        """Return how many numbers a plan trains.

        Args:
            plan: The plan, for the blocks of this partition.

        Raises:
            ValueError: If the plan is for other blocks, or the network's modules have changed.
        """
        return sum(parameter.numel() for parameter in self._trained(plan).values())

    def param_groups(self, plan: FineTuningPlan, lr: float) -> list[dict[str, Any]]:
        """Return parameter groups for an optimizer, one for each trained block, in order.

        Changes the network: parameters of trained blocks require gradients afterwards, all others
        do not, and have no gradient.

        Args:
            plan: The plan, for the blocks of this partition.
            lr: Base learning rate, finite and above 0.

        Returns:
            Dictionaries of "params", the block's parameters; "lr", its absolute learning rate
            (multiplier times ``lr``); and "name", the block's name.

        Raises:
            TypeError: If ``lr`` is not a number.
            ValueError: If the plan is for other blocks or trains none, if ``lr`` is out of range,
                or if the network's modules have changed.
        """
        if isinstance(lr, bool) or not isinstance(lr, Real):
            raise TypeError(f"`lr` must be a number, but got {lr!r}.")
        if not math.isfinite(lr) or lr <= 0:
            raise ValueError(f"`lr` must be finite and above 0, but got {lr!r}.")
        trained = self._trained(plan)
        if not trained:
            raise ValueError("`plan` must train at least one block, but it freezes every one.")
        for name, parameter in self._parameters().items():
            parameter.requires_grad_(name in trained)
            if name not in trained:
                parameter.grad = None
        rates = plan.learning_rates(lr)
        groups = [
            {
                "params": [
                    p for name, p in self.named_parameters(block).items() if name in trained
                ],
                "lr": rates[block],
                "name": block,
            }
            for block in self.names
            if block in plan.trainable
        ]
        return [group for group in groups if group["params"]]

    def train(self, plan: FineTuningPlan) -> None:
        """Put the network in training mode, with frozen blocks held in evaluation mode.

        A container that spans several blocks, such as the network itself, is in training mode if
        anything in it trains, so dropout that its own ``forward`` applies is then active.
        Auxiliary heads are not run, see :attr:`unused`. Call this again after every
        ``model.train()`` or ``model.eval()``.

        Args:
            plan: The plan, for the blocks of this partition.

        Raises:
            ValueError: If the plan is for other blocks, or the network's modules have changed.
        """
        active = self._active_modules(plan)
        self._model.train()
        for name, module in self._model.named_modules():
            # Set directly: the flags of children are decided one by one.
            if name not in active:
                module.training = False

    def frozen_state(
        self, plan: FineTuningPlan, known: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Return copies of everything that a plan must leave as it is.

        Args:
            plan: The plan, for the blocks of this partition.
            known: Tensors by name that nobody changes, such as those of another network with the
                same pre-trained body. One that has the same bits stands for a copy.

        Returns:
            Name to a copy of each parameter that does not train and each buffer of a module held
            in evaluation mode; for :meth:`check_frozen`.

        Raises:
            ValueError: If the plan is for other blocks, or the network's modules have changed.
        """
        trained = self._trained(plan)
        active = self._active_modules(plan)
        frozen: dict[str, torch.Tensor] = {
            name: parameter for name, parameter in self._parameters().items() if name not in trained
        }
        for name, module in self._model.named_modules():
            if name not in active:
                for buffer, tensor in module.named_buffers(prefix=name, recurse=False):
                    frozen[buffer] = tensor
        return {name: _stand_in(tensor, (known or {}).get(name)) for name, tensor in frozen.items()}

    def check_frozen(self, before: Mapping[str, torch.Tensor]) -> None:
        """Check that frozen parameters and buffers have not changed by a single bit.

        Args:
            before: What :meth:`frozen_state` returned before training.

        Raises:
            RuntimeError: If one has changed; says which.
        """
        now: dict[str, torch.Tensor] = dict(self._model.named_buffers(remove_duplicate=False))
        now.update(parameters_by_name(self._model))
        changed = [
            name
            for name, old in before.items()
            if name not in now or not same_bits(old, now[name].detach())
        ]
        if changed:
            raise RuntimeError(
                f"Frozen parameters or buffers have changed during training: {listed(changed)}. "
                "Use `param_groups` for the optimizer, and `train` after every `model.train()`."
            )

    def _check_block(self, block: str) -> None:
        if block not in self._blocks:
            raise ValueError(f"`block` must be one of {', '.join(self.names)}, but got {block!r}.")

    def _parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters by their first names, if they are still those partitioned."""
        current = parameters_by_name(self._model)
        differing = sorted(set(current).symmetric_difference(self._holders))
        if differing:
            raise ValueError(
                "The model's modules have changed since it was partitioned "
                f"({listed(differing)}): call `partition_blocks` again."
            )
        return {
            name: current[name] for name, first in first_names(current).items() if name == first
        }

    def _trained(self, plan: FineTuningPlan) -> dict[str, nn.Parameter]:
        """Return the parameters that train: all blocks that hold them do."""
        if not isinstance(plan, FineTuningPlan):
            raise TypeError(f"`plan` must be a FineTuningPlan, but got {plan!r}.")
        missing = [name for name in self.names if name not in plan.multipliers]
        unknown = [name for name in plan.names if name not in self._blocks]
        if missing or unknown:
            lacks = [f"lacks {listed(missing)}"] if missing else []
            adds = [f"has the unknown {listed(unknown)}"] if unknown else []
            raise ValueError(
                f"`plan` must be for the blocks {', '.join(self.names)}, "
                f"but {' and '.join(lacks + adds)}."
            )
        trainable = set(plan.trainable)
        return {
            name: parameter
            for name, parameter in self._parameters().items()
            if self._holders[name] and trainable.issuperset(self._holders[name])
        }

    def _active_modules(self, plan: FineTuningPlan) -> set[str]:
        """Return the names of the modules that a plan puts in training mode."""
        trained = {id(parameter) for parameter in self._trained(plan).values()}
        idle_owners = {
            owner
            for owner, heads in auxiliary_heads(self._model).items()
            if all(not self._holders[name] for head in heads for name in below(head, self._holders))
        }
        active = set()
        for name, module in self._model.named_modules():
            inside = [id(parameter) in trained for parameter in module.parameters()]
            leaf = next(module.children(), None) is None
            if not inside:
                trains = self._homes.get(name) in plan.trainable
            else:
                # Part of a layer may be frozen, and with it its buffers: all of it must train.
                trains = all(inside) if leaf else any(inside)
            if trains and name not in idle_owners:
                active.add(name)
        return active


def _stand_in(tensor: torch.Tensor, known: torch.Tensor | None) -> torch.Tensor:
    """Return a tensor known to have the same bits in other memory, or else a copy."""
    if known is not None and known.data_ptr() != tensor.data_ptr() and same_bits(tensor, known):
        return known
    return tensor.detach().clone()


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors hold the same bits; NaN equals NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    first, second = (tensor.to(one.device).contiguous().reshape(-1) for tensor in (one, other))
    return torch.equal(first.view(torch.uint8), second.view(torch.uint8))
