"""Functions of a genotype to compare samplers on: recorded from real training, and synthetic."""
