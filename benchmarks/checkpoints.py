"""Pre-trained weights in safetensors files and from torchvision, with what is known about them.

`python benchmarks/checkpoints.py` prints the table of the committed ones.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from networks import NETWORKS, PAPER_NETWORKS, build_network, network_named
from report import markdown_table
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

import optuna_biotune
from optuna_biotune.finetune.pretrained import (
    NetworkName,
    PretrainedNetwork,
    preprocessing_of,
    pretrained_weights,
)

CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class PretrainingRecord:
    """How a checkpoint came to be.

    Attributes:
        network: Name of the network.
        source: Name of the data that it was trained on.
        epochs: Epochs of training; None if they are not known.
        top1: Accuracy on the source's validation images, 0 to 1.
        mean: Mean of each channel of the source's training images, on a scale from 0 to 1.
        std: Standard deviation alike.
        command: The command that made it, without paths, or the name of torchvision's weights.
        versions: Versions of the libraries, by name.
    """

    network: str
    source: str
    epochs: int | None
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
        head = network_named(self.record.network).head
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
    return Checkpoint(record, _without_head(state, NETWORKS[record.network].head))


def paper_checkpoint(network: str) -> Checkpoint:
    """Return torchvision's default weights of a network, from its cache or its server.

    Args:
        network: One of ``PAPER_NETWORKS``.

    Raises:
        ConnectionError: If they are not in the cache and cannot be downloaded.
    """
    name = NetworkName("torchvision", network)
    default = models.get_model_weights(network).DEFAULT
    preprocessing = preprocessing_of(name)
    try:
        weights = pretrained_weights(name, None)
    except ConnectionError as error:
        reason = str(error).partition(": get ")[0]
        raise ConnectionError(
            f"{reason}: get {default.url} elsewhere and put it into "
            f"{Path(torch.hub.get_dir()) / 'checkpoints'}."
        ) from error
    record = PretrainingRecord(
        network=network,
        source="ImageNet-1k",
        epochs=None,
        top1=default.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100,
        mean=preprocessing.mean,
        std=preprocessing.std,
        command=str(default),
        versions=library_versions(),
    )
    # Its auxiliary head is left out, and the head is that of no data set in particular.
    state = PretrainedNetwork(name, weights, n_classes=2).build().state_dict()
    return Checkpoint(record, _without_head(state, PAPER_NETWORKS[network].head))


def _without_head(state: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    """Return a network's parameters and buffers but those of its head."""
    return {name: value for name, value in state.items() if not name.startswith(f"{head}.")}


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide the figures."""
    return {
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "optuna_biotune": optuna_biotune.__version__,
    }


def committed_table() -> str:
    """Return the committed checkpoints as a Markdown table.

    Parameters are counted without the head, blocks with it.
    """
    rows: list[list[Any]] = [
        ["network", "parameters", "blocks", "epochs", "validation accuracy", "command"],
        ["---"] * 6,
    ]
    for network in NETWORKS:
        checkpoint = load_checkpoint(checkpoint_path(network))
        record, model = checkpoint.record, checkpoint.build(n_classes=1)
        body = [value for name, value in model.named_parameters() if name in checkpoint.body]
        rows.append(
            [
                network,
                f"{sum(parameter.numel() for parameter in body) / 1e6:.2f} M",
                len(optuna_biotune.partition_blocks(model).names),
                record.epochs,
                f"{record.top1:.3f}",
                f"`{record.command}`",
            ]
        )
    return markdown_table(rows)


if __name__ == "__main__":
    print(committed_table())
