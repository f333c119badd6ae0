"""The command line: ``optuna-biotune tune``, ``report``, ``export`` and ``predict``.

Modules that load torch or Optuna are imported by the commands that need them, so that
``optuna-biotune --help`` answers at once.
"""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console

import optuna_biotune

PROGRAM = "optuna-biotune"

_UsageError: Any = typer.BadParameter.__base__  # click's, wherever typer keeps it

app = typer.Typer(
    name=PROGRAM,
    help="Find out which blocks of a pre-trained network to freeze, and how fast to train the "
    "others: on your images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Storage = Annotated[
    str,
    typer.Option(
        metavar="URL",
        help="Database of the trials: a SQLite file, or a URL of SQLite, PostgreSQL or MariaDB.",
    ),
]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="auto (CUDA if there is any), cpu, cuda or cuda:1.")
]

_DEFAULT_STORAGE = "sqlite:///biotune.db"
_DEFAULT_OUTPUT = Path("biotune")  # as in commands.files, which is not loaded for --help
_STOPPED = 130  # what shells make of SIGINT


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {optuna_biotune.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def tune(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA_DIR",
            show_default=False,
            help="One folder of images for each class; or folders train, val and test of such.",
        ),
    ],
    network: Annotated[
        str,
        typer.Option(metavar="NAME", help="A classifier of torchvision, or of timm as timm:NAME."),
    ] = "resnet50",
    trials: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Trials of the search, those of other workers included."
        ),
    ] = 60,
    storage: Storage = _DEFAULT_STORAGE,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default="made of DATA_DIR and the network", help="Study's name."
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for recipe, weights and report.")
    ] = _DEFAULT_OUTPUT,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="the library's",
            help="Pre-trained weights of the network: a state_dict, .safetensors or .pth.",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            show_default="that of the weights",
            help="Height and width of the network's input, in pixels.",
        ),
    ] = None,
    epochs: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Most epochs that a trial trains for."),
    ] = 30,
    seeds: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Networks that each trial trains, with different seeds."
        ),
    ] = 3,
    lr: Annotated[
        float, typer.Option(metavar="RATE", help="Base learning rate, which plans multiply.")
    ] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Images a step.")] = 64,
    device: Device = "auto",
) -> None:
    """Search for the best plan for a folder of images, and train the network by it.

    Stop it with Ctrl-C at any time: the same command goes on from there.

    Run it several times at once, on several machines too, and they share the trials.

    Each of them trains the final networks: give each an --output of its own.
    """
    try:
        from optuna_biotune.commands.tune import TuneOptions
        from optuna_biotune.commands.tune import tune as run

        options = TuneOptions(
            data=data,
            network=network,
            weights=weights,
            image_size=image_size,
            storage=storage,
            study=study,
            trials=trials,
            epochs=epochs,
            seeds=seeds,
            lr=lr,
            batch_size=batch_size,
            device=device,
            output=output,
        )
        run(options, Console())
    except KeyboardInterrupt:
        typer.echo(f"{PROGRAM}: stopped; the same command goes on from here.", err=True)
        raise typer.Exit(_STOPPED) from None


@app.command()
def report(
    storage: Storage = _DEFAULT_STORAGE,
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default="the only one", help="Name of the study."),
    ] = None,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The HTML file to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Draw a study, finished or still running, in one HTML file that needs no internet."""
    from optuna_biotune.commands.report import write_report
    from optuna_biotune.commands.study import read_study

    write_report(read_study(storage, study), output)
    typer.echo(f"Written to {output}.")


@app.command()
def export(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="RECIPE", help="The recipe.json that tune wrote, or its folder."),
    ] = _DEFAULT_OUTPUT,
    to: Annotated[
        str, typer.Option(metavar="NAME", help="torch, timm, lightning or transformers.")
    ] = "torch",
) -> None:
    """Print code that trains by a recipe and does not need optuna-biotune."""
    from optuna_biotune.commands.files import read_recipe
    from optuna_biotune.export import export_code

    typer.echo(export_code(read_recipe(recipe), to), nl=False)


@app.command()
def predict(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", show_default=False, help="Image files.")
    ],
    model: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder that tune wrote to.")
    ] = _DEFAULT_OUTPUT,
    device: Device = "auto",
) -> None:
    """Classify images with the network that tune has trained."""
    from optuna_biotune.commands.predict import predict as run

    for line in run(images, model, device):
        typer.echo(line)


def main() -> None:
    """Run the command line; ends the process.

    Exit status: 0; 1 if something cannot be done; 2 if the command is wrong; 130 if stopped.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    # Pillow takes large photographs for an attack; beyond twice that size it is an error.
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
    try:
        sys.exit(app(standalone_mode=False, prog_name=PROGRAM))
    except (KeyboardInterrupt, typer.Abort):
        _exit("stopped.", _STOPPED)
    except _UsageError as error:
        problem = error.format_message().rstrip(".")
        if not problem:  # Without any argument the help is shown already.
            sys.exit(2)
        command = error.ctx.command_path if error.ctx else PROGRAM
        _exit(f"{problem}: see {command} --help.", 2)
    except Exception as error:
        from optuna_biotune.commands.errors import explained

        message = explained(error)
        if message is None:
            raise
        _exit(message, 1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Let a polite kill do what Ctrl-C does."""
    raise KeyboardInterrupt


def _exit(message: str, status: int) -> None:
    """Print one line and end the process."""
    line = " ".join(message.split())
    print(f"{PROGRAM}: {line}", file=sys.stderr)
    sys.exit(status)
