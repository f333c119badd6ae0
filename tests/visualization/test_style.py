"""How all plots look."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from optuna_biotune import BioTuneSampler, visualization
from optuna_biotune.visualization._trials import planned_trials
from tests.synthetic_study import synthetic_study
from tests.visualization.plots import PLOTS, Plot, first_value, trace


def test_hover_text_has_number_generation_origin_and_plan(study: optuna.Study) -> None:
    child = next(
        one for one in planned_trials(study) if one.tag.role == "offspring" and one.is_complete
    )
    first, second = child.tag.parents
    text = child.describe()
    assert f"trial {child.number}, generation {child.generation}" in text
    assert f"offspring of {first} and {second}" in text
    for name, rate in child.plan.multipliers.items():
        assert (f"{name} {rate:.2g}" if rate else f"{name} frozen") in text
    assert text in trace(visualization.plot_lineage(study), "offspring").customdata


@pytest.mark.parametrize("plot", PLOTS)
def test_titles_axes_and_height_are_set(plot: Plot, study: optuna.Study) -> None:
    layout = plot(study).layout
    assert layout.height == 450
    assert layout.title.text.startswith("<b>")
    assert layout.template.layout.to_plotly_json() == {}
    axes = layout.to_plotly_json()
    for letter in "xy":
        titles = [axes[name].get("title", {}) for name in axes if name.startswith(f"{letter}axis")]
        assert any("text" in title for title in titles)


@pytest.mark.parametrize("plot", PLOTS)
def test_a_thousand_trials_are_plotted_within_seconds(plot: Plot, large: optuna.Study) -> None:
    assert plot(large).data


def test_plots_need_no_torch() -> None:
    code = "import sys, optuna_biotune\nprint(optuna_biotune.visualization.__all__)\n"
    code += "print('torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split()[-1] == "False"


@pytest.mark.browser
@pytest.mark.timeout(120)
def test_every_plot_of_every_study_is_drawn_by_a_browser(
    study: optuna.Study,
    minimised: optuna.Study,
    front: optuna.Study,
    large: optuna.Study,
    tmp_path: Path,
) -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    import plotly.io as pio
    from PIL import Image

    single = synthetic_study(1, sampler=BioTuneSampler(seed=0))
    figures = {
        f"{name}_{plot.__name__}": plot(of, **({} if name != "front" else {"target": first_value}))
        for name, of in {"study": study, "minimised": minimised, "front": front}.items()
        for plot in PLOTS
        if name != "front" or plot is not visualization.plot_best_plan
    }
    figures |= {f"large_{plot.__name__}": plot(large) for plot in PLOTS}
    figures["front_plot_best_plan"] = visualization.plot_best_plan(front)
    figures["study_generations"] = visualization.plot_plans(study, by="generation")
    figures["single_plot_evolution"] = visualization.plot_evolution(single)
    figures["single_plot_plans"] = visualization.plot_plans(single)
    paths = [tmp_path / f"{name}.png" for name in figures]
    pio.write_images(list(figures.values()), paths, width=900, height=450)
    for path in paths:
        picture = Image.open(path).convert("RGB")
        assert picture.size == (900, 450)
        colors = picture.getcolors(maxcolors=900 * 450)
        assert colors is not None and len(colors) > 100, f"{path.name} is nearly empty"
