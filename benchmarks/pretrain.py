"""Pre-train a network of the benchmarks on 200 classes of small ImageNet images.

python benchmarks/pretrain.py --data DIR --network small_resnet --epochs 16
"""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import (
    PretrainingRecord,
    checkpoint_path,
    library_versions,
    load_checkpoint,
    save_checkpoint,
)
from networks import NETWORKS, build_network
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from optuna_biotune.finetune.device import autocast, resolve_device, resolve_precision

SOURCE = "tinyimagenet200"

_PADDING = 4
_MOMENTUM = 0.9
_WEIGHT_DECAY = 5e-4
_LABEL_SMOOTHING = 0.1
_EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class SourceImages:
    """Decoded images of the source, and their labels.

    Attributes:
        train: Training images, uint8 [N, H, W, 3].
        train_labels: Int64 [N], from 0.
        val: Validation images, uint8 [M, H, W, 3].
        val_labels: Int64 [M], from 0.
        n_classes: Number of classes.
    """

    train: Tensor
    train_labels: Tensor
    val: Tensor
    val_labels: Tensor
    n_classes: int

    def to(self, device: torch.device) -> SourceImages:
        """Return the data on a device."""
        return SourceImages(
            self.train.to(device),
            self.train_labels.to(device),
            self.val.to(device),
            self.val_labels.to(device),
            self.n_classes,
        )

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the training images' channels, float [3]."""
        pixels = self.train.reshape(-1, 3)
        mean = pixels.double().mean(0) / 255
        # E[x^2] - E[x]^2 in float64: the images need not be held as floats twice.
        square = (pixels.double() ** 2).mean(0) / 255**2
        return mean.float(), (square - mean**2).sqrt().float()


def load_source(data: Path) -> SourceImages:
    """Decode the source's JPEG files, with a progress bar.

    Args:
        data: Directory with ``tinyimagenet200.npz``: ``jpeg`` uint8 (all files' bytes in a row),
            ``offsets`` int64 [N + 1], ``labels`` int64 [N], ``split`` uint8 [N] (0 train, 1 val)
            and ``classes``.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    path = data / f"{SOURCE}.npz"
    if not path.is_file():
        raise FileNotFoundError(f"`data` must hold {SOURCE}.npz, but {data} does not.")
    with np.load(path, allow_pickle=False) as file:
        encoded, offsets = file["jpeg"], file["offsets"]
        labels, split = torch.from_numpy(file["labels"]), torch.from_numpy(file["split"])
        n_classes = len(file["classes"])
    images = torch.stack(
        [
            torch.from_numpy(_decode(encoded[start:stop].tobytes()))
            for start, stop in zip(
                offsets[:-1], tqdm(offsets[1:], desc="decoding", leave=False), strict=True
            )
        ]
    )
    train, val = split == 0, split == 1
    return SourceImages(images[train], labels[train], images[val], labels[val], n_classes)


def _decode(jpeg: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the image in a JPEG file, uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.array(image.convert("RGB"))


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to four pixels either way, with black borders, and mirror every other.

    Args:
        images: [N, H, W, 3], on any device.
        generator: Generator on the CPU that the shifts are drawn from.

    Returns:
        Images of the same size.
    """
    n, height, width, _ = images.shape
    padded = nn.functional.pad(images, (0, 0, _PADDING, _PADDING, _PADDING, _PADDING))
    shifts = torch.randint(0, 2 * _PADDING + 1, (2, n, 1), generator=generator)
    mirrored = torch.randint(0, 2, (n, 1), generator=generator).bool()
    columns = torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width))
    rows = (torch.arange(height) + shifts[0]).to(images.device)
    columns = (columns + shifts[1]).to(images.device)
    item = torch.arange(n, device=images.device)
    return padded[item[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return images as a network takes them.

    Args:
        images: Uint8 [N, H, W, 3].
        mean: Mean of each channel on a scale from 0 to 1, float [3].
        std: Standard deviation alike.

    Returns:
        Float32 [N, 3, H, W], in channels-last format.
    """
    scaled = (images.float() / 255 - mean.to(images.device)) / std.to(images.device)
    return scaled.permute(0, 3, 1, 2)


def pretrain(
    network: str,
    data: Path,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 0.2,
    seed: int = 0,
    device: str = "auto",
) -> tuple[nn.Module, PretrainingRecord]:
    """Train a network from scratch by SGD with momentum and a one-cycle schedule.

    Random crops and mirror images, label smoothing, bfloat16 on CUDA devices that compute in it.
    Seeds torch's global generator.

    Args:
        network: One of ``NETWORKS``.
        data: Directory with the source, see :func:`load_source`.
        epochs: Epochs, at least 1.
        batch_size: Images a step, at least 2.
        lr: Greatest learning rate of the schedule, above 0.
        seed: Seed of the initial weights, the order of the images and the augmentation.
        device: ``"auto"`` or a torch device.

    Returns:
        The network in evaluation mode, on the device, and its record.

    Raises:
        ValueError: If an argument is out of range.
        FileNotFoundError: If the source is missing.
    """
    if epochs < 1:
        raise ValueError(f"`epochs` must be at least 1, but got {epochs}.")
    if batch_size < 2:
        raise ValueError(f"`batch_size` must be at least 2, but got {batch_size}.")
    if not lr > 0:
        raise ValueError(f"`lr` must be above 0, but got {lr}.")
    where = resolve_device(device)
    source = load_source(data)
    n_steps = len(source.train) // batch_size
    if n_steps == 0:
        raise ValueError(
            f"`batch_size` must be at most the number of training images, {len(source.train)}, "
            f"but got {batch_size}."
        )
    mean, std = source.statistics()
    source = source.to(where)
    torch.manual_seed(seed)
    model = build_network(network, source.n_classes).to(where)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=epochs * n_steps
    )
    generator = torch.Generator().manual_seed(seed)
    top1 = 0.0
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(source.train), generator=generator)[: n_steps * batch_size]
        batches = order.view(n_steps, batch_size).to(where)
        model.train()
        for batch in tqdm(batches, desc=f"epoch {epoch}/{epochs}", leave=False):
            images = normalised(crop_and_flip(source.train[batch], generator), mean, std)
            _step(model, optimizer, images, source.train_labels[batch])
            schedule.step()
        top1 = accuracy(model, source.val, source.val_labels, mean, std)
        print(f"epoch {epoch}/{epochs}: validation accuracy {top1:.3f}", flush=True)
    record = PretrainingRecord(
        network=network,
        source=SOURCE,
        epochs=epochs,
        top1=top1,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        command=f"python benchmarks/pretrain.py --data DIR --network {network} --epochs {epochs} "
        f"--batch-size {batch_size} --lr {lr} --seed {seed}",
        versions=library_versions(),
    )
    return model.eval(), record


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    """Take one step of the optimizer, in bfloat16 on CUDA devices that compute in it."""
    with autocast(images.device, resolve_precision("auto", images.device)):
        logits = model(images)
    loss = nn.functional.cross_entropy(logits.float(), labels, label_smoothing=_LABEL_SMOOTHING)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> float:
    """Return the share of images that a network classifies right; it is left in evaluation mode.

    Args:
        model: The network.
        images: Uint8 [N, H, W, 3], on the network's device.
        labels: Int64 [N], on the same device.
        mean: Mean of each channel, see :func:`normalised`.
        std: Standard deviation alike.
    """
    model.eval()
    with torch.no_grad():
        right = [
            (model(normalised(part, mean, std)).argmax(1) == expected).sum()
            for part, expected in zip(
                torch.split(images, _EVALUATION_BATCH),
                torch.split(labels, _EVALUATION_BATCH),
                strict=True,
            )
        ]
    return int(torch.stack(right).sum()) / len(labels)


def main(arguments: list[str] | None = None) -> None:
    """Pre-train as the command line says, and write the checkpoint.

    Args:
        arguments: The command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(
        description=f"Pre-train a network of the benchmarks on {SOURCE}.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of the .npz files")
    parser.add_argument("--network", choices=NETWORKS, default="small_resnet")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.2, help="greatest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help='"auto" or a torch device')
    parser.add_argument("--out", type=Path, help="checkpoint to write; default: the committed one")
    options = parser.parse_args(arguments)
    path = options.out or checkpoint_path(options.network)
    try:
        model, record = pretrain(
            options.network,
            options.data,
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            seed=options.seed,
            device=options.device,
        )
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    save_checkpoint(path, model, record)
    load_checkpoint(path).build(n_classes=2)
    print(f"wrote {path.name}: {record.network}, validation accuracy {record.top1:.3f}")


if __name__ == "__main__":
    main()
