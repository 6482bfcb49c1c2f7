"""Whether this machine has what a simulated client is to reserve."""

from __future__ import annotations

import os

from fedapp.config.build import ConfigError
from fedapp.config.run import RunSettings


def check_resources(settings: RunSettings) -> None:
    """Refuse what Flower's simulation engine would wait for in vain.

    Only for who is about to start that engine here: the server of a deployment composes the same
    settings, on a machine on which no client runs.

    Raises:
        ConfigError: If a client is to reserve more CPU cores or GPUs than there are here.
    """
    asked, there = settings.num_cpus_per_client, os.cpu_count() or 1
    if asked > there:
        cores = "CPU core" if there == 1 else "CPU cores"
        raise ConfigError(f"num_cpus_per_client={asked} must not exceed this machine's {there} {cores}")
    if settings.num_gpus_per_client > 0:
        import torch  # takes seconds, and most runs reserve none

        visible = torch.cuda.device_count()
        if settings.num_gpus_per_client > visible:
            seen = f"the {visible} visible here" if visible else "0: no GPU is visible here"
            raise ConfigError(f"num_gpus_per_client={settings.num_gpus_per_client} must not exceed {seen}")
