"""Which block each parameter and each module of a network belongs to, and the checks of that."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence

from torch import nn
from torch.nn.parameter import is_lazy

from optuna_biotune.finetune.module_names import (
    DROPOUTS,
    below,
    fewest_names,
    first_names,
    parameters_by_name,
)

_MOST_LISTED = 8


def check_model(model: nn.Module) -> None:
    """Refuse what cannot be partitioned.

    Raises:
        TypeError: If ``model`` is not a module.
        ValueError: If it has no parameters, uninitialized ones, or is a wrapper for parallel
            training or compilation.
    """
    if not isinstance(model, nn.Module):
        hint = " Call it first: `partition_blocks(build_model())`." if callable(model) else ""
        raise TypeError(f"`model` must be a torch.nn.Module, but got {model!r}.{hint}")
    kind = type(model).__name__
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(
            f"`model` is wrapped in {kind}: partition the network inside it, `model.module`."
        )
    if hasattr(model, "_orig_mod"):
        raise ValueError("`model` is compiled: partition the network before `torch.compile`.")
    parameters = parameters_by_name(model)
    if not parameters:
        raise ValueError(f"`model` must have parameters, but {kind} has none.")
    lazy = [name for name, parameter in parameters.items() if is_lazy(parameter)]
    if lazy:
        raise ValueError(
            f"`model` has uninitialized parameters ({listed(lazy)}): run a batch through it first."
        )


def listed(names: Iterable[str]) -> str:
    """Write names for a message, the first few of many."""
    shown = list(names)
    rest = len(shown) - _MOST_LISTED
    text = ", ".join(repr(name) for name in shown[:_MOST_LISTED])
    return f"{text} and {rest} more" if rest > 0 else text


def check_blocks(blocks: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return a copy of the blocks if they are non-empty lists of names.

    Raises:
        TypeError: If ``blocks`` is not a mapping of strings to lists of strings.
        ValueError: If there is no block, or an empty name or list.
    """
    if not isinstance(blocks, Mapping):
        raise TypeError(
            "`blocks` must map each block's name to the names of its modules, "
            f'as in {{"stem": ["conv1", "bn1"]}}, but got {blocks!r}.'
        )
    if not blocks:
        raise ValueError("`blocks` must hold at least one block, but it is empty.")
    for block, names in blocks.items():
        if not isinstance(block, str):
            raise TypeError(f"`blocks` must have strings as block names, but got {block!r}.")
        if not block:
            raise ValueError("`blocks` must not hold an empty block name.")
        if isinstance(names, str) or not isinstance(names, Collection):
            raise TypeError(
                f"`blocks` must hold lists of names, but block {block!r} has {names!r}."
            )
        if not names:
            raise ValueError(f"`blocks` must name modules in each block, but {block!r} has none.")
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"`blocks` must hold strings, but block {block!r} has {name!r}.")
    return {block: tuple(names) for block, names in blocks.items()}


def assign_parameters(
    model: nn.Module, blocks: Mapping[str, Sequence[str]], unused: Collection[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Find the block of every parameter.

    Args:
        model: The network.
        blocks: Block name to names of modules and parameters.
        unused: Names of parameters that belong to no block.

    Returns:
        Every parameter under each of its names, to the blocks that hold it: one, none if it is
        unused, several if it is tied across blocks, in block order.

    Raises:
        ValueError: If a name is unknown, a parameter is in no block or named twice, or a block has
            no parameters of its own.
    """
    parameters = parameters_by_name(model)
    first = first_names(parameters)
    claims: dict[str, tuple[str, str]] = {}
    holders: dict[str, list[str]] = {name: [] for name in first.values()}
    for block, names in blocks.items():
        for name in names:
            inside = _parameters_below(model, name, block, parameters)
            for parameter in inside:
                if parameter in claims:
                    other, claimed_as = claims[parameter]
                    raise ValueError(
                        f"`blocks` must hold each parameter once, but {parameter!r} is in block "
                        f"{other!r} (as {claimed_as!r}) and again in {block!r} (as {name!r})."
                    )
                claims[parameter] = (block, name)
                if block not in holders[first[parameter]]:
                    holders[first[parameter]].append(block)
    outside = {first[name] for name in unused}
    missing = [name for name, held in holders.items() if not held and name not in outside]
    if missing:
        raise ValueError(
            "`blocks` must hold every parameter, but leaves out "
            f"{listed(fewest_names(model, missing))}."
        )
    _check_tied(blocks, holders)
    return {name: tuple(holders[canonical]) for name, canonical in first.items()}


def _parameters_below(
    model: nn.Module, name: str, block: str, parameters: Mapping[str, nn.Parameter]
) -> list[str]:
    """Return the names of the parameters that a name of the user's stands for."""
    modules = [module for module, _ in model.named_modules(remove_duplicate=False) if module]
    if name not in parameters and name not in modules:
        close = difflib.get_close_matches(name, [*modules, *parameters], n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(
            f"`blocks` names {name!r} in block {block!r}, but the model has no module or "
            f"parameter of that name.{hint}"
        )
    return below(name, parameters)


def _check_tied(blocks: Iterable[str], holders: Mapping[str, Sequence[str]]) -> None:
    """Warn of parameters that several blocks hold; refuse a block that has no others."""
    shared = {name: held for name, held in holders.items() if len(held) > 1}
    owners = {held[0] for held in holders.values() if held}
    for block in blocks:
        if block not in owners:
            tied = [name for name, held in shared.items() if block in held]
            reason = f": it only shares {listed(tied)}" if tied else ""
            raise ValueError(
                f"`blocks` must give each block parameters, but {block!r} has none{reason}."
            )
    for name, held in shared.items():
        warnings.warn(
            f"Parameter {name!r} is tied across the blocks {listed(held)}. It counts as one of "
            f"block {held[0]!r}, and trains only when all of these blocks train.",
            stacklevel=5,
        )


def place_modules(
    model: nn.Module, blocks: Mapping[str, Sequence[str]], holders: Mapping[str, Sequence[str]]
) -> dict[str, str | None]:
    """Find the block of every module.

    A module belongs to the block of its parameters. One without parameters belongs to the block
    that names it, else to the block of the module around it, else to the block registered before
    it; but a dropout between the last parameters of the body and the head belongs to the head.

    Args:
        model: The network.
        blocks: Block name to names of modules and parameters.
        holders: Parameter name to the blocks that hold it.

    Returns:
        Module name to block. None for containers that span several blocks and for modules whose
        parameters are all unused.
    """
    names = tuple(blocks)
    named = {name: block for block, units in blocks.items() for name in units}
    around: dict[str, list[str]] = {}
    for parameter, held in holders.items():
        for module in _ancestors(parameter):
            around.setdefault(module, []).extend(held)
    homes: dict[str, str | None] = {}
    open_places: list[str] = []
    previous = names[0]
    for name, module in model.named_modules():
        parent = name.rpartition(".")[0]
        if name in around:
            held = sorted(set(around[name]), key=names.index)
            # A layer whose own parameters are split counts as one of the first block's.
            leaf = next(module.children(), None) is None
            homes[name] = held[0] if len(held) == 1 or (held and leaf) else None
            if homes[name] is not None:
                if homes[name] == names[-1]:
                    homes.update(dict.fromkeys(open_places, names[-1]))
                open_places = []
                previous = homes[name] or previous
        elif name in named:
            homes[name] = named[name]
        elif homes.get(parent) is not None or (parent in around and not around[parent]):
            homes[name] = homes[parent]
            if parent in open_places:
                open_places.append(name)
        else:
            homes[name] = previous
            if any(isinstance(inner, DROPOUTS) for inner in module.modules()):
                open_places.append(name)
    return homes


def _ancestors(parameter: str) -> list[str]:
    """Return the names of all modules around a parameter, "" for the network."""
    parts = parameter.split(".")
    return [".".join(parts[:depth]) for depth in range(len(parts))]
