"""What every test starts from: one thread, as two test processes share two cores, and known trees."""

import copy
import os
import re

import pytest
import yaml

# Read when NumPy and torch are loaded: with two threads each, two processes wait for one another (an SVD
# of 416 columns took 20 s instead of .3 s).
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

# Settings at the top of the tree that nothing else in it refers to (as some do to seed), in plain digits.
NUMBERS = "num_clients|num_rounds|clients_per_round|round_timeout|join_timeout"
PLAIN = re.compile(rf"(run_dir)=(/[\w/.-]+)|({NUMBERS})=(\d+(?:\.\d+)?)")


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _hydra_remembers():
    """Let Hydra read each file and put each choice of groups together once in a test process."""
    from tests.hydra_memory import texts_read_once, trees_composed_once

    with texts_read_once(), trees_composed_once():
        yield


@pytest.fixture(autouse=True, scope="session")
def _compose_each_tree_once():
    """Let Hydra compose each tree of conf/ once in a test process: it took half of every toy run.

    A run folder and a few numbers stand in the tree as they were given, so they are put in afterwards.
    Trees that cannot be composed, and those of another conf/, are left to Hydra each time.
    """
    from fedapp.config import compose
    from fedapp.core import files

    by_hydra, conf, known = compose._compose, files.CONF, {}

    def remembered(overrides):
        if conf != files.CONF:
            return by_hydra(overrides)
        plain = [PLAIN.fullmatch(text) for text in overrides]
        read = {text.partition("=")[0] for text, found in zip(overrides, plain, strict=True) if not found}
        later = {found[1] or found[3]: found[2] or yaml.safe_load(found[4]) for found in plain if found}
        later = {key: value for key, value in later.items() if key not in read}
        words = tuple(text for text in overrides if text.partition("=")[0] not in later)
        if words not in known:
            known[words] = by_hydra(words)
        return {**copy.deepcopy(known[words]), **later}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_compose", remembered)
        yield
