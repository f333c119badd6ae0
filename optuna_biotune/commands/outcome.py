"""What a search came to: test metrics of the best plan and of the usual ones, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from optuna_biotune.genotype import FineTuningPlan
from optuna_biotune.recipe import Recipe

# Multipliers from which on a rate is said to lie at an end of what plans have, 0.1 to 10.
_NEAR_LEAST, _NEAR_GREATEST = 0.12, 9.0

METRICS = {"accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy"}


@dataclass(frozen=True)
class PlanResult:
    """A plan that was trained on all training images and measured on the test images.

    Attributes:
        title: What to call the plan.
        plan: The plan.
        metrics: Metric name to mean and standard deviation over the networks.
        epochs: Number of epochs that it trained for.
        trained_parameters: How many numbers it trains.
    """

    title: str
    plan: FineTuningPlan
    metrics: Mapping[str, tuple[float, float]]
    epochs: int
    trained_parameters: int

    def shown(self, metric: str) -> str:
        """Write the mean and standard deviation of a metric."""
        mean, deviation = self.metrics[metric]
        return f"{mean:.3f} ± {deviation:.3f}"

    @property
    def shown_parameters(self) -> str:
        """Write how many parameters it trains."""
        number = self.trained_parameters
        if number >= 1_000_000:
            return f"{number / 1e6:.1f} M"
        return f"{number / 1e3:.0f} k" if number >= 10_000 else f"{number:,}"


def show_results(console: Console, results: Sequence[PlanResult], n_images: int) -> None:
    """Print a table of plans; the last one is the best of the search.

    Args:
        console: Where to print.
        results: The plans.
        n_images: Number of test images.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column(f"On {n_images} test images", no_wrap=True)
    for heading in (*METRICS.values(), "Trained parameters"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            result.title,
            *(result.shown(metric) for metric in METRICS),
            result.shown_parameters,
            style="bold" if result is results[-1] else None,
        )
    console.print(table)


def show_plan(console: Console, recipe: Recipe) -> None:
    """Print the learning rate of each block.

    Args:
        console: Where to print.
        recipe: The recipe of the plan.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("Block")
    table.add_column("Learning rate", justify="right")
    for block, rate in recipe.learning_rates.items():
        table.add_row(block, f"{rate:.2g}" if rate else "[dim]frozen[/dim]")
    console.print()
    console.print(table)
    console.print(
        f"trained for {recipe.epochs} epochs, of a schedule of {recipe.schedule_epochs}\n",
        highlight=False,
    )
    advice = rate_advice(recipe)
    if advice is not None:
        console.print(f"{advice}\n", highlight=False)


def rate_advice(recipe: Recipe) -> str | None:
    """Return advice on the base learning rate, if most rates are at an end of what plans have.

    Args:
        recipe: The recipe of the plan.
    """
    trained = [rate for rate in recipe.plan.multipliers.values() if rate > 0.0]
    n_least = sum(rate <= _NEAR_LEAST for rate in trained)
    n_greatest = sum(rate >= _NEAR_GREATEST for rate in trained)
    if 2 * max(n_least, n_greatest) <= len(trained):
        return None
    end, factor = ("greatest", 10.0) if n_greatest > n_least else ("least", 0.1)
    return (
        f"Most of these rates are about the {end} that a plan has, {factor:g} times --lr: a search "
        f"with --lr {recipe.lr * factor**0.5:.1g} may find better ones."
    )
