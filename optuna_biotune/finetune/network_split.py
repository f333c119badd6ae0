"""Where a network can be cut in two, so that its frozen part need not run again.

``torch.fx`` follows the calls of a network's blocks. A cut is proven if exactly one value is alive
there: the second part needs nothing else of the first. The modules inside a block are called as
they are, so only the code of containers that span several blocks is followed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from optuna_biotune.finetune.device import random_state, same_random_state
from optuna_biotune.finetune.partition import BlockPartition
from optuna_biotune.genotype import FineTuningPlan

NetworkFunction = Callable[[nn.Module, Tensor], Any]


class CannotCutError(Exception):
    """The network cannot be cut where a plan begins to train; the message says why."""


@dataclass(frozen=True)
class NetworkSplit:
    """A network as two functions, for one plan.

    The functions take the network as their first argument: any network of the architecture.

    Attributes:
        cut: Number of operations before the cut. Two plans with the same number have the same
            first part.
        state_names: Names of the parameters and buffers of the first part.
        first: From the images to the value at the cut, in evaluation mode.
        rest_in_training: From there to the output, as :meth:`BlockPartition.train` sets the modes.
        rest_in_evaluation: The same in evaluation mode.
    """

    cut: int
    state_names: tuple[str, ...]
    first: NetworkFunction
    rest_in_training: NetworkFunction
    rest_in_evaluation: NetworkFunction


def split_network(blocks: BlockPartition, plan: FineTuningPlan) -> NetworkSplit:
    """Cut a network at the last proven place before anything that a plan trains.

    Runs no part of the network. Leaves it in evaluation mode, its parameters requiring gradients
    as the plan needs them.

    Args:
        blocks: The partition of the network.
        plan: The plan, which trains at least one block.

    Raises:
        CannotCutError: If ``torch.fx`` cannot follow the network, or no place is proven.
    """
    model = blocks.model
    if any((model._forward_hooks, model._forward_pre_hooks, model._backward_hooks)):
        raise CannotCutError("the network has hooks of its own")
    blocks.param_groups(plan, lr=1.0)
    blocks.train(plan)
    training = _trace(blocks)
    limit = next((i for i, node in enumerate(training) if _trains(model, node)), len(training) - 1)
    model.eval()
    evaluation = _trace(blocks)
    limit = min(limit, _n_equal(training, evaluation))
    cut = _last_cut(model, evaluation, limit)
    if cut is None:
        raise CannotCutError("no place before its first trained block is crossed by one value only")
    position, value = cut
    return NetworkSplit(
        cut=position,
        state_names=tuple(_state_names(model, evaluation[:position])),
        first=_compile(evaluation[:position], None, evaluation[value]),
        rest_in_training=_compile(training[position:], training[value], None),
        rest_in_evaluation=_compile(evaluation[position:], evaluation[value], None),
    )


class _BlockTracer(fx.Tracer):
    """Follows containers that span several blocks, and takes everything inside a block as one."""

    def __init__(self, blocks: BlockPartition) -> None:
        super().__init__()
        self._blocks = blocks

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if self._blocks.block_of(module_qualified_name) is not None:
            return True
        return super().is_leaf_module(m, module_qualified_name)


def _trace(blocks: BlockPartition) -> list[fx.Node]:
    """Return what the network calls, in order: input first, output last."""
    model = blocks.model
    names, random, versions = set(vars(model)), random_state(), _versions(model)
    parameters = list(inspect.signature(type(model).forward).parameters.values())[2:]
    optional = {p.name: p.default for p in parameters if p.default is not p.empty}
    try:
        graph = _BlockTracer(blocks).trace(model, concrete_args=optional or None)
    except Exception as error:  # Following foreign code can fail in any way.
        raise CannotCutError(f"torch.fx cannot follow it ({_first_line(error)})") from error
    finally:
        # Tensors that the network made itself were attached to it.
        constants = set(vars(model)).difference(names)
        for name in constants:
            delattr(model, name)
    if constants or not same_random_state(random, random_state()):
        raise CannotCutError("it makes tensors or draws random numbers outside of its blocks")
    if versions != _versions(model):
        raise CannotCutError("it changes its buffers outside of its blocks")
    return _without_optional_inputs(graph)


def _first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _versions(model: nn.Module) -> list[tuple[int, int]]:
    """Return what changes if a parameter or buffer is written to or replaced."""
    tensors = [*model.parameters(), *model.buffers()]
    return [(id(tensor), tensor._version) for tensor in tensors]


def _without_optional_inputs(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes of a graph without optional inputs, and without the checks of these."""
    kept: list[fx.Node] = []
    dropped: set[fx.Node] = set()
    for node in graph.nodes:
        extra = node.op == "placeholder" and bool(kept)
        if extra or not dropped.isdisjoint(node.all_input_nodes):
            dropped.add(node)
        else:
            kept.append(node)
    if kept[-1].op != "output" or kept[0].op != "placeholder":
        raise CannotCutError("its output depends on more than the images")
    return kept


def _trains(model: nn.Module, node: fx.Node) -> bool:
    """Tell whether a node trains: its parameters, or its modules by their mode."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return any(m.training for m in module.modules()) or any(
            parameter.requires_grad for parameter in module.parameters()
        )
    return node.op == "get_attr" and _attribute(model, str(node.target)).requires_grad


def _attribute(model: nn.Module, name: str) -> Tensor:
    """Return a parameter or buffer by its name."""
    owner, _, attribute = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(owner), attribute)
    return tensor


def _n_equal(some: Sequence[fx.Node], others: Sequence[fx.Node]) -> int:
    """Return how many nodes two graphs begin with alike."""
    positions = [{node: i for i, node in enumerate(nodes)} for nodes in (some, others)]
    for count, pair in enumerate(zip(some, others, strict=False)):
        one, other = (
            (node.op, node.target, fx.node.map_arg((node.args, node.kwargs), where.__getitem__))
            for node, where in zip(pair, positions, strict=True)
        )
        if repr(one) != repr(other):
            return count
    return min(len(some), len(others))


def _last_cut(model: nn.Module, nodes: Sequence[fx.Node], limit: int) -> tuple[int, int] | None:
    """Return the last position up to a limit that one value crosses, and where it comes from.

    Parameters that are read do not count: they can be read again. Nothing is worth a cut as long
    as no parameter has been used.
    """
    position_of = {node: i for i, node in enumerate(nodes)}
    last_use = [max((position_of.get(user, 0) for user in n.users), default=0) for n in nodes]
    first_weights = next(
        (i for i, node in enumerate(nodes) if any(_state_names(model, [node]))), len(nodes)
    )
    for position in range(limit, first_weights, -1):
        alive = [
            i for i in range(position) if last_use[i] >= position and nodes[i].op != "get_attr"
        ]
        if len(alive) == 1 and alive[0] >= first_weights:
            return position, alive[0]
    return None


def _state_names(model: nn.Module, nodes: Sequence[fx.Node]) -> Iterator[str]:
    """Yield the names of all parameters and buffers that nodes can read."""
    for node in nodes:
        target = str(node.target)
        if node.op == "get_attr":
            yield target
        elif node.op == "call_module":
            module = model.get_submodule(target)
            for name, _ in module.named_parameters(prefix=target, remove_duplicate=False):
                yield name
            for name, _ in module.named_buffers(prefix=target, remove_duplicate=False):
                yield name


def _compile(
    nodes: Sequence[fx.Node], start: fx.Node | None, result: fx.Node | None
) -> NetworkFunction:
    """Make a function of a network and a tensor from a part of its graph.

    Args:
        nodes: The part.
        start: The node that the function's tensor stands for; None if it is in the part.
        result: The node to return; None if the part has an output.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}

    def copy_of(node: fx.Node) -> fx.Node:
        if node not in copies and node.op == "get_attr":
            # Read before the cut, and again after it.
            copies[node] = graph.node_copy(node)
        return copies[node]

    if start is not None:
        copies[start] = graph.placeholder("at_the_cut")
    for node in nodes:
        if node not in copies:
            copies[node] = graph.node_copy(node, copy_of)
    if result is not None:
        graph.output(copies[result])
    code = graph.python_code("self")
    namespace = dict(code.globals)
    # The code reads the modules of the network that it is given, as its own forward would.
    exec(compile(code.src, "<part of a network>", "exec"), namespace)
    function: NetworkFunction = namespace["forward"]
    return function
