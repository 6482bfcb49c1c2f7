"""``fedapp run --multirun``: many runs, one folder."""
