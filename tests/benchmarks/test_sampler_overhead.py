from __future__ import annotations

import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
import pytest
from filled_studies import SAMPLERS, History, parameter_names, run_history, run_trial, store
from optuna.storages import InMemoryStorage
from sampler_overhead import comparisons, main, summary

from optuna_biotune import make_storage


def next_trial(study: optuna.Study, n_params: int) -> dict[str, Any]:
    run_trial(study, parameter_names(n_params))
    return study.trials[-1].params


@pytest.mark.parametrize("sampler", ["BioTune", "BioTune, paper", "CMA-ES", "NSGA-II", "random"])
def test_a_stored_history_is_gone_on_from_as_though_it_had_not_been_stored(
    tmp_path: Path, sampler: str
) -> None:
    history = run_history(sampler, 120, 3).first(110)
    file = make_storage(tmp_path / "study.db", heartbeat_interval=None)
    store(run_history("random", 5, 3), file, "another study", "random")
    stored = store(history, file, "study", sampler)
    remembered = store(history, InMemoryStorage(), "study", sampler)

    assert len(stored.trials) == len(remembered.trials) == 110
    for one, other, original in zip(stored.trials, remembered.trials, history.trials, strict=True):
        assert one.params == other.params == original.params
        assert one.value == other.value == original.value
        assert one.system_attrs == other.system_attrs == original.system_attrs
    assert next_trial(stored, 3) == next_trial(remembered, 3)


def test_a_history_holds_the_parents_of_the_generations_that_had_begun() -> None:
    history = run_history("NSGA-II", 110, 2)

    def generations(n_trials: int) -> list[str]:
        return [key.rpartition(":")[2] for key in history.first(n_trials).parents]

    assert generations(50) == []
    assert generations(51) == generations(100) == ["1"]
    assert generations(110) == ["1", "2"]


READING = {"sampler.py", "study_reader.py", "generations.py"}


def calls_that_read(study: optuna.Study, n_trials: int) -> int:
    """Count the calls of the functions that read a study, while some trials run."""
    n_calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal n_calls
        path = Path(frame.f_code.co_filename)
        n_calls += event == "call" and path.parent.name == "optuna_biotune" and path.name in READING

    sys.setprofile(count)
    try:
        for _ in range(n_trials):
            run_trial(study, parameter_names(3))
    finally:
        sys.setprofile(None)
    return n_calls


@pytest.fixture(scope="module")
def long_history() -> History:
    return run_history("BioTune, paper", 10 + 13 * 60, 3)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_proposal_reads_as_little_after_many_trials_as_after_few(
    long_history: History, tmp_path: Path, in_memory: bool
) -> None:
    calls = []
    for n_generations in (6, 60):
        storage = (
            InMemoryStorage()
            if in_memory
            else make_storage(tmp_path / f"{n_generations}.db", heartbeat_interval=None)
        )
        history = long_history.first(10 + 13 * n_generations)
        study = store(history, storage, "study", "BioTune, paper")
        run_trial(study, parameter_names(3))  # A sampler that joins a study reads all of it.
        calls.append(calls_that_read(study, 5))

    assert calls[0] > 0
    assert calls[1] < 1.3 * calls[0]


def test_the_benchmark_times_every_sampler_and_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "overhead.json"
    options = "--sizes 30 12 --params 3 --storages memory sqlite --repetitions 2"
    main([*options.split(), "--out", str(out)])

    result = json.loads(out.read_text())
    rows = {(r["storage"], r["sampler"], r["n_trials"]) for r in result["results"]}
    assert rows == {(s, n, t) for s in ("memory", "sqlite") for n in SAMPLERS for t in (12, 30)}
    assert all(r["median_ms"] > 0.0 and r["repetitions"] == 2 for r in result["results"])
    assert result["versions"]["optuna"] == optuna.__version__
    assert [c["storage"] for c in result["comparisons"]] == ["memory"] * 2 + ["sqlite"] * 2
    printed = capsys.readouterr().out
    assert "| storage | parameters | sampler | 12 | 30 | processor, 12 | processor, 30 |" in printed
    for row in result["results"]:
        assert f"{row['median_ms']:.2f}" in printed


def test_times_are_compared_at_the_largest_and_the_smallest_number_of_trials() -> None:
    # Wall and processor time after 100, and after 10,000 trials.
    times = {
        "random": ((9.0, 1.0), (9.0, 1.5)),
        "BioTune": ((10.0, 2.0), (12.0, 3.0)),
        "NSGA-II": ((10.0, 4.0), (24.0, 11.5)),
    }
    rows = [
        {"storage": "memory", "n_params": 8, "sampler": name, "n_trials": size}
        | {"median_ms": ms, "processor_ms": processor}
        for name, of_sizes in times.items()
        for size, (ms, processor) in zip((100, 10_000), of_sizes, strict=True)
    ]

    assert comparisons(rows) == [
        {
            "storage": "memory",
            "n_params": 8,
            "sampler": "BioTune",
            "of_nsga2": 0.5,
            "added_of_nsga2": 0.15,
            "growth": 1.5,
        }
    ]


def test_the_summary_is_in_milliseconds() -> None:
    assert summary([(0.001, 0.0), (0.002, 0.001), (0.009, 0.002)]) == {
        "median_ms": 2.0,
        "mean_ms": 4.0,
        "p90_ms": 2.0,
        "processor_ms": 1.0,
        "repetitions": 3,
    }


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--sizes", "0", "`--sizes` must be at least 1, but got [0]"),
        ("--params", "1", "`--params` must be at least 2, but got [1]"),
        ("--repetitions", "0", "`--repetitions` must be at least 1, but got 0"),
    ],
)
def test_an_option_out_of_range_is_named(
    tmp_path: Path, option: str, value: str, message: str
) -> None:
    with pytest.raises(SystemExit, match=message.replace("[", r"\[").replace("]", r"\]")):
        main([option, value, "--out", str(tmp_path / "overhead.json")])


@pytest.mark.services
@pytest.mark.slow
def test_workers_share_a_study_without_errors_or_duplicates(
    tmp_path: Path, postgresql_url: str
) -> None:
    import worker_throughput

    out = tmp_path / "throughput.json"
    options = ["--workers", "1", "4", "--seconds", "3", "--out", str(out)]
    worker_throughput.main([*options, "--postgresql", postgresql_url])

    rows = json.loads(out.read_text())["results"]
    assert [(row["workers"], row["sampler"]) for row in rows] == [
        (n, sampler) for n in (1, 4) for sampler in ("random", "BioTune", "BioTune, paper")
    ]
    for row in rows:
        assert row["complete"] > 0
        assert (row["failed"], row["unfinished"], row["duplicates"]) == (0, 0, 0)
        assert 0.0 < row["share_of_ideal"] <= 1.0
