"""The fabric of local mode as a program: reads its configuration, makes the roles, runs them until the deployment ends."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

from constellation.core.errors import ConstellationError
from constellation.core.finding import Stated, refuse_different
from constellation.core.plugins import make_plugin_manager
from constellation.fabric import keeper
from constellation.fabric.deployment import Deployment
from constellation.fabric.loop import Loop
from constellation.fabric.signals import Signals


def main(config_fd: int) -> int:
    """Blocks. Run the fabric of one deployment.

    Args:
        config_fd: Descriptor of the configuration, JSON from its start; read and closed.

    Returns:
        The exit code of the run.
    """
    with open(config_fd, "rb") as file:
        config: dict[str, Any] = json.load(file)
    for fd in config["fds"].values():
        if fd >= 0:
            os.set_inheritable(fd, False)
    # Plugins are found where the program finds its modules; ours and the standard library's go first.
    sys.path += [folder for folder in config["sys_path"] if folder not in sys.path]
    keeper.become_subreaper()
    file_limit = raise_file_limit()
    try:
        plugins = make_plugin_manager(config["plugins"], config["plugin_options"], clock=time.monotonic)
        refuse_different([Stated(*each) for each in config.get("stated", ())], plugins.stated(), "the fabric")
        return Deployment(Loop(), config, plugins, file_limit).run()
    except ConstellationError as error:
        sys.stderr.write(f"constellation: {error}\n")
        return 1
    finally:
        Signals.block()


def raise_file_limit() -> tuple[int, int]:
    """Allow as many descriptors as the system does (five for each process); give the limits as they were."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft, hard
    return soft, hard
