from __future__ import annotations

from collections.abc import Callable, Iterator

import optuna
import pytest
import torch
from optuna.pruners import BasePruner, NopPruner, ThresholdPruner
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from torch import Tensor, nn

from optuna_biotune import FineTuningObjective, FineTuningPlan
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
