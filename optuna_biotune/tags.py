"""The tag that a trial carries in the storage: its place in the evolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard, get_args

from optuna import Trial
from optuna.trial import FrozenTrial

from optuna_biotune import _compat

TAG_KEY = "biotune"

Role = Literal[
    "initial", "baseline", "adopted", "elite_plus", "elite_minus", "offspring", "mutant", "fresh"
]

ELITE_ROLES: tuple[Role, Role] = ("elite_plus", "elite_minus")

_N_PARENTS = {"elite_plus": 1, "elite_minus": 1, "offspring": 2, "mutant": 1}


@dataclass(frozen=True)
class Tag:
    """A trial's place in the evolution, stored in its system attribute ``biotune``.

    Attributes:
        generation: Generation, from 0.
        role: ``initial``: random, of the first generation. ``baseline``: a usual way to fine-tune.
            ``adopted``: not proposed by the sampler (enqueued, added, or another sampler's).
            ``elite_plus`` and ``elite_minus``: the two halves of an elite's pair. ``offspring``:
            bred from two parents. ``mutant``: bred from one. ``fresh``: random, later on.
        parents: Trial numbers: of both parents of an offspring, the one of a mutant, the elite of
            a half.
    """

    generation: int
    role: Role
    parents: tuple[int, ...] = ()

    @property
    def is_half(self) -> bool:
        """Whether the trial is half of an elite's pair."""
        return self.role in ELITE_ROLES

    def is_half_of(self, elite: int, generation: int) -> bool:
        """Tell whether the trial is half of an elite's pair in a generation."""
        return self.is_half and self.parents == (elite,) and self.generation == generation

    def to_attr(self, number: int) -> dict[str, Any]:
        """Return the value of the system attribute of the trial of this number."""
        return {
            "generation": self.generation,
            "role": self.role,
            "parents": list(self.parents),
            "trial": number,
        }

    @classmethod
    def of(cls, trial: FrozenTrial) -> Tag | None:
        """Read a trial's tag.

        Returns:
            None if there is no tag, or none that this version understands, or that of another
            trial: trials can be added to a study with the attributes that they had in another one.
            The trial of a dead worker, run again, keeps the tag.
        """
        attrs = trial.system_attrs
        tag = cls.from_attrs(attrs)
        if tag is None:
            return None
        number = attrs[TAG_KEY].get("trial")
        own = number == trial.number or number in attrs.get("retry_history", ())
        return tag if own else None

    @classmethod
    def from_attrs(cls, system_attrs: Mapping[str, Any]) -> Tag | None:
        """Read the tag from system attributes, whosever they are; None if there is none."""
        attr = system_attrs.get(TAG_KEY)
        if not isinstance(attr, dict):
            return None
        generation, role, parents = (attr.get(key) for key in ("generation", "role", "parents"))
        if not _is_role(role) or not _is_count(generation) or not isinstance(parents, list):
            return None
        if len(parents) != _N_PARENTS.get(role, 0) or not all(map(_is_count, parents)):
            return None
        return cls(generation, role, tuple(parents))


def _is_role(value: object) -> TypeGuard[Role]:
    return value in get_args(Role)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def generation_of(trial: Trial) -> int:
    """Return the generation of a running trial; 0 if BioTuneSampler did not propose it."""
    tag = Tag.from_attrs(_compat.get_trial_system_attrs(trial))
    return tag.generation if tag is not None else 0
