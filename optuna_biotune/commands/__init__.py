"""What the commands of ``optuna-biotune`` do. Only :mod:`.tune` and :mod:`.predict` need torch."""
