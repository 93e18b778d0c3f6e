"""Show the live table of a running system: `user status`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live

from user_bringup.monitor import render


def main(argv: Sequence[str]) -> int:
    """Show it once, or until Ctrl-C; exit code 1 when nothing is heard."""
    parser = argparse.ArgumentParser(prog="user status", description=__doc__)
    parser.add_argument("--watch", action="store_true", help="go on until Ctrl-C")
    parser.add_argument("--wait", type=float, default=3.0, help="seconds to listen before showing")
    arguments = parser.parse_args(argv)
    from user_bringup.nodes.monitor import Monitor

    console = Console()
    with Monitor() as monitor:
        if arguments.watch:
            with Live(console=console) as live:
                while True:
                    with monitor.lock:
                        live.update(render(monitor.state, "user status"))
                    time.sleep(0.5)
        time.sleep(arguments.wait)
        with monitor.lock:
            console.print(render(monitor.state, "user status"))
            heard = monitor.state.actors or monitor.state.replays or monitor.state.learners
    return 0 if heard else 1
