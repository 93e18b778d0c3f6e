"""What there is to see: `user status`, `user report`, `user version`."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.live import Live

from user_bringup.monitor import render
from user_core.command_line import Parser
from user_fleet.processes import find_standbys


def status(argv: Sequence[str]) -> int:
    """Show the live table of a running system.

    Once, or until Ctrl-C with ``--watch``. Exit code 1 when nothing is heard.
    """
    parser = Parser(prog="user status", description=status.__doc__)
    parser.add_argument("--watch", action="store_true", help="go on until Ctrl-C")
    parser.add_argument("--wait", type=float, default=3.0, help="seconds to listen before showing")
    arguments = parser.parse_args(argv)
    from user_bringup.nodes.monitor import Monitor

    console = Console()
    with Monitor() as monitor:
        if arguments.watch:
            with Live(console=console) as live:
                while True:
                    standbys = find_standbys()
                    with monitor.lock:
                        monitor.state.standbys = standbys
                        live.update(render(monitor.state, "user status"))
                    time.sleep(0.5)
        time.sleep(arguments.wait)
        with monitor.lock:
            monitor.state.standbys = find_standbys()
            console.print(render(monitor.state, "user status"))
            heard = monitor.state.actors or monitor.state.replays or monitor.state.learners
    if not heard:
        where = "user status: nothing is heard; is ROS_DOMAIN_ID the one in which it runs?"
        print(where, file=sys.stderr)
    return 0 if heard else 1


def report(argv: Sequence[str]) -> int:
    """Draw the report of a run: plots and figures, as a page of Markdown."""
    parser = Parser(prog="user report", description=report.__doc__)
    parser.add_argument("run", type=Path, help="folder of the run, runs/<id>")
    arguments = parser.parse_args(argv)
    from user_bringup.report import write_report  # matplotlib takes a second to import

    print(write_report(arguments.run))
    return 0


_PACKAGES = (
    "user_core", "user_comm", "user_hal", "user_actor", "user_learner", "user_fleet",
    "user_bringup", "numpy", "torch", "mujoco", "gymnasium", "eclipse-zenoh",
)  # fmt: skip


def version_of_all(argv: Sequence[str]) -> int:
    """Say which version of USER this is, and what it runs on."""
    parser = Parser(prog="user version", description=version_of_all.__doc__)
    parser.parse_args(argv)
    print(f"{'Python':<16}{platform.python_version()}")
    print(f"{'ROS 2':<16}{os.environ.get('ROS_DISTRO', 'not sourced')}")
    for name in _PACKAGES:
        try:
            print(f"{name:<16}{version(name)}")
        except PackageNotFoundError:
            print(f"{name:<16}not installed")
    return 0
