"""The cells of the comparison: one method on one target with one search seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from methods import METHODS
from methods.ablations import VARIANTS
from methods.method import Method
from methods.problem import Sizes

PROTOCOLS = ("paper", "fair")
"""``paper``: constants as published, at the base learning rate; of plans, those alone are searched.
``fair``: every method is tuned, weight decay beside plans, too."""

IMAGES_PER_CLASS = (5, 10, 25, 50, 100)

# Far enough apart that no search uses the seeds of another, or of a test.
_SEEDS_BETWEEN_SEARCHES = 1000
_SEEDS_BEFORE_TESTS = 100


@dataclass(frozen=True)
class Suite:
    """A question, and what is compared to answer it.

    Attributes:
        methods: The methods or variants, by name.
        targets: Names of the target sets that are taken if none are named; None for all.
        protocols: Those that it has.
        images_per_class: Numbers of training images of each class; None for a number in all.
        budget: Epochs of a search, unless another number is given.
    """

    methods: Mapping[str, Method]
    targets: tuple[str, ...] | None = None
    protocols: tuple[str, ...] = ("fair",)
    images_per_class: tuple[int | None, ...] = (None,)
    budget: float = 240.0


_SCARCE = ("BioTune", "full fine-tuning", "linear probe", "LoRA")

SUITES: dict[str, Suite] = {
    "main": Suite(METHODS, protocols=PROTOCOLS),
    # Operators of the evolution do nothing before the second generation.
    "ablations": Suite(
        {variant.name: variant for variant in VARIANTS},
        ("flowers5", "dtd10", "busi"),
        protocols=("paper",),
        budget=720.0,
    ),
    "labels": Suite(
        {name: METHODS[name] for name in _SCARCE},
        ("cifar10", "flowers5", "mnist"),
        images_per_class=IMAGES_PER_CLASS,
    ),
}
"""The suites by name."""


@dataclass(frozen=True)
class Cell:
    """What is run and stored as a whole.

    Attributes:
        suite: One of :data:`SUITES`.
        target: Name of the target set.
        network: Name of the network.
        method: Name of the method or variant.
        tuned: Whether its constants are searched. A plan always is.
        search: Number of the search, from 0, which decides all its seeds.
        images_per_class: Training images of each class; None for the number of the sizes.
    """

    suite: str
    target: str
    network: str
    method: str
    tuned: bool
    search: int
    images_per_class: int | None = None

    def search_seeds(self, n_seeds: int) -> range:
        """Return the seeds of the networks of each trial."""
        start = _SEEDS_BETWEEN_SEARCHES * self.search
        return range(start, start + n_seeds)

    def final_seeds(self, n_seeds: int) -> range:
        """Return the seeds of the networks that are tested, the same for all methods."""
        start = _SEEDS_BETWEEN_SEARCHES * self.search + _SEEDS_BEFORE_TESTS
        return range(start, start + n_seeds)

    @property
    def protocol(self) -> str:
        """The one of :data:`PROTOCOLS` that it belongs to."""
        return "fair" if self.tuned else "paper"

    @property
    def is_searched(self) -> bool:
        """Whether anything is searched before the test."""
        return self.tuned or SUITES[self.suite].methods[self.method].searches_plans


@dataclass(frozen=True)
class Setting:
    """What decides the results of all cells, beside the cells themselves.

    Attributes:
        sizes: How large the data and the trainings are.
        budget: Epochs of one network that each search may train.
        search_seeds: Networks a trial.
        final_seeds: Networks that are tested.
        device: ``"cpu"`` or ``"cuda"``.
        checkpoints: For each network how it was pre-trained.
    """

    sizes: Sizes = field(default_factory=Sizes)
    budget: float = 240.0
    search_seeds: int = 2
    final_seeds: int = 5
    device: str = "cpu"
    checkpoints: Mapping[str, Any] = field(default_factory=dict)

    def key(self, cell: Cell) -> str:
        """Return a name for a cell with this setting; another setting gives other names."""
        about = {**asdict(self), "checkpoints": self.checkpoints[cell.network]}
        if not cell.is_searched:
            del about["budget"], about["search_seeds"]
        text = json.dumps([asdict(cell), about], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def list_cells(
    suite: str,
    *,
    targets: Sequence[str],
    methods: Sequence[str],
    networks: Sequence[str],
    protocols: Sequence[str],
    searches: Sequence[int],
) -> list[Cell]:
    """List the cells of a suite, those that are compared with each other together.

    Args:
        suite: One of :data:`SUITES`.
        targets: Names of the targets.
        methods: Names of the methods or variants.
        networks: Names of the networks.
        protocols: Some of :data:`PROTOCOLS`.
        searches: Numbers of the searches, which decide their seeds.

    Raises:
        ValueError: If the suite has none of the protocols.
    """
    known = SUITES[suite]
    cells = [
        Cell(suite, target, network, name, tuned, search, images)
        for search in searches
        for network in networks
        for target in targets
        for images in known.images_per_class
        for tuned in (True, False)
        for name in methods
    ]
    wanted = set(protocols).intersection(known.protocols)
    if not wanted:
        raise ValueError(
            f"`protocols` must hold one of those of {suite}, {', '.join(known.protocols)}, but got "
            f"{', '.join(protocols)}."
        )
    return [cell for cell in cells if cell.protocol in wanted]
