"""hal and actor as processes: steps begin with observations that are there."""

from __future__ import annotations

import re
from pathlib import Path

from user_testing.processes import NodeProcess
from user_testing.worlds.acting import GraphProbe

STEPS = 60


def test_steps_do_not_wait_for_a_reading_that_takes_its_time(
    tmp_path: Path, ros_domain: int
) -> None:
    """A grid that begins with the answer to the reset comes before each reading, which takes a fifth of a period."""
    params = {
        "period_s": 0.05,
        "read_s": 0.01,
        "noise": False,
        "log_file": str(tmp_path / "driver"),
    }
    robot = {"plugin": "user_testing.worlds.remote_parts:PictureRobot", "params": params}
    actor = {
        "policy": {"plugin": "linear_gaussian"},
        "outbox": {"directory": str(tmp_path / "outbox")},
        "loop": {
            "max_episode_steps": 30,
            "exploration": {"before_first_version": "initial"},
        },
    }
    probe = GraphProbe()
    nodes = [
        NodeProcess("user_hal.nodes.hal", {"robot": robot}, tmp_path),
        NodeProcess("user_actor.nodes.actor", actor, tmp_path),
    ]
    try:
        for node in nodes:
            node.start()
        probe.until(lambda: probe.actor and probe.actor.steps >= STEPS, "it acts")
        said = probe.actor
        assert said is not None
        found = re.search(r"(\d+) steps began without a newer observation", str(said.warnings))
        waited = int(found[1]) if found else 0
        assert waited <= said.steps // 2, f"{waited} of {said.steps}"
    finally:
        for node in nodes:
            node.close()
        probe.close()
