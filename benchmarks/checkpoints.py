"""Pre-trained weights in safetensors files, with what is known about them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
import torch
from networks import NETWORKS, build_network
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import optuna_biotune

CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class PretrainingRecord:
    """How a checkpoint came to be.

    Attributes:
        network: Name of the network.
        source: Name of the data that it was trained on.
        epochs: Epochs of training.
        top1: Accuracy on the source's validation images, 0 to 1.
        mean: Mean of each channel of the source's training images, on a scale from 0 to 1.
        std: Standard deviation alike.
        command: The command that made it, without paths.
        versions: Versions of the libraries, by name.
    """

    network: str
    source: str
    epochs: int
    top1: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    command: str
    versions: dict[str, str]


def checkpoint_path(network: str) -> Path:
    """Return where the committed checkpoint of a network lies, whether it exists or not."""
    return CHECKPOINTS / f"{network}.safetensors"


def save_checkpoint(path: Path, model: nn.Module, record: PretrainingRecord) -> None:
    """Write a network's parameters and buffers, and the record as the file's metadata.

    Args:
        path: The file; its directory is created.
        model: The network, on any device.
        record: How it was trained.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path, metadata={"record": json.dumps(asdict(record))})


@dataclass(frozen=True)
class Checkpoint:
    """Pre-trained weights of a network's body, all but its head.

    Attributes:
        record: How they were trained.
        body: Parameters and buffers by name.
    """

    record: PretrainingRecord
    body: dict[str, Tensor]

    def build(self, n_classes: int) -> nn.Module:
        """Return a new network on the CPU with the pre-trained body and a new head.

        Args:
            n_classes: Outputs of the head, which is drawn from torch's global generator.

        Raises:
            ValueError: If the weights do not fit the network.
        """
        model = build_network(self.record.network, n_classes)
        missing, unexpected = model.load_state_dict(self.body, strict=False)
        head = NETWORKS[self.record.network].head
        if unexpected or any(not name.startswith(f"{head}.") for name in missing):
            raise ValueError(
                f"The checkpoint does not fit the network {self.record.network!r}: it lacks "
                f"{missing} and has {unexpected} beyond it. Remove it to pre-train again."
            )
        return model


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint for fine-tuning.

    Args:
        path: A file that :func:`save_checkpoint` wrote.

    Raises:
        ValueError: If the file has no record, or one of an unknown network.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        state: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if "record" not in metadata:
        raise ValueError(f"`path` must be a checkpoint of pretrain.py, but {path} has no record.")
    fields = json.loads(metadata["record"])
    fields["mean"], fields["std"] = tuple(fields["mean"]), tuple(fields["std"])
    record = PretrainingRecord(**fields)
    if record.network not in NETWORKS:
        raise ValueError(
            f"`path` holds the network {record.network!r}, which is none of {', '.join(NETWORKS)}."
        )
    head = NETWORKS[record.network].head
    body = {name: value for name, value in state.items() if not name.startswith(f"{head}.")}
    return Checkpoint(record, body)


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide the figures."""
    return {
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "optuna_biotune": optuna_biotune.__version__,
    }
