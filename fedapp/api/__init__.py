"""fedapp from Python: what ``import fedapp`` offers (docs/python.md)."""

from fedapp.api.comparison import compare as compare
from fedapp.api.results import Adapter as Adapter
from fedapp.api.results import Run as Run
from fedapp.api.results import load as load
from fedapp.api.running import run as run
from fedapp.api.sweeps import Sweep as Sweep
from fedapp.api.sweeps import SweepFailed as SweepFailed
from fedapp.api.sweeps import sweep as sweep
from fedapp.config.build import ConfigError as ConfigError
from fedapp.engines.job import RunFailed as RunFailed
