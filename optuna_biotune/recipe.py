"""A recipe: all that it takes to fine-tune a network by a plan once more, as a JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

from optuna_biotune.genotype import FineTuningPlan

_JSON_VERSION = 1
_PACKAGES = ("optuna-biotune", "optuna", "torch", "torchvision", "timm")
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


def package_versions() -> dict[str, str]:
    """Return the installed versions of this package and of those that decide its results."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network: resize, crop the centre, normalise.

    Attributes:
        resize: Length of the shorter side after resizing, in pixels; or (height, width), which
            does not keep the aspect ratio.
        crop: Height and width of the centre crop, in pixels.
        mean: Mean of each channel, of values from 0 to 1.
        std: Standard deviation of each channel, above 0.
        interpolation: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``.

    Raises:
        TypeError: If an attribute is of the wrong kind.
        ValueError: If an attribute is out of its range.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        """Check the attributes and turn lists into tuples."""
        if not _is_count(self.resize):
            object.__setattr__(self, "resize", _pixels("resize", self.resize))
        object.__setattr__(self, "crop", _pixels("crop", self.crop))
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, (list, tuple)) or not all(map(_is_number, values)):
                raise TypeError(f"`{name}` must hold a number a channel, but got {values!r}.")
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if len(self.mean) != len(self.std) or not self.std or min(self.std) <= 0:
            raise ValueError(
                "`mean` and `std` must have one number a channel, those of `std` above 0, but got "
                f"{self.mean} and {self.std}."
            )
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(
                f"`interpolation` must be one of {', '.join(_INTERPOLATIONS)}, but got "
                f"{self.interpolation!r}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON takes them."""
        resize = self.resize if isinstance(self.resize, int) else list(self.resize)
        return {
            "resize": resize,
            "crop": list(self.crop),
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }


@dataclass(frozen=True)
class Recipe:
    """All that it takes to fine-tune a network by a plan once more.

    Attributes:
        network: Name of the network: torchvision's, or ``timm:NAME``, or one of your own.
        plan: The plan. Its blocks are those of ``blocks``.
        blocks: Block name to the names of its modules and parameters, input side first, as in
            ``BlockPartition.blocks``. Read-only.
        lr: Base learning rate, absolute, above 0: a block with multiplier 1.0 trains at it.
        epochs: Number of epochs to train for, at least 1.
        schedule_epochs: Length of the cosine schedule in epochs, at least ``epochs``: the search
            may have found that it is better to stop early. None: as many as ``epochs``.
        batch_size: Images a step, at least 1.
        weight_decay: Factor of Adam's L2 penalty, at least 0.
        classes: Names of the classes in the order of the network's outputs; empty if not known.
        preprocessing: How an image becomes the network's input; None if not known.
        versions: Package name to the version that the plan was found with. Read-only. Default:
            those that are installed.

    Raises:
        TypeError: If an attribute is of the wrong kind.
        ValueError: If a number is out of its range, or plan and blocks do not fit each other.
    """

    network: str
    plan: FineTuningPlan
    blocks: Mapping[str, tuple[str, ...]]
    lr: float
    epochs: int
    schedule_epochs: int | None = None
    batch_size: int = 64
    weight_decay: float = 0.0
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    versions: Mapping[str, str] = field(default_factory=package_versions)

    def __post_init__(self) -> None:
        """Check the attributes and keep read-only copies of them."""
        if not isinstance(self.network, str) or not self.network:
            raise TypeError(f"`network` must be the name of a network, but got {self.network!r}.")
        # Exported code holds the name in its texts.
        if not self.network.isprintable() or set(self.network) & set("\"'\\"):
            raise ValueError(
                "`network` must be a name without quotes, backslashes and line breaks, but got "
                f"{self.network!r}."
            )
        if not isinstance(self.plan, FineTuningPlan):
            raise TypeError(f"`plan` must be a FineTuningPlan, but got {self.plan!r}.")
        if self.preprocessing is not None and not isinstance(self.preprocessing, Preprocessing):
            raise TypeError(
                f"`preprocessing` must be a Preprocessing or None, but got {self.preprocessing!r}."
            )
        if not _is_number(self.lr):
            raise TypeError(f"`lr` must be a number, but got {self.lr!r}.")
        if not math.isfinite(self.lr) or self.lr <= 0:
            raise ValueError(f"`lr` must be finite and above 0, but got {self.lr!r}.")
        if not _is_number(self.weight_decay):
            raise TypeError(f"`weight_decay` must be a number, but got {self.weight_decay!r}.")
        if not math.isfinite(self.weight_decay) or self.weight_decay < 0:
            raise ValueError(
                f"`weight_decay` must be finite and at least 0, but got {self.weight_decay!r}."
            )
        if self.schedule_epochs is None:
            object.__setattr__(self, "schedule_epochs", self.epochs)
        for name in ("epochs", "schedule_epochs", "batch_size"):
            value = getattr(self, name)
            if not _is_count(value):
                raise ValueError(f"`{name}` must be an integer of at least 1, but got {value!r}.")
        if self.epochs > (self.schedule_epochs or 0):
            raise ValueError(
                f"`schedule_epochs` must be at least `epochs` ({self.epochs}), but got "
                f"{self.schedule_epochs}."
            )
        object.__setattr__(self, "blocks", _checked_blocks(self.blocks, self.plan))
        object.__setattr__(self, "classes", _names("classes", self.classes))
        object.__setattr__(self, "versions", _checked_versions(self.versions))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as JSON: read-only mappings cannot be pickled."""
        return type(self).from_json, (self.to_json(),)

    @property
    def learning_rates(self) -> dict[str, float]:
        """Block name to absolute learning rate, 0.0 where the block is frozen."""
        return self.plan.learning_rates(self.lr)

    def to_json(self) -> str:
        """Return the recipe as a JSON object; :meth:`from_json` gives an equal recipe back."""
        data = {
            "version": _JSON_VERSION,
            "network": self.network,
            "multipliers": dict(self.plan.multipliers),
            "blocks": {block: list(names) for block, names in self.blocks.items()},
            "lr": self.lr,
            "epochs": self.epochs,
            "schedule_epochs": self.schedule_epochs,
            "batch_size": self.batch_size,
            "weight_decay": self.weight_decay,
            "classes": list(self.classes),
            "preprocessing": None if self.preprocessing is None else self.preprocessing.to_dict(),
            "versions": dict(self.versions),
        }
        return json.dumps(data, indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read a recipe that :meth:`to_json` wrote.

        Raises:
            ValueError: If the text is not JSON or not a recipe of a known version; says what is
                missing or wrong.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"`text` must be a recipe in JSON, but is not JSON: {error}."
            ) from error
        if not isinstance(data, dict):
            raise ValueError(f"`text` must be a JSON object, but is {type(data).__name__}.")
        if data.get("version") != _JSON_VERSION:
            raise ValueError(
                f"`text` has recipe version {data.get('version')!r}; "
                f"this package reads version {_JSON_VERSION}."
            )
        values = {name: value for name, value in data.items() if name != "version"}
        _check_keys(values)
        try:
            values["plan"] = FineTuningPlan(values.pop("multipliers"))
            if values["preprocessing"] is not None:
                values["preprocessing"] = Preprocessing(**values["preprocessing"])
            return cls(**values)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"`text` is not a valid recipe: {error}") from error


_KEYS = (
    "network",
    "multipliers",
    "blocks",
    "lr",
    "epochs",
    "schedule_epochs",
    "batch_size",
    "weight_decay",
    "classes",
    "preprocessing",
    "versions",
)


def _check_keys(data: Mapping[str, Any]) -> None:
    """Raise ValueError unless a JSON object has exactly the keys of a recipe."""
    missing = [key for key in _KEYS if key not in data]
    unknown = [key for key in data if key not in _KEYS]
    if missing or unknown:
        lacks = [f"lacks {', '.join(missing)}"] if missing else []
        adds = [f"has the unknown {', '.join(unknown)}"] if unknown else []
        raise ValueError(f"`text` is not a recipe: it {' and '.join(lacks + adds)}.")


def _checked_blocks(blocks: Any, plan: FineTuningPlan) -> Mapping[str, tuple[str, ...]]:
    """Return a read-only copy of the blocks if the plan is for them, in the same order."""
    if not isinstance(blocks, Mapping):
        raise TypeError(f"`blocks` must map block names to names of modules, but got {blocks!r}.")
    if tuple(blocks) != plan.names:
        raise ValueError(
            f"`plan` must be for the blocks {', '.join(map(str, blocks))}, in this order, but is "
            f"for {', '.join(plan.names)}."
        )
    checked = {block: _names(f"blocks[{block!r}]", names) for block, names in blocks.items()}
    empty = [block for block, names in checked.items() if not names]
    if empty:
        raise ValueError(f"`blocks` must name modules in each block, but {empty[0]!r} has none.")
    return MappingProxyType(checked)


def _checked_versions(versions: Any) -> Mapping[str, str]:
    """Return a read-only copy of the versions."""
    if not isinstance(versions, Mapping) or not all(
        isinstance(text, str) for item in versions.items() for text in item
    ):
        raise TypeError(f"`versions` must map package names to versions, but got {versions!r}.")
    return MappingProxyType(dict(versions))


def _names(name: str, values: Any) -> tuple[str, ...]:
    """Return strings as a tuple."""
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
        raise TypeError(f"`{name}` must be a list of strings, but got {values!r}.")
    return tuple(values)


def _pixels(name: str, value: Any) -> tuple[int, int]:
    """Return a height and a width."""
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(map(_is_count, value)):
        raise ValueError(f"`{name}` must be pixels of height and width, but got {value!r}.")
    return value[0], value[1]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
