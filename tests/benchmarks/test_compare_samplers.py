"""Landscapes, their recording from real training, and the comparison of samplers on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import compare_samplers
import numpy as np
import optuna
import pretrain
import pytest
import record_landscape
from landscapes.functions import RecordedLandscape, load_landscape, phenotypes, plateau
from landscapes.recorded import RECORDINGS, Recording

from optuna_biotune import FineTuningPlan


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.npz")), ids=lambda path: path.stem)
def test_the_recordings_are_described_well_by_their_regression(path: Path) -> None:
    recording = Recording.load(path)
    assert len(recording.genes) >= 250
    assert recording.val.shape[1] >= 2
    landscape = RecordedLandscape(path.stem, recording)
    assert np.corrcoef(landscape.true_values(recording.genes), recording.mean)[0, 1] > 0.9


def test_silent_genes_express_nothing() -> None:
    genes = np.asarray([[0.2, 0.9, 0.5], [0.1, 0.9, 0.3]])
    np.testing.assert_array_equal(*phenotypes(genes)[:, None])


def test_no_sampler_can_be_above_the_plateau() -> None:
    landscape = load_landscape("synthetic6-1")
    rng = np.random.default_rng(3)
    genes = rng.random((5000, 7))
    genes = genes[(genes[:, :-1] > genes[:, -1:]).any(axis=1)]
    assert landscape.true_values(genes).max() < plateau(landscape) <= 0.95


def test_an_unknown_landscape_is_named() -> None:
    with pytest.raises(ValueError, match="but got 'nowhere'"):
        load_landscape("nowhere")


def test_both_encodings_express_the_same_plan() -> None:
    names = ("a", "b")
    fixed = {"freeze/a": False, "multiplier/a": 2.0, "freeze/b": True}
    study = optuna.create_study()
    study.enqueue_trial(fixed)
    genes = compare_samplers.suggested_genes(study.ask(), names, True)
    assert genes is not None
    plan = FineTuningPlan.from_genes(names, genes[:-1].tolist(), float(genes[-1]))
    assert plan.multipliers == pytest.approx({"a": 2.0, "b": 0.0})


def test_the_comparison_goes_on_where_it_was_stopped_and_prints_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_samplers, "CHECKPOINTS", (5, 12))
    monkeypatch.setattr(compare_samplers, "ProcessPoolExecutor", _SameProcess)
    out = tmp_path / "samplers.jsonl"
    options = ["--landscapes", "synthetic3-0", "--out", str(out)]
    compare_samplers.main([*options, "--samplers", "BioTune", "random", "--seeds", "1"])
    first = out.read_text()
    compare_samplers.main([*options, "--samplers", "BioTune", "random", "TPE", "--seeds", "2"])
    assert out.read_text().startswith(first)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    cells = {(line["sampler"], line["seed"]) for line in lines}
    assert len(lines) == 6
    assert cells == {(name, seed) for name in ("BioTune", "random", "TPE") for seed in (0, 1)}
    table = capsys.readouterr().out
    assert "| BioTune, best value |" in table
    assert table.endswith(out.with_suffix(".md").read_text())


class _SameProcess:
    """Runs jobs at once, where a test has changed what they use."""

    def __init__(self, workers: int) -> None: ...

    def __enter__(self) -> _SameProcess:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, job: Any, *arguments: Any) -> Any:
        from concurrent.futures import Future

        future: Future[Any] = Future()
        future.set_result(job(*arguments))
        return future


def test_ranks_are_shared_by_ties_and_average_over_landscapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compare_samplers, "CHECKPOINTS", (10,))
    values = {
        "a": np.asarray([[[3.0]], [[1.0]]]),
        "b": np.asarray([[[2.0]], [[1.0]]]),
        "c": np.asarray([[[1.0]], [[0.0]]]),
    }
    ranks = compare_samplers.mean_ranks(values)
    assert [ranks[name][0][0] for name in "abc"] == [1.25, 1.75, 3.0]


def test_real_training_is_recorded_and_a_longer_recording_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "small_resnet.safetensors"
    pretrain.main(
        ["--data", str(data), "--epochs", "1", "--batch-size", "32", "--out", str(checkpoint)]
    )
    monkeypatch.setattr(record_landscape, "checkpoint_path", lambda _: checkpoint)
    options = ["--data", str(data), "--target", "isic8", "--size", "16", "--epochs", "2"]
    options += ["--out", str(tmp_path), "--device", "cpu"]
    record_landscape.main([*options, "--genotypes", "2"])
    path = tmp_path / "isic8-small_resnet.npz"
    short = Recording.load(path)
    record_landscape.main([*options, "--genotypes", "3"])
    longer = Recording.load(path)
    assert short.curve.shape == (2, 2, 2)
    np.testing.assert_array_equal(longer.curve[:2], short.curve)
    assert longer.names == ("stem", "layer1", "layer2", "layer3", "layer4", "fc")
    with pytest.raises(SystemExit, match="another setting"):
        record_landscape.main([*options, "--genotypes", "3", "--lr", "0.5"])
