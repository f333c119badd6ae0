from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from comparison import Setting
from report import markdown, mean_and_deviation, read_results
from run_target import RESULTS, command_line, command_of, main, setting_of

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.image_set_files import write_usps

REFITS = [
    "BioTune",
    "linear probe",
    "linear probe, tuned rate",
    "full fine-tuning",
    "full fine-tuning, tuned rate",
]


def run(data: Path, checkpoint: Path, out: Path, *options: str) -> dict[str, Any]:
    settings = "--size 16 --epochs 1 --max-train 24 --search-seeds 1 --refit-seeds 2 --device cpu"
    main(
        [
            *("--data", str(data), "--target", "isic8", "--checkpoint", str(checkpoint)),
            *("--out", str(out), *settings.split(), *options),
        ]
    )
    result: dict[str, Any] = json.loads((out / "isic8-small_resnet.json").read_text())
    return result


def without_seconds(result: dict[str, Any]) -> dict[str, Any]:
    kept = {name: result[name] for name in ("setting", "data", "checkpoint")}
    for name, refit in result["refits"].items():
        kept[name] = {key: value for key, value in refit.items() if key != "seconds"}
    return kept


@pytest.fixture(scope="module")
def whole_run(
    data: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """Results of twelve trials in one go, and where they are."""
    out = tmp_path_factory.mktemp("whole")
    return run(data, checkpoint, out, "--trials", "12"), out


def test_every_way_to_fine_tune_is_refitted_with_the_same_number_of_seeds(
    whole_run: tuple[dict[str, Any], Path],
) -> None:
    result, _ = whole_run

    assert list(result["refits"]) == REFITS
    for refit in result["refits"].values():
        assert set(refit["test"]) == {"balanced_accuracy", "accuracy", "macro_f1", "cohen_kappa"}
        assert all(len(values) == 2 for values in refit["test"].values())
    assert result["refits"]["linear probe"]["mask"] == "FFFFFT"
    assert result["refits"]["full fine-tuning"]["mask"] == "TTTTTT"
    assert result["search"]["complete"] + result["search"]["pruned"] == 12


def test_the_search_finds_a_plan_that_tells_three_colours_apart(
    whole_run: tuple[dict[str, Any], Path],
) -> None:
    result, _ = whole_run

    assert result["refits"]["BioTune"]["validation"] > 0.9


def test_tuned_baselines_are_chosen_by_their_validation_value(
    whole_run: tuple[dict[str, Any], Path],
) -> None:
    refits = whole_run[0]["refits"]

    for name in ("linear probe", "full fine-tuning"):
        tuned = refits[f"{name}, tuned rate"]
        assert tuned["mask"] == refits[name]["mask"]
        assert tuned["validation"] >= refits[name]["validation"]


def test_a_search_in_two_parts_gives_the_results_of_one(
    whole_run: tuple[dict[str, Any], Path], data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    whole, _ = whole_run
    run(data, checkpoint, tmp_path, "--trials", "11")

    resumed = run(data, checkpoint, tmp_path, "--trials", "12")

    assert without_seconds(resumed) == without_seconds(whole)


def test_the_results_name_no_path(
    whole_run: tuple[dict[str, Any], Path], data: Path, checkpoint: Path
) -> None:
    result, out = whole_run

    text = json.dumps(result)

    assert all(str(path) not in text for path in (data, checkpoint.parent, out))


def test_a_stored_search_is_not_continued_with_another_learning_rate(
    whole_run: tuple[dict[str, Any], Path], data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    _, out = whole_run
    shutil.copy(out / "isic8-small_resnet.db", tmp_path)

    with pytest.raises(SystemExit, match="made with other values of lr: give the same"):
        run(data, checkpoint, tmp_path, "--trials", "12", "--lr", "0.01")


def test_a_missing_checkpoint_is_pretrained_and_the_user_is_told(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.safetensors"

    # Too few source images for a batch of the default size: told before it fails.
    with pytest.raises(SystemExit, match="`batch_size` must be at most the number of training"):
        run(data, path, tmp_path, "--trials", "1", "--pretrain-epochs", "1")

    assert "pre-training small_resnet for 1 epochs" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--trials", "--search-seeds", "--refit-seeds"])
def test_options_below_one_are_refused_before_anything_is_read(
    option: str, data: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=f"`{option}` must be at least 1, but got 0"):
        run(data, checkpoint, tmp_path, option, "0")

    assert not list(tmp_path.iterdir())


def test_a_search_runs_on_a_set_of_the_paper(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_usps(tmp_path, monkeypatch)
    options = "--target paper-usps --trials 2 --epochs 1 --search-seeds 1 --refit-seeds 1"

    main(
        [
            *("--data", str(tmp_path), "--out", str(tmp_path), "--checkpoint", str(checkpoint)),
            *(*options.split(), "--size", "16", "--device", "cpu"),
        ]
    )

    result = json.loads((tmp_path / "paper-usps-small_resnet.json").read_text())
    sizes = {name: result["data"][name] for name in ("train", "val", "test", "classes")}
    assert sizes == {"train": 24, "val": 6, "test": 9, "classes": 3}
    assert result["data"]["shows"] == "handwritten digits"


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ("--network small_vgg", 32),
        ("--network resnet50", 224),
        ("--network inception_v3", 299),
        ("--network inception_v3 --size 96", 96),
    ],
)
def test_images_have_the_size_of_the_network_unless_told(options: str, size: int) -> None:
    setting = setting_of(command_line().parse_args(["--target", "isic8", *options.split()]))

    assert setting.size == size


def test_the_command_names_what_differs_from_the_defaults() -> None:
    setting = Setting(target="isic8", network="small_resnet", max_train=None, lr=1e-3)

    assert command_of(setting, 60) == (
        "python benchmarks/run_target.py --data DIR --target isic8 --network small_resnet "
        "--trials 60 --max-train 0 --lr 0.001"
    )


def test_the_table_holds_every_refit_with_mean_and_deviation(
    whole_run: tuple[dict[str, Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    result, out = whole_run

    main(["--table", "--out", str(out)])

    table = capsys.readouterr().out
    for name in REFITS:
        values = result["refits"][name]["test"]["balanced_accuracy"]
        row = next(line for line in table.splitlines() if line.startswith(f"| {name} |"))
        assert mean_and_deviation(values) in row


def test_the_deviation_is_that_of_a_sample() -> None:
    assert mean_and_deviation([0.5, 0.7]) == "0.600 ± 0.141"
    assert mean_and_deviation([0.5]) == "0.500 ± 0.000"


def test_the_tables_of_the_readme_are_those_of_the_committed_results() -> None:
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")

    assert markdown(read_results(RESULTS / "run_target")).strip() in readme
