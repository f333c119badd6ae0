"""Pre-trained networks of torchvision and timm by name: weights, preprocessing, a fresh head."""

from __future__ import annotations

import difflib
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import torch
from torch import Tensor, nn
from torchvision import models

from optuna_biotune.finetune.partition import BlockPartition, partition_blocks
from optuna_biotune.recipe import Preprocessing

_CONNECTION_TIMEOUT = 10.0  # seconds without an answer
_HUB = "https://huggingface.co"
# They run in training mode only, and are left out.
_AUXILIARY_HEADS = ("AuxLogits.", "aux1.", "aux2.")


@dataclass(frozen=True)
class NetworkName:
    """The name of a network: torchvision's, or ``timm:NAME``.

    Attributes:
        library: ``"torchvision"`` or ``"timm"``.
        name: The name in that library.
    """

    library: str
    name: str

    @classmethod
    def parse(cls, text: str) -> NetworkName:
        """Read a name and check that there is such a network.

        Raises:
            ImportError: If timm is needed, but not installed.
            ValueError: If the library has no such network; names similar ones.
        """
        prefix, colon, name = text.rpartition(":")
        if prefix not in ("", "timm") or (colon and not prefix):
            raise ValueError(
                f"`network` must be NAME (of torchvision) or timm:NAME, but got {text!r}."
            )
        if prefix:
            known = _timm().is_model(name.partition(".")[0]) if name else False
            names = [] if known else _timm().list_models()
        else:
            names = models.list_models(module=models)
            known = name in names
        if not known:
            close = difflib.get_close_matches(name.lower(), names, n=3)
            hint = f": did you mean {', '.join(close)}?" if close else "."
            library = "timm" if prefix else "torchvision"
            raise ValueError(f"`network` {text!r} is no image classifier of {library}{hint}")
        return cls(prefix or "torchvision", name)

    def __str__(self) -> str:
        """Return the name as :meth:`parse` takes it."""
        return f"timm:{self.name}" if self.library == "timm" else self.name


def _timm() -> Any:
    """Import timm, which only its own networks need."""
    try:
        import timm
    except ImportError:
        raise ImportError(
            '`network` names a network of timm, which is not installed: pip install "timm>=1.0".'
        ) from None
    return timm


def build_network(name: NetworkName, n_classes: int) -> nn.Module:
    """Build a network with random weights, without auxiliary heads.

    Args:
        name: The network.
        n_classes: Number of outputs of its head.
    """
    model: nn.Module
    if name.library == "timm":
        model = _timm().create_model(name.name, pretrained=False, num_classes=n_classes)
        return model
    special: dict[str, Any] = {}
    if name.name in ("inception_v3", "googlenet"):
        # What torchvision sets by itself where it loads the weights.
        special = {"transform_input": True, "init_weights": False, "aux_logits": False}
    model = models.get_model(name.name, weights=None, num_classes=n_classes, **special)
    return model


def preprocessing_of(name: NetworkName, image_size: int | None = None) -> Preprocessing:
    """Return the preprocessing that a network's pre-trained weights were evaluated with.

    Args:
        name: The network.
        image_size: Height and width of the network's input, in pixels; images are resized in the
            same proportion. None: what the weights were evaluated with.

    Raises:
        ValueError: If the size is below 1, or timm crops in a way that a recipe does not know.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"`image_size` must be at least 1 pixel, but got {image_size}.")
    if name.library == "timm":
        return _timm_preprocessing(name.name, image_size)
    transform = models.get_model_weights(name.name).DEFAULT.transforms()
    (crop,), (resize,) = transform.crop_size, transform.resize_size
    size = crop if image_size is None else image_size
    return Preprocessing(
        round(resize * size / crop),
        (size, size),
        tuple(transform.mean),
        tuple(transform.std),
        transform.interpolation.value,
    )


def _timm_preprocessing(name: str, image_size: int | None) -> Preprocessing:
    """Return what timm's ``create_transform`` does in evaluation."""
    from timm.data.config import resolve_data_config

    configuration = _timm().get_pretrained_cfg(name)
    known = {} if configuration is None else configuration.to_dict()
    config = resolve_data_config({}, pretrained_cfg=known)  # type: ignore[no-untyped-call]
    height, width = config["input_size"][-2:] if image_size is None else (image_size, image_size)
    scaled = math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"])
    square = scaled[0] == scaled[1]
    if config["crop_mode"] != "squash" and not (config["crop_mode"] == "center" and square):
        raise ValueError(
            f"`network` timm:{name} crops its images in a way that is not known here "
            f"({config['crop_mode']!r}, {height} x {width} pixels): choose another network."
        )
    return Preprocessing(
        scaled if config["crop_mode"] == "squash" else scaled[0],
        (height, width),
        tuple(config["mean"]),
        tuple(config["std"]),
        config["interpolation"],
    )


def pretrained_weights(name: NetworkName, file: Path | None) -> dict[str, Tensor]:
    """Return pre-trained weights, from a file or, if there is none, from the network's library.

    Raises:
        ConnectionError: If they cannot be downloaded.
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no ``state_dict``.
    """
    return _download_weights(name) if file is None else read_weights(file)


def _download_weights(name: NetworkName) -> dict[str, Tensor]:
    """Return a network's default pre-trained weights, from the library's cache or its server.

    Raises:
        ConnectionError: If they cannot be had.
    """
    try:
        with impatient_connections():
            if name.library == "timm":
                with _impatient_hub():
                    source: nn.Module = _timm().create_model(name.name, pretrained=True)
                return source.state_dict()
            weights = models.get_model_weights(name.name).DEFAULT
            state: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
            return state
    except Exception as error:  # Each library and proxy fails in a way of its own.
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConnectionError(
            f"The pre-trained weights of {name} cannot be downloaded ({reason}): "
            f"get {_address(name)} elsewhere and give it as `weights` (.safetensors or .pth)."
        ) from error


def _address(name: NetworkName) -> str:
    """Say where a network's weights are."""
    if name.library == "timm":
        return "their file"
    return str(models.get_model_weights(name.name).DEFAULT.url)


@contextmanager
def impatient_connections() -> Iterator[None]:
    """Give up where a firewall drops packets: a download would never end there.

    A connection opened inside fails after ten seconds without an answer.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_CONNECTION_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _impatient_hub() -> Iterator[None]:
    """Let the hub's client look into its cache at once if the server does not answer.

    It would try again for minutes first.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if not _answers(os.environ.get("HF_ENDPOINT", _HUB)):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(url: str) -> bool:
    """Tell whether a server answers, whatever it says."""
    try:
        urlopen(url).close()
    except HTTPError:
        return True
    except OSError:
        return False
    return True


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the ``state_dict`` in a file of safetensors or ``torch.save``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no ``state_dict``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`weights`: there is no file {path}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Both libraries have many errors for a bad file.
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        if reason.startswith("Weights only load failed"):
            reason = "it is no file of `torch.save`, or holds more than tensors"
        raise ValueError(
            f"`weights`: {path} cannot be read as weights ({reason}): give a file of "
            "`torch.save(model.state_dict(), FILE)`."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"`weights`: {path} must hold a state_dict, names and tensors alone: save "
            "`model.state_dict()`."
        )
    return state


class PretrainedNetwork:
    """Builds a network with a pre-trained body and a fresh head.

    Args:
        name: The network.
        weights: Its ``state_dict``. The head's may be for any number of classes or absent.
        n_classes: Number of classes of the fresh head.

    Attributes:
        name: The network.

    Raises:
        ValueError: If the weights are those of another network.
    """

    def __init__(self, name: NetworkName, weights: dict[str, Tensor], n_classes: int) -> None:
        self.name = name
        self._n_classes = n_classes
        shapes = _shapes(build_network(name, n_classes))
        other_shapes = _shapes(build_network(name, n_classes + 1))
        body = {key for key, shape in shapes.items() if shape == other_shapes[key]}
        _check_fit(name, {key: shapes[key] for key in body}, weights, set(shapes))
        self._body = {key: tensor for key, tensor in weights.items() if key in body}

    def build(self) -> nn.Module:
        """Return a new network; torch's random numbers decide its head."""
        model = build_network(self.name, self._n_classes)
        model.load_state_dict(self._body, strict=False)
        return model

    def partition(self, size: tuple[int, int]) -> BlockPartition:
        """Return the blocks of a new network.

        Args:
            size: Height and width of its input, in pixels.
        """
        return partition_blocks(self.build(), example_input=torch.zeros(2, 3, *size))


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in model.state_dict().items()}


def _check_fit(
    name: NetworkName, body: dict[str, torch.Size], weights: dict[str, Tensor], keys: set[str]
) -> None:
    """Raise ValueError, naming a tensor, unless the weights are those of the network."""
    # Old files lack BatchNorm's counters, which only its cumulative average uses.
    missing = [k for k in body if k not in weights and not k.endswith("num_batches_tracked")]
    unknown = [k for k in weights if k not in keys and not k.startswith(_AUXILIARY_HEADS)]
    misfits = [k for k, shape in body.items() if k in weights and weights[k].shape != shape]
    if missing:
        reason = f"they lack {sorted(missing)[0]}"
    elif unknown:
        reason = f"they have {sorted(unknown)[0]}, which it lacks"
    elif misfits:
        key = sorted(misfits)[0]
        reason = f"{key} is {tuple(weights[key].shape)}, not {tuple(body[key])}"
    else:
        return
    raise ValueError(f"`weights` do not fit {name}: {reason}. Are they for another network?")
