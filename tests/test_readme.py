"""Every Python snippet of the README runs as it stands, but for fewer trials and epochs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

# What makes the snippets quick enough for a test; each must occur in one of them.
SHORTER = {
    "n_trials=60": "n_trials=2",
    "model=build_model, train=train,": "model=build_model, train=train, epochs=1, seeds=(0,),",
}


def write_images(folder: Path, n_classes: int, n_images: int) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in range(n_classes):
        directory = folder / f"class_{label}"
        directory.mkdir(parents=True)
        for index in range(n_images):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(directory / f"{index}.png")


def save_random_weights(torch_home: Path) -> None:
    """Put weights where torchvision looks before it downloads them."""
    import torch
    from torchvision.models import ResNet18_Weights, resnet18

    folder = torch_home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(
        resnet18(weights=None).state_dict(), folder / Path(ResNet18_Weights.DEFAULT.url).name
    )


def test_there_are_snippets_and_everything_to_shorten_occurs_in_them() -> None:
    assert SNIPPETS
    for text in SHORTER:
        assert any(text in snippet for snippet in SNIPPETS), text


def test_the_first_two_shell_blocks_install_and_run() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert "pip install ." in blocks[0] and "examples/quickstart.py" in blocks[0]
    assert 'pip install ".[test]"' in blocks[1] and "python -m pytest" in blocks[1]


def test_the_command_line_runs_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[2]
    write_images(tmp_path / "flowers", n_classes=2, n_images=6)
    (tmp_path / "flowers" / "class_0").joinpath("0.png").rename(tmp_path / "0.jpg")
    (tmp_path / "new").mkdir()
    (tmp_path / "0.jpg").rename(tmp_path / "new" / "0.jpg")
    save_random_weights(tmp_path / "torch")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    shorter = {
        "resnet50": "resnet18",
        "--trials 60": "--trials 1 --epochs 1 --seeds 1 --image-size 32",
        "optuna-biotune ": f"{sys.executable} -m optuna_biotune ",
    }
    for text, replacement in shorter.items():
        assert text in block
        block = block.replace(text, replacement)
    result = subprocess.run(
        ["sh", "-ec", block], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr
    assert "new/0.jpg\tclass_" in result.stdout
    assert "class FineTuningPlan(Callback):" in (tmp_path / "plan.py").read_text()
    assert {path.name for path in (tmp_path / "biotune").iterdir()} == {
        *("model.safetensors", "recipe.json", "report.html")
    }


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet_runs(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "data" / "train", n_classes=2, n_images=10)
    write_images(tmp_path / "data" / "test", n_classes=2, n_images=3)
    save_random_weights(tmp_path / "torch")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for text, replacement in SHORTER.items():
        snippet = snippet.replace(text, replacement)
    result = subprocess.run(
        [sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr
