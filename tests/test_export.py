"""Exported code runs by itself and trains every parameter as the plan says."""

from __future__ import annotations

import ast
import random
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models

from optuna_biotune import BlockPartition, FineTuningPlan, Recipe, partition_blocks
from optuna_biotune.export import FRAMEWORKS, export_code

LR = 3e-4
DECAY = 0.01


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TiedNet(nn.Module):
    """Two layers that share their weight, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.second(self.first(inputs)))  # type: ignore[no-any-return]


class SmallNet(nn.Module):
    """A network with what frozen blocks must hold still: BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.stem(images)).mean((2, 3)))  # type: ignore[no-any-return]


def small_partition(model: nn.Module | None = None) -> BlockPartition:
    return partition_blocks(model or SmallNet(), {name: [name] for name in SMALL_PLAN.names})


SMALL_PLAN = FineTuningPlan({"stem": 0.0, "body": 0.2, "head": 3.0})


def timm_network(name: str) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=3)
    return model


def tied_partition() -> BlockPartition:
    blocks = {"first": ["first"], "second": ["second"], "head": ["head"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tied weight
        return partition_blocks(TiedNet(), blocks)


def recipe_of(blocks: BlockPartition, plan: FineTuningPlan, network: str = "mine") -> Recipe:
    return Recipe(
        network, plan, blocks.blocks, LR, 2, 3, batch_size=4, weight_decay=DECAY, classes=("a", "b")
    )


def load(code: str) -> types.ModuleType:
    module = types.ModuleType("exported")
    exec(compile(code, "exported.py", "exec"), module.__dict__)
    return module


def rates(groups: list[dict[str, Any]]) -> dict[int, float]:
    return {id(parameter): group["lr"] for group in groups for parameter in group["params"]}


def random_plan(names: tuple[str, ...], seed: int) -> FineTuningPlan:
    rng = random.Random(seed)
    values = {name: rng.choice([0.0, 0.1, rng.uniform(0.1, 10), 10.0]) for name in names}
    return FineTuningPlan({**values, names[-1]: 2.0})


NETWORKS: dict[str, Callable[[], BlockPartition]] = {
    "resnet18": lambda: partition_blocks(models.resnet18(num_classes=3)),
    "densenet121": lambda: partition_blocks(models.densenet121(num_classes=3)),
    "inception_v3": lambda: partition_blocks(models.inception_v3(init_weights=False)),
    "timm vit": lambda: partition_blocks(timm_network("vit_tiny_patch16_224")),
    "tied": tied_partition,
}


@pytest.mark.parametrize("framework", ["torch", "lightning", "transformers"])
@pytest.mark.parametrize("network", NETWORKS)
def test_learning_rates_are_those_of_the_partition(network: str, framework: str) -> None:
    if framework != "torch":
        pytest.importorskip(framework)
    blocks = NETWORKS[network]()
    for seed in range(4):
        plan = random_plan(blocks.names, seed)
        exported = load(export_code(recipe_of(blocks, plan), framework))
        groups = exported.parameter_groups(blocks.model)
        required = {id(p) for p in blocks.model.parameters() if p.requires_grad}
        assert rates(groups) == rates(blocks.param_groups(plan, LR))
        assert required == set(rates(groups))
        assert [group["name"] for group in groups] == [
            group["name"] for group in blocks.param_groups(plan, LR)
        ]


@pytest.mark.parametrize("network", ["resnet18", "densenet121", "timm vit"])
def test_the_modules_in_training_mode_are_those_of_the_partition(network: str) -> None:
    blocks = NETWORKS[network]()
    plan = random_plan(blocks.names, 1)
    exported = load(export_code(recipe_of(blocks, plan)))
    exported.train_mode(blocks.model)
    # What has no parameters, no dropout and no block is the same in both modes.
    members = {name for block in blocks.names for name in blocks.named_modules(block)}
    named = [n for n, m in blocks.model.named_modules() if n in members and list(m.parameters())]
    found = {name for name in named if blocks.model.get_submodule(name).training}
    blocks.train(plan)
    assert found == {name for name in named if blocks.model.get_submodule(name).training}
    assert 0 < len(found) < len(named)


@pytest.mark.parametrize("framework", [name for name in FRAMEWORKS if name != "timm"])
def test_exported_code_does_not_import_this_package(framework: str) -> None:
    code = export_code(recipe_of(small_partition(), SMALL_PLAN), framework)
    imported = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import)]
    imported_from = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    names = [alias.name for node in imported for alias in node.names]
    names += [str(node.module) for node in imported_from]
    assert names
    assert not any(name.startswith("optuna") for name in names)


def test_another_network_is_refused() -> None:
    exported = load(export_code(recipe_of(small_partition(), SMALL_PLAN)))
    with pytest.raises(ValueError, match="block stem needs stem: another network"):
        exported.parameter_groups(models.resnet18())


def frozen_state(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items() if n.startswith("stem")}


def assert_trained_by_the_plan(model: SmallNet, before: dict[str, Tensor], head: Tensor) -> None:
    after = frozen_state(model)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not torch.equal(model.head.weight, head)


def images() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(8, 3, 8, 8, generator=generator), torch.tensor([0, 1] * 4, dtype=torch.int64)
    )


def test_the_plain_loop_trains_by_the_plan() -> None:
    model = SmallNet()
    before, head = frozen_state(model), model.head.weight.clone()
    recipe = recipe_of(small_partition(model), SMALL_PLAN)
    exported = load(export_code(recipe, "torch"))
    usage = str(exported.__doc__).partition("\n\n")[2]
    loop = "\n".join(line.removeprefix("    ") for line in usage.splitlines())
    assert "model = ...  # mine, pre-trained, with a head for 2 classes" in loop
    loop = loop.replace("model = ...", "model = model").replace(
        "    ...  #",
        "    optimizer.zero_grad()\n"
        "    torch.nn.functional.cross_entropy(model(inputs), labels).backward()\n"
        "    optimizer.step()\n"
        "    #",
    )
    inputs, labels = images().tensors
    scope = {**exported.__dict__, "model": model, "inputs": inputs, "labels": labels}
    exec(loop, scope)
    assert_trained_by_the_plan(model, before, head)
    assert scope["epoch"] == 1
    groups = scope["optimizer"].param_groups
    assert [group["initial_lr"] for group in groups] == [0.2 * LR, 3 * LR]
    assert [group["weight_decay"] for group in groups] == [DECAY, DECAY]


def test_lightning_trains_by_the_plan(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    class Classifier(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = SmallNet()

        def configure_optimizers(self) -> Any:
            groups = exported.parameter_groups(self.model)
            return torch.optim.Adam(groups)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.modes = self.model.stem.training, self.model.body.training
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.validated = True

    classifier = Classifier()
    model = classifier.model
    before, head = frozen_state(model), model.head.weight.clone()
    exported = load(export_code(recipe_of(small_partition(model), SMALL_PLAN), "lightning"))
    trainer = lightning.Trainer(
        max_epochs=2,
        callbacks=[exported.FineTuningPlan()],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(classifier, DataLoader(images(), 4), DataLoader(images(), 4))
    assert classifier.validated
    assert classifier.modes == (False, True)
    assert_trained_by_the_plan(model, before, head)
    groups = trainer.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == [0.2 * LR, 3 * LR]
    assert [group["weight_decay"] for group in groups] == [DECAY, DECAY]


def test_the_lightning_callback_itself_freezes() -> None:
    lightning = pytest.importorskip("lightning")

    class Whole(lightning.LightningModule, SmallNet):  # type: ignore[name-defined,misc]
        pass

    model = Whole()
    code = export_code(recipe_of(small_partition(), SMALL_PLAN), "lightning")
    load(code).FineTuningPlan(attribute="").setup(None, model, "fit")
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == [name for name, _ in model.named_parameters() if name.startswith("stem")]


def test_transformers_trains_by_the_plan(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = SmallNet()

        def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
            self.modes = self.model.stem.training, self.model.body.training
            logits = self.model(pixels)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    classifier = Classifier()
    model = classifier.model
    before, head = frozen_state(model), model.head.weight.clone()
    exported = load(export_code(recipe_of(small_partition(model), SMALL_PLAN), "transformers"))
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    data = [
        {"pixels": pixels, "labels": label} for pixels, label in zip(*images().tensors, strict=True)
    ]
    trainer = exported.PlanTrainer(classifier, arguments, train_dataset=data)
    trainer.train()
    assert classifier.modes == (False, True)
    assert_trained_by_the_plan(model, before, head)
    groups = trainer.optimizer.param_groups
    assert [group["initial_lr"] for group in groups] == [0.2 * LR, 3 * LR]
    assert [group["weight_decay"] for group in groups] == [DECAY, DECAY]
    # After 4 of the 6 steps of a cosine schedule.
    assert groups[0]["lr"] == pytest.approx(0.2 * LR * 0.25)


def test_timm_builds_the_network_and_its_optimizer() -> None:
    timm = pytest.importorskip("timm")
    blocks = partition_blocks(timm.create_model("resnet18", num_classes=2))
    plan = random_plan(blocks.names, 1)
    exported = load(export_code(recipe_of(blocks, plan, "timm:resnet18"), "timm"))
    model, optimizer, schedule = exported.build(pretrained=False)
    expected = rates(blocks.for_model(model).param_groups(plan, LR))
    assert rates(optimizer.param_groups) == expected
    assert {group["weight_decay"] for group in optimizer.param_groups} == {DECAY}
    assert model.get_classifier().out_features == 2
    exported.train_mode(model)
    schedule.step(1)
    factors = [g["lr"] / g["initial_lr"] for g in optimizer.param_groups]
    assert factors == pytest.approx([0.75] * len(factors))


def test_timm_code_is_for_networks_of_timm_only() -> None:
    with pytest.raises(ValueError, match=r"only for networks of timm, .*'mine': take 'torch'"):
        export_code(recipe_of(small_partition(), SMALL_PLAN), "timm")


def test_an_unknown_framework_is_refused() -> None:
    recipe = recipe_of(small_partition(), SMALL_PLAN)
    with pytest.raises(ValueError, match=r"one of torch, timm, lightning, .*but got 'keras'"):
        export_code(recipe, "keras")
