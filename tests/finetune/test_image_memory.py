from __future__ import annotations

import gc
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from optuna.trial import FixedTrial
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from optuna_biotune import FineTuningObjective, FineTuningPlan
from optuna_biotune.finetune.image_memory import allocate_images
from tests.finetune.conftest import Digits

MakeObjective = Callable[..., FineTuningObjective]

CPU = torch.device("cpu")
PLANS = [
    FineTuningPlan({"stem": 0.0, "body": 1.0, "head": 1.0}),
    FineTuningPlan({"stem": 1.0, "body": 1.0, "head": 1.0}),
]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory that temporary files are made in."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path


def is_mapped(directory: Path) -> bool:
    """Tell whether this process has a file of a directory mapped into memory."""
    gc.collect()
    return str(directory) in Path("/proc/self/maps").read_text()


needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_more_than_the_budget_goes_into_a_file_that_holds_any_type(
    temporary: Path, dtype: torch.dtype
) -> None:
    values = torch.arange(60).reshape(5, 3, 2, 2).to(dtype)
    images = allocate_images((5, 3, 2, 2), dtype, CPU, data_bytes=values.nbytes - 1)
    images[:] = values
    assert torch.equal(images, values)
    assert images.dtype == dtype


@needs_proc
def test_the_file_has_no_name_and_ends_with_the_images(temporary: Path) -> None:
    images = allocate_images((1000, 1), torch.float32, CPU, data_bytes=3999)
    assert is_mapped(temporary)
    assert list(temporary.iterdir()) == []
    del images
    assert not is_mapped(temporary)


@needs_proc
@pytest.mark.parametrize("data_bytes", [4000, None])
def test_what_fits_stays_in_main_memory(temporary: Path, data_bytes: int | None) -> None:
    images = allocate_images((1000, 1), torch.float32, CPU, data_bytes)
    assert images.nbytes == 4000
    assert not is_mapped(temporary)


class DiskUsage(NamedTuple):
    free: int


def test_a_disk_without_room_is_said_before_anything_is_read(
    make_objective: MakeObjective, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DiskUsage(free=1000))
    with pytest.raises(OSError, match=rf"`data_bytes`.*{temporary}.*TMPDIR"):
        make_objective(data_bytes=0)


def weights(
    make_objective: MakeObjective, plan: FineTuningPlan, **arguments: Any
) -> dict[str, Tensor]:
    model = make_objective(seeds=(0,), **arguments).refit(plan).model
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@needs_proc
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("cache_bytes", [None, 0])
def test_a_mapped_file_gives_the_same_weights_as_main_memory(
    make_objective: MakeObjective, plan: FineTuningPlan, cache_bytes: int | None, temporary: Path
) -> None:
    expected = weights(make_objective, plan)
    mapped = weights(make_objective, plan, data_bytes=0, cache_bytes=cache_bytes)
    assert_same_bits(mapped, expected)


@needs_proc
def test_a_trial_and_the_test_data_of_a_refit_run_from_files(
    make_objective: MakeObjective, digits: Digits, temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="optuna_biotune")
    trial = FixedTrial(PLANS[0].to_params())
    resident = make_objective()
    mapped = make_objective(data_bytes=0)
    assert is_mapped(temporary)
    assert mapped(trial) == resident(trial)
    results = [o.refit(PLANS[0], test=digits.test).metrics for o in (resident, mapped)]
    assert results[0] == results[1]
    places = [line for line in caplog.messages if "images are kept" in line]
    assert ["file" in line for line in places] == [False, True, False, True]
    del mapped
    assert not is_mapped(temporary)


def as_bytes(image: Tensor) -> Tensor:
    """Return an image of the digits, 0 to 1 in steps of 1 / 16, as bytes."""
    return (image * 240).to(torch.uint8)


def as_floats(image: Tensor) -> Tensor:
    return as_bytes(image).float() / 255


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("augment", [None, nn.Hardtanh(0.1, 0.9)])
def test_bytes_give_the_same_weights_as_floats(
    make_objective: MakeObjective, plan: FineTuningPlan, augment: nn.Module | None, digits: Digits
) -> None:
    kept = [
        make_objective(seeds=(0,), transform=transform, augment=augment)
        for transform in (as_bytes, as_floats)
    ]
    assert [objective._data.images.element_size() for objective in kept] == [1, 4]
    results = [objective.refit(plan, test=digits.test) for objective in kept]
    assert_same_bits(*(dict(result.model.state_dict()) for result in results))
    assert results[0].metrics == results[1].metrics


def test_random_augmentation_of_bytes_gets_floats_and_changes_every_epoch(
    make_objective: MakeObjective,
) -> None:
    seen: list[Tensor] = []

    def augment(images: Tensor) -> Tensor:
        noisy = images + 0.1 * torch.rand_like(images)
        seen.append(noisy)
        return noisy

    objective = make_objective(
        seeds=(0,), epochs=2, batch_size=300, transform=as_bytes, augment=augment, data_bytes=0
    )
    objective(FixedTrial(PLANS[1].to_params()))
    assert len(seen) == 2
    assert all(0 <= float(images.min()) < float(images.max()) < 1.1 for images in seen)
    sums = [images.double().sum() for images in seen]
    assert float(sums[0]) != pytest.approx(float(sums[1]), rel=1e-9)


def test_a_negative_budget_is_refused(make_objective: MakeObjective) -> None:
    with pytest.raises(ValueError, match=r"`data_bytes` must be at least 0, but got -1"):
        make_objective(data_bytes=-1)


def test_training_and_validation_data_of_unlike_types_are_refused(
    make_objective: MakeObjective, digits: Digits
) -> None:
    half = TensorDataset(digits.val.tensors[0].half(), digits.val.tensors[1])
    with pytest.raises(TypeError, match=r"item 0 of `val` is torch.float16 and item 0 of `train`"):
        make_objective(val=half)
