"""``python -m optuna_biotune``: the command line."""

from optuna_biotune.cli import main

if __name__ == "__main__":
    main()
