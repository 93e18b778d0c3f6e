"""A robot that waits for a person's word: `user go` over real services, and what takes the word back."""

import asyncio
import io
import os
import sys
from contextlib import ExitStack

import pytest
from rich.console import Console
from std_srvs.srv import Trigger
from user_msgs.msg import ActorStatus

from user_bringup.cli import go, up
from user_bringup.nodes.go_caller import chosen
from user_core.reasons import EMERGENCY_STOP, WAITS_FOR_GO
from user_testing.ports import free_endpoint
from user_testing.processes import NodeProcess
from user_testing.worlds.acting import GraphProbe

ACTOR = {
    "policy": {"plugin": "linear_gaussian"},
    "loop": {
        "start": "operator",
        "exploration": {"before_first_version": "initial"},
        "retry_s": 0.2,
    },
}


@pytest.fixture
def probe(tmp_path, ros_domain):
    actor = {**ACTOR, "outbox": {"directory": str(tmp_path / "outbox")}}
    actor["zenoh"] = {"connect": [free_endpoint()]}
    hal = NodeProcess("user_hal.nodes.hal", {"robot": {"plugin": "fake"}}, tmp_path)
    node = NodeProcess("user_actor.nodes.actor", actor, tmp_path)
    with ExitStack() as stack:
        probe = GraphProbe()
        for one in (probe, hal, node):
            stack.callback(one.close)
        hal.start()
        node.start()
        yield probe


def waits(probe):
    actor = probe.actor
    return actor and actor.state == ActorStatus.WAITING and actor.code == WAITS_FOR_GO


def test_it_moves_when_a_person_says_so_and_after_an_emergency_stop_when_he_says_so_again(
    probe, capsys
):
    probe.until(lambda: waits(probe), "it waits for a person")
    assert "`user go`" in probe.actor.detail and "/r0/actor/go" in probe.actor.detail
    assert probe.actor.steps == 0 and not probe.results
    assert go.main(["r7"]) == 1
    assert "heard /r0/actor" in capsys.readouterr().err
    assert waits(probe)
    assert go.main(["r0"]) == 0
    assert "the robot moves now" in capsys.readouterr().out
    probe.until(lambda: probe.actor.state == ActorStatus.RUNNING and probe.actor.steps > 5, "steps")
    assert probe.call("hal/emergency_stop", Trigger).success
    probe.until(lambda: probe.actor.code == EMERGENCY_STOP, "it is stopped")
    answer = probe.call("actor/go", Trigger)
    assert not answer.success and "emergency stop" in answer.message
    assert probe.call("hal/reset_emergency_stop", Trigger).success
    probe.until(lambda: waits(probe), "it waits again")
    assert "there was an emergency stop" in probe.actor.detail
    steps = probe.actor.steps
    assert go.main([]) == 0, "it is the only one"
    probe.until(lambda: probe.actor.steps > steps + 5, "steps again")


def test_a_word_means_a_robot_or_an_actor():
    actors = ["/robot0/actor", "/robot10/actor", "/lab/robot1/actor"]
    assert chosen(actors, ["robot1"]) == ["/lab/robot1/actor"]
    assert chosen(actors, ["/robot0/actor", "lab"]) == ["/robot0/actor", "/lab/robot1/actor"]
    assert chosen(actors, []) == actors


def test_a_typed_g_says_go_in_the_running_view(probe, monkeypatch):
    probe.until(lambda: waits(probe), "it waits for a person")
    said = io.StringIO()
    view = object.__new__(up._Up)  # all that it needs of a run is where to print
    view.console = Console(file=said)
    domain = int(os.environ["ROS_DOMAIN_ID"])

    async def type_line(line):
        monkeypatch.setattr(sys, "stdin", io.StringIO(line))
        view._going = None
        view._typed([domain])
        if view._going is not None:
            await view._going

    asyncio.run(type_line("status\n"))
    assert said.getvalue() == "" and waits(probe)
    asyncio.run(type_line("g\n"))
    assert "/r0/actor: the robot moves now" in said.getvalue()
    probe.until(lambda: probe.actor.steps > 5, "steps")
