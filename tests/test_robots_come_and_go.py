"""Robots of two kinds learn one policy, die, and are replaced by others, while the learner goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from user_learner.replay import StoreReader
from user_testing.ports import free_endpoint
from user_testing.waiting import wait_until
from user_testing.worlds.fleets.deployment import DeploymentRun

pytestmark = [pytest.mark.timeout(420), pytest.mark.slow]

DEPLOYMENTS = Path(__file__).parents[1] / "src/user_bringup/config/deployments"
COMMON = ("task:=reach", "algorithm:=rlpd_arms", "standby:=false")


def robots_of(run: DeploymentRun) -> dict[str, int]:
    """Rows in the store of a run, by robot."""
    if not (run.folder / "replay" / "index.sqlite").exists():
        return {}
    rows: dict[str, int] = {}
    with closing(StoreReader(run.folder / "replay")) as reader:
        for episode in reader.episodes():
            rows[episode.robot] = rows.get(episode.robot, 0) + episode.rows
    return rows


def newest_of(run: DeploymentRun, robot: str) -> dict[str, float]:
    """What the run's history said last of a robot; nothing while it is silent."""
    lines = (run.folder / "history.jsonl").read_text().splitlines()
    for text in reversed(lines):
        line = json.loads(text) if text.endswith("}") else {}
        if line.get("kind") == "state":
            return line.get("robots", {}).get(robot, {})
    return {}


def test_a_robot_dies_and_another_kind_takes_its_place(tmp_path, start_process, ros_domain):
    endpoint = f"policy_endpoint:={free_endpoint()}"

    def up(deployment: str, run: str, *words: str) -> DeploymentRun:
        command = [
            "user", "up", str(DEPLOYMENTS / f"{deployment}.yaml"), *COMMON, endpoint, *words,
            "--runs", str(tmp_path), "--run", run, "--no-table",
        ]  # fmt: skip
        process = start_process(command, stdout=subprocess.DEVNULL, env=dict(os.environ))
        return DeploymentRun(tmp_path / run, process)

    def joined(name: str, kind: str, number: int) -> DeploymentRun:
        space = f"embodiment:={{space: tool_delta, id: {number}}}"
        return up("join", name, f"name:={name}", f"robot:={kind}", space, f"seed:={number}")

    first = up("sim_single", "learning", "embodiment:={space: tool_delta, id: 0}")
    first.until(lambda: first.number("policy_version") >= 1, "the learner trains")
    learner, replay = first.pid("learner"), first.pid("replay")

    def arrives(run: DeploymentRun, name: str) -> None:
        wait_until(lambda: robots_of(first).get(name, 0) > 60, f"{name} collects")
        wait_until(
            lambda: newest_of(first, name).get("version", 0) >= 1, f"{name} acts by the policy", 60
        )

    dying = joined("robot1", "ur5e", 1)
    arrives(dying, "robot1")

    processes = [dying.pid("hal"), dying.pid("actor")]
    assert all(processes)
    for pid in (dying.process.pid, *processes):  # its whole host
        os.kill(pid, signal.SIGKILL)
    before = first.number("update")
    wait_until(lambda: not newest_of(first, "robot1"), "robot1 is silent")
    rows = robots_of(first)["robot1"]

    arrives(joined("robot2", "panda", 0), "robot2")
    first.until(lambda: first.number("update") > before, "training goes on")
    assert (first.pid("learner"), first.pid("replay")) == (learner, replay), "restarted by nobody"
    collected = robots_of(first)
    assert collected.keys() == {"robot0", "robot1", "robot2"}
    assert collected["robot1"] == rows, "what it brought stays"
    with closing(StoreReader(first.folder / "replay")) as reader:
        assert reader.schema is not None
        assert reader.schema.columns["observation.joints"].size == 8
