from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import optuna
import pytest
import torch
from optuna.pruners import BasePruner, NopPruner, ThresholdPruner
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from torch import Tensor, nn
from torchvision.transforms import v2

from optuna_biotune import FineTuningObjective, FineTuningPlan
from optuna_biotune.finetune import image_memory
from tests.finetune.conftest import Digits, SmallNet

pytestmark = pytest.mark.cuda

MakeObjective = Callable[..., FineTuningObjective]

PARAMS = FineTuningPlan({"stem": 0.0, "body": 1.0, "head": 3.0}).to_params()
MEBIBYTE = 2**20


class Hungry(SmallNet):
    """Keeps 4 MiB of activations an image for the backward pass."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        wide = logits.sum(1, keepdim=True).expand(-1, MEBIBYTE)
        return logits + (wide * 1e-12).sin().mean(1, keepdim=True)


def run_plan(objective: FineTuningObjective, pruner: BasePruner | None = None) -> FrozenTrial:
    study = optuna.create_study(direction="maximize", pruner=pruner or NopPruner())
    study.enqueue_trial(PARAMS)
    study.optimize(objective, n_trials=1)
    return study.trials[0]


@pytest.fixture
def limit_memory() -> Iterator[Callable[[int], None]]:
    """Limit what this process may allocate to a number of bytes above what it holds."""
    total = torch.cuda.get_device_properties(0).total_memory

    def limit(n_bytes: int) -> None:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(
            (torch.cuda.memory_reserved() + n_bytes) / total, 0
        )

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0, 0)
    torch.cuda.empty_cache()


def test_float32_on_cuda_stays_close_to_the_cpu(make_objective: MakeObjective) -> None:
    values = [
        make_objective(epochs=6, device=device, precision="fp32")(FixedTrial(PARAMS))
        for device in ("cpu", "cuda")
    ]
    # Dropout draws other numbers on CUDA.
    assert values[0] == pytest.approx(values[1], abs=0.1)


def test_bfloat16_stays_close_to_float32_on_cuda(make_objective: MakeObjective) -> None:
    values = [
        make_objective(epochs=6, device="cuda", precision=precision)(FixedTrial(PARAMS))
        for precision in ("fp32", "bf16")
    ]
    assert values[0] == pytest.approx(values[1], abs=0.1)


def test_refit_on_cuda_measures_its_own_network(
    make_objective: MakeObjective, digits: Digits
) -> None:
    plan = FineTuningPlan({"stem": 0.0, "body": 1.0, "head": 3.0})
    objective = make_objective(epochs=6, device="cuda", precision="fp32")
    result = objective.refit(plan, test=digits.test)
    images, labels = digits.test.tensors
    with torch.no_grad():
        predictions = result.model(images.cuda()).argmax(1).cpu()
    accuracy = float((predictions == labels).float().mean())
    assert accuracy > 0.7
    assert result.metrics["accuracy"][0] == pytest.approx(accuracy, abs=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kept_activations_change_next_to_nothing_on_cuda(
    make_objective: MakeObjective, precision: str
) -> None:
    values = []
    for n_bytes in (None, 0):
        objective = make_objective(
            epochs=6, device="cuda", precision=precision, cache_bytes=n_bytes
        )
        values.append(objective(FixedTrial(PARAMS)))
        sharing = objective._settings.sharing
        assert sharing is not None
        assert (sharing.cache.n_bytes > 0) == (n_bytes is None)
    assert values[0] == pytest.approx(values[1], abs=0.05)


def test_images_in_main_memory_and_in_a_file_give_the_values_of_those_on_the_device(
    make_objective: MakeObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"epochs": 6, "device": "cuda", "precision": "fp32"}
    on_device = make_objective(**arguments)
    in_file = make_objective(**arguments, data_bytes=0, cache_bytes=0)
    monkeypatch.setattr(image_memory, "_half_of_free_memory", lambda device: 0)
    in_main_memory = make_objective(**arguments)
    objectives = (on_device, in_main_memory, in_file)
    assert [o._data.images.device.type for o in objectives] == ["cuda", "cpu", "cpu"]
    indices = torch.tensor([7, 3])
    batches = [o._data.take(indices, torch.device("cuda", 0)) for o in objectives]
    assert all(torch.equal(batch, batches[0]) for batch in batches)
    values = [o(FixedTrial(PARAMS)) for o in objectives]
    assert values[1:] == pytest.approx(values[:1] * 2, abs=0.05)


def test_bytes_are_normalised_on_the_device(make_objective: MakeObjective) -> None:
    transform = v2.Compose(
        [
            v2.ToDtype(torch.uint8),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5], [0.25]),
        ]
    )
    objective = make_objective(device="cuda", transform=transform)
    assert objective._data.images.dtype == torch.uint8
    cpu, cuda = (
        objective._data.take(torch.arange(5), torch.device(name)).cpu()
        for name in ("cpu", "cuda:0")
    )
    torch.testing.assert_close(cpu, cuda, rtol=0, atol=1e-6)


def test_the_random_state_of_cuda_is_left_alone(make_objective: MakeObjective) -> None:
    torch.cuda.manual_seed(3)
    expected = torch.rand(2, device="cuda")
    torch.cuda.manual_seed(3)
    make_objective(epochs=1, device="cuda")(FixedTrial(PARAMS))
    assert torch.equal(torch.rand(2, device="cuda"), expected)


def test_a_diverging_trial_is_recorded_on_cuda(make_objective: MakeObjective) -> None:
    trial = run_plan(make_objective(lr=1e36, device="cuda", precision="fp32"))
    assert trial.value == 0.0
    assert "NaN or infinite in epoch 1" in trial.user_attrs["failure"]


def test_a_batch_that_does_not_fit_is_trained_in_parts(
    make_objective: MakeObjective, limit_memory: Callable[[int], None]
) -> None:
    sizes: list[int] = []

    class Watched(Hungry):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            sizes.append(len(images))
            return logits

    objective = make_objective(model=Watched, device="cuda", precision="fp32", epochs=1, seeds=(0,))
    sizes.clear()
    limit_memory(300 * MEBIBYTE)
    trial = run_plan(objective)
    assert trial.state == TrialState.COMPLETE
    assert "failure" not in trial.user_attrs
    assert max(sizes) < 64


def hopeless_network() -> nn.Module:
    class Hopeless(SmallNet):
        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                torch.empty(2**50, dtype=torch.uint8, device=images.device)
            return super().forward(images)

    return Hopeless()


@pytest.mark.parametrize("ending", ["complete", "pruned", "out of memory"])
def test_no_memory_is_held_after_a_trial_however_it_ends(
    make_objective: MakeObjective, ending: str
) -> None:
    model = hopeless_network if ending == "out of memory" else SmallNet
    objective = make_objective(model=model, device="cuda")
    # The first trial leaves workspaces of cuBLAS and cuDNN behind.
    run_plan(objective)
    before = torch.cuda.memory_allocated()
    pruner = ThresholdPruner(lower=1.1) if ending == "pruned" else NopPruner()
    trial = run_plan(objective, pruner)
    expected = {"pruned": TrialState.PRUNED, "out of memory": TrialState.FAIL}
    assert trial.state == expected.get(ending, TrialState.COMPLETE)
    assert torch.cuda.memory_allocated() == before
