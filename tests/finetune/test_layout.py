from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from optuna.trial import FixedTrial
from torch import Tensor, nn
from torch.nn import functional as F

from optuna_biotune import FineTuningObjective, FineTuningPlan
from optuna_biotune.finetune.layout import convolution_reuse, favours_channels_last
from optuna_biotune.finetune.training import SeedRun
from tests.finetune.conftest import Digits, SmallNet

MakeObjective = Callable[..., FineTuningObjective]

STEM_FROZEN = FineTuningPlan({"stem": 0.0, "body": 1.0, "head": 1.0})
FULL = FineTuningPlan({"stem": 1.0, "body": 1.0, "head": 1.0})


class Pooled(SmallNet):
    """Takes images of any size, in two channels, so that layouts differ from the first layer on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem[0] = nn.Conv2d(2, 8, 3, stride=2)
        self.body.append(nn.AdaptiveAvgPool2d(1))


def enlarged(image: Tensor) -> Tensor:
    larger = F.interpolate(image[None], scale_factor=3)[0]
    return torch.cat([larger, 1 - larger])


def lies_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


@pytest.fixture
def make_pooled(make_objective: MakeObjective) -> MakeObjective:
    def make(**arguments: Any) -> FineTuningObjective:
        defaults: dict[str, Any] = {"model": Pooled, "transform": enlarged, "seeds": (0,)}
        return make_objective(**{**defaults, **arguments})

    return make


def test_reuse_is_the_mean_number_of_places_that_a_weight_is_used_at() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Conv2d(2, 4, 2, stride=2, bias=False))
    # 18 weights at 4 x 4 places, 32 at 2 x 2.
    expected = (18 * 16 + 32 * 4) / 50
    assert convolution_reuse(model, torch.randn(2, 1, 6, 6)) == expected
    assert (
        convolution_reuse(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.ones(2, 1, 2, 2)) == 0
    )


def test_small_images_or_batches_keep_channels_first_on_the_cpu() -> None:
    model = SmallNet()
    images = torch.randn(2, 1, 8, 8)
    assert not favours_channels_last(model, images, 64)
    assert favours_channels_last(model, images, 640)
    assert not model._forward_hooks
    assert not any(module._forward_hooks for module in model.modules())


def test_the_rule_decides_how_networks_lie_in_memory(
    make_objective: MakeObjective, make_pooled: MakeObjective
) -> None:
    for make, expected in ((make_objective, False), (make_pooled, True)):
        settings = make()._settings
        weight = SeedRun(FULL, 0, settings).model.get_parameter("body.0.weight")
        assert lies_channels_last(weight) == expected
        assert (
            lies_channels_last(settings.template.model.get_parameter("body.0.weight")) == expected
        )


def test_channels_last_trains_the_same_with_and_without_kept_activations(
    make_pooled: MakeObjective,
) -> None:
    kept, computed = (make_pooled(cache_bytes=n_bytes) for n_bytes in (None, 0))
    states = [o.refit(STEM_FROZEN).model.state_dict() for o in (kept, computed)]
    assert kept._settings.sharing is not None
    assert kept._settings.sharing.cache.n_bytes > 0
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    trial = FixedTrial(STEM_FROZEN.to_params())
    assert kept(trial) == computed(trial)


def test_the_network_of_a_refit_lies_as_usual_and_is_the_one_that_was_measured(
    make_pooled: MakeObjective, digits: Digits
) -> None:
    result = make_pooled().refit(FULL, test=digits.test)
    assert all(tensor.is_contiguous() for tensor in result.model.state_dict().values())
    images, labels = digits.test.tensors
    with torch.no_grad():
        predictions = result.model(torch.stack([enlarged(image) for image in images])).argmax(1)
    accuracy = float((predictions == labels).float().mean())
    assert result.metrics["accuracy"][0] == pytest.approx(accuracy, abs=0.01)
