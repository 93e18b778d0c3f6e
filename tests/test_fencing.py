"""Two actors for one robot, of which one is cut off and comes back: the robot obeys the newest grant only.

Whom it obeyed is read from the HAL's own log.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from user_msgs.msg import ActorStatus

from user_comm import topics
from user_core.runtime.processes.grants import GRANT_VARIABLE
from user_hal.runtime.obeyed import Obeyed, out_of_order, overlaps, read_obeyed
from user_testing.link_emulator import Host, Link, LinkQuality, unavailable
from user_testing.processes import NodeProcess
from user_testing.waiting import wait_until
from user_testing.worlds.acting import GraphProbe

pytestmark = pytest.mark.timeout(180)
HAL, ACTOR = "user_hal.nodes.hal", "user_actor.nodes.actor"


class Cell:
    """A robot whose HAL goes on for ever, and actors of several grants."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.states = folder, folder / "state"
        self.processes: list[NodeProcess] = []
        params = {"robot": {"plugin": "fake"}, "resource": "arm", "state_dir": str(self.states)}
        self.hal = self._add(HAL, params, "hal")

    def _add(self, module: str, params: dict[str, Any], name: str, **more: Any) -> NodeProcess:
        made = NodeProcess(module, params, self.folder, name, **more)
        self.processes.append(made)
        return made

    def actor(self, grant: int, *prefix: str, **env: str) -> NodeProcess:
        name = f"actor{grant}"
        params = {
            "name": name,
            "policy": {"plugin": "linear_gaussian"},
            "outbox": {"directory": str(self.folder / name)},
            "loop": {"exploration": {"before_first_version": "initial"}, "retry_s": 0.2},
            "lease": {"duration_s": 1.0, "retry_s": 0.2},
            "zenoh": {"connect": ["tcp/127.0.0.1:1"]},
        }
        made = self._add(
            ACTOR, params, name, remaps={"__node": name}, prefix=prefix,
            env={GRANT_VARIABLE: str(grant), **env},
        )  # fmt: skip
        made.start()
        return made

    def obeyed(self) -> list[Obeyed]:
        return read_obeyed(self.states)

    def count(self, grant: int) -> int:
        return sum(one.commands for one in self.obeyed() if one.grant == grant)

    def drives(self, grant: int) -> None:
        before = self.count(grant)
        wait_until(
            lambda: self.count(grant) > before + 20, f"grant {grant} drives",
            seen=lambda: [self.obeyed(), self.hal.log[-2000:]],
        )  # fmt: skip

    def refuses(self, actor: NodeProcess, grant: int, newest: int) -> None:
        said = f"under grant {grant}, expected grant {newest}"
        before = actor.log.count(said)
        wait_until(lambda: actor.log.count(said) > before, said, seen=lambda: actor.log[-2000:])

    def hal_refuses(self, grant: int) -> None:
        """The HAL that was started last."""
        said = f"refused a lease: 'arm' was granted to somebody else since: got 'actor{grant}' under grant {grant}"

        def has_said() -> bool:
            begun = self.hal.log.rfind("state: inactive")
            return said in self.hal.log[begun:]

        wait_until(has_said, said, seen=lambda: self.hal.log[-2000:])

    def one_at_a_time(self, *grants: int) -> None:
        found = self.obeyed()
        assert overlaps(found) == [] and out_of_order(found) == [], found
        assert {one.grant for one in found} == set(grants)

    def close(self) -> None:
        for process in self.processes:
            process.close()


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[Cell]:
    made = Cell(tmp_path)
    yield made
    made.close()


def test_an_actor_that_was_suspended_comes_back_under_an_old_grant(cell: Cell) -> None:
    probe = GraphProbe()
    statuses: dict[str, ActorStatus] = {}
    holders: list[str] = []
    probe.hear(topics.SAFETY_STATUS, lambda m: holders.append(m.lease_holder))
    probe.hear(topics.ACTOR_STATUS, lambda m: statuses.update({m.actor: m}))
    try:
        cell.hal.start()
        old = cell.actor(7)
        cell.drives(7)
        old.signal(signal.SIGSTOP)
        new = cell.actor(9)
        cell.drives(9)
        old.signal(signal.SIGCONT)
        cell.refuses(old, 7, 9)
        cell.drives(9)

        new.kill()  # nobody drives now, and the old one would like to
        wait_until(lambda: holders[-1] == "", seen=lambda: holders[-3:])
        wait_until(lambda: statuses["actor7"].code == "old_grant", seen=lambda: statuses)
        cell.hal.kill()
        begun = cell.hal.log.count("state: inactive")
        cell.hal.start()  # it knows the newest still
        wait_until(lambda: cell.hal.log.count("state: inactive") > begun)
        cell.hal_refuses(7)
        before = cell.count(7)
        new.start()
        cell.drives(9)
        assert cell.count(7) == before
        cell.one_at_a_time(7, 9)
    finally:
        probe.close()


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_an_actor_behind_a_cut_comes_back_under_an_old_grant(cell: Cell) -> None:
    with ExitStack() as stack:
        near, far = (stack.enter_context(Host(f"{name}")) for name in ("near", "far"))
        link = stack.enter_context(Link(near, far, LinkQuality()))
        # Across the link, which carries no multicast, by addresses.
        peers = {
            near.name: {"ROS_STATIC_PEERS": link.address_of(far)},
            far.name: {"ROS_STATIC_PEERS": link.address_of(near)},
        }
        stack.callback(cell.close)
        cell.hal.words[:0] = near.command()
        cell.hal._env.update(peers[near.name])
        cell.hal.start()
        old = cell.actor(7, *far.command(), **peers[far.name])
        cell.drives(7)
        link.cut()
        cell.actor(9, *near.command(), **peers[near.name])
        cell.drives(9)
        link.restore()
        cell.refuses(old, 7, 9)
        cell.drives(9)
        cell.one_at_a_time(7, 9)


def test_of_two_hals_of_one_robot_the_one_of_the_older_grant_ends(cell: Cell) -> None:
    cell.hal._env[GRANT_VARIABLE] = "7"
    cell.hal.start()
    cell.actor(7)
    cell.drives(7)
    cell.hal.signal(signal.SIGSTOP)
    document = {"robot": {"plugin": "fake"}, "resource": "arm", "state_dir": str(cell.states)}
    new = cell._add(HAL, document, "hal9", namespace="/r1", env={GRANT_VARIABLE: "9"})
    new.start()
    wait_until(lambda: "under grant 9" in new.log, seen=lambda: new.log[-2000:])
    cell.hal.signal(signal.SIGCONT)
    cell.hal.wait()
    assert "was started under grant 7, and another under 9" in cell.hal.log
    cell.hal.start()  # as its supervisor would
    wait_until(lambda: cell.hal.log.count("another under 9") > 1, seen=lambda: cell.hal.log[-2000:])
    cell.one_at_a_time(7)
