"""Program: a scheduler of a fleet, without ROS.

    fleet_scheduler FILE ENDPOINT [--credentials DIR] [--take-over SECONDS] [--lease SECONDS]

Prints a line when it begins to work or to stand by, and what was refused, when that is new.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path

from user_comm.net.sessions import ZenohConfig, open_session
from user_core.command_line import Parser
from user_fleet.presence.running import WorkingScheduler
from user_fleet.scheduling.scheduler import SchedulerConfig


def main() -> None:
    parser = Parser()
    parser.add_argument("file", type=Path)
    parser.add_argument("endpoint")
    parser.add_argument("--credentials", default="")
    parser.add_argument("--take-over", type=float, default=3.0)
    parser.add_argument("--lease", type=float, default=30.0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    config = ZenohConfig(
        connect=(arguments.endpoint,), credentials=arguments.credentials, shared_memory=False
    )
    work = WorkingScheduler(
        arguments.file,
        lambda: open_session(config, ending),
        decide=SchedulerConfig(lease_s=arguments.lease),
        take_over_s=arguments.take_over,
    )
    said: set[object] = set()
    worked = None
    while not ending.wait(0.2):  # as the node does
        why = work.step()
        if work.works != worked:
            worked = work.works
            print("works" if worked else f"stands by: {why}", flush=True)
        for key in set(work.hosts.refused) - said if work.hosts is not None else ():
            said.add(key)
            print("refused", *key, flush=True)
    work.close()


if __name__ == "__main__":
    sys.exit(main())
