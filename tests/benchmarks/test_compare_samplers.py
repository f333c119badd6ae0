"""Landscapes, their recording from real training, and the comparison of samplers on them."""

from __future__ import annotations

from pathlib import Path

import compare_samplers
import numpy as np
import optuna
import pretrain
import pytest
import record_landscape
import sampler_tables
from landscapes.functions import RecordedLandscape, load_landscape, phenotypes, plateau
from landscapes.recorded import RECORDINGS, Recording

from optuna_biotune import BioTuneSampler, FineTuningPlan, StopOnPlateau


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
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "samplers.jsonl"
    options = ["--landscapes", "synthetic3-0", "--evaluations", "12", "--out", str(out)]
    compare_samplers.main([*options, "--samplers", "BioTune", "random", "--seeds", "1"])
    first = out.read_text()
    compare_samplers.main([*options, "--samplers", "BioTune", "random", "TPE", "--seeds", "2"])
    assert out.read_text().startswith(first)
    lines = sampler_tables.read_lines(out)
    cells = {(line["sampler"], line["seed"]) for line in lines}
    assert len(lines) == 6
    assert cells == {(name, seed) for name in ("BioTune", "random", "TPE") for seed in (0, 1)}
    assert all(len(line["regret"]) == 10 for line in lines if line["sampler"] == "BioTune")
    table = capsys.readouterr().out
    assert "| BioTune, best value |" in table
    assert table.endswith(out.with_suffix(".md").read_text())
    with pytest.raises(SystemExit, match="another number of evaluations"):
        compare_samplers.main(["--evaluations", "13", "--out", str(out)])


def test_a_course_is_kept_as_its_changes() -> None:
    course = compare_samplers.changes([0.1, 0.1, 0.5, 0.4, 0.4])
    assert course == [(1, 0.1), (3, 0.5), (4, 0.4)]
    found = [sampler_tables.value_after(course, n) for n in (1, 2, 3, 4, 9)]
    assert found == [0.1, 0.1, 0.5, 0.4, 0.4]


def test_a_level_is_reached_once_the_course_stays_there() -> None:
    course = [(1, 0.1), (3, 0.5), (4, 0.2), (6, 0.4), (9, 0.45)]
    reached = [sampler_tables.evaluations_until(course, level) for level in (0.1, 0.4, 0.45, 0.5)]
    assert reached == [1, 6, 9, float("inf")]


def test_the_table_stops_a_search_where_the_callback_would() -> None:
    landscape = load_landscape("synthetic3-0")
    line = {"evaluations": 60, **compare_samplers.search("BioTune", landscape, 0, 60)}
    noise = np.random.default_rng([landscape.n_blocks, 0])
    names = [f"block{index:02d}" for index in range(landscape.n_blocks)]

    def objective(trial: optuna.Trial) -> float:
        genes = compare_samplers.suggested_genes(trial, names, False)
        assert genes is not None
        value = float(landscape.true_values(genes[None])[0])
        return value + landscape.noise * noise.standard_normal()

    study = optuna.create_study(direction="maximize", sampler=BioTuneSampler(seed=0))
    study.optimize(objective, n_trials=60, callbacks=[StopOnPlateau()])
    assert sampler_tables.stopped_after(line, 1.0) == len(study.trials) < 60


def test_ranks_are_shared_by_ties_and_average_over_landscapes() -> None:
    values = {
        "a": np.asarray([[[3.0]], [[1.0]]]),
        "b": np.asarray([[[2.0]], [[1.0]]]),
        "c": np.asarray([[[1.0]], [[0.0]]]),
    }
    ranks = sampler_tables.mean_ranks(values)
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
