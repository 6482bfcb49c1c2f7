"""What every test starts from: one thread, as two test processes share two cores, and known trees."""

import copy
import os
import re

import pytest

# Read when NumPy and torch are loaded: with two threads each, two processes wait for one another (an SVD
# of 416 columns took 20 s instead of .3 s).
for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

PLAIN_PLACE = re.compile(r"run_dir=(/[\w/.-]+)")


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _compose_each_tree_once():
    """Let Hydra compose each tree of conf/ once in a test process: it took half of every toy run.

    A run folder is the test's own and stands in the tree as it was given, so it is put in afterwards.
    Trees that cannot be composed, and those of another conf/, are left to Hydra each time.
    """
    from fedapp.config import compose
    from fedapp.core import files

    by_hydra, conf, known = compose._compose, files.CONF, {}

    def remembered(overrides):
        places = [text for text in overrides if text.startswith("run_dir=")]
        place = PLAIN_PLACE.fullmatch(places[0]) if len(places) == 1 else None
        words = tuple(text for text in overrides if not place or text != places[0])
        if conf != files.CONF or (places and not place):
            return by_hydra(overrides)
        if words not in known:
            known[words] = by_hydra(words)
        tree = copy.deepcopy(known[words])
        return {**tree, "run_dir": place[1]} if place else tree

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_compose", remembered)
        yield
