"""What a kill leaves: nobody says a last word."""

import pytest

from fedapp.records.folder import RunFolder
from tests.federation import Killed


@pytest.fixture(autouse=True)
def _a_kill_says_nothing(monkeypatch):
    """What a run folder says of a run that ends: nothing at all where it is killed."""
    end = RunFolder.__exit__

    def last_word(folder, kind, error, trace):
        if kind is not Killed:
            end(folder, kind, error, trace)
        else:
            folder._hold.close()

    monkeypatch.setattr(RunFolder, "__exit__", last_word)
