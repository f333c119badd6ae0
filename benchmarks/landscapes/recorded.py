"""Recordings of real fine-tuning: genotypes, and the validation accuracy that each came to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

RECORDINGS = Path(__file__).parent / "recordings"
"""Directory of the recordings that come with the benchmarks."""


@dataclass(frozen=True)
class Recording:
    """Random genotypes of one network and target, each trained with every seed.

    Attributes:
        names: Names of the blocks, input side first.
        genes: Shape [n, blocks + 1]: importances, and the freezing threshold last.
        curve: Balanced validation accuracy after each epoch, shape [n, seeds, epochs].
        about: What was trained, and how, as text.
    """

    names: tuple[str, ...]
    genes: FloatArray
    curve: FloatArray
    about: str = ""

    @property
    def val(self) -> FloatArray:
        """Best accuracy over the epochs, shape [n, seeds]."""
        return np.asarray(self.curve.max(axis=2))

    @property
    def mean(self) -> FloatArray:
        """Mean over the seeds of the best accuracy, shape [n]."""
        return np.asarray(self.val.mean(axis=1))

    @property
    def seed_deviation(self) -> float:
        """Standard deviation of the accuracy between the seeds of a genotype.

        0.0 if there is one seed only.
        """
        if self.val.shape[1] == 1:
            return 0.0
        return float(np.sqrt(self.val.var(axis=1, ddof=1).mean()))

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read a recording.

        Args:
            path: A file with ``genes`` and ``curve``, and ``names`` and ``about`` if it has them.
        """
        with np.load(path, allow_pickle=False) as file:
            genes = file["genes"]
            names = (
                tuple(str(name) for name in file["names"])
                if "names" in file
                else tuple(f"block{index}" for index in range(genes.shape[1] - 1))
            )
            about = str(file["about"]) if "about" in file else ""
            return cls(names, genes, file["curve"], about)

    def save(self, path: Path) -> None:
        """Write the recording, in place of an older one only once it is complete."""
        new = path.with_suffix(".new.npz")
        np.savez_compressed(
            new,
            genes=self.genes,
            val=self.val,
            curve=self.curve,
            names=np.asarray(self.names),
            about=np.asarray(self.about),
        )
        new.replace(path)
