"""What every test starts from: one thread, as two test processes share two cores."""

import os

import pytest

# Read when NumPy and torch are loaded: with two threads each, two processes wait for one another (an SVD
# of 416 columns took 20 s instead of .3 s).
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
