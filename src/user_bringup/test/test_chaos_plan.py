"""The plan of a chaos run, and faults done to real processes."""

import itertools
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from user_bringup.chaos.evidence import Evidence, checksum, producers_behind, works_since
from user_bringup.chaos.faults import (
    LINK,
    PAIR_S,
    Fault,
    Link,
    PlanSize,
    inflict,
    make_plan,
    relieve,
)
from user_bringup.chaos.figures import draw_recovery, recovery_table
from user_bringup.chaos.trial import Blow
from user_bringup.cli.chaos import pairs_of
from user_fleet.deployment import ProcessSpec
from user_fleet.processes import find_processes, is_alive, session_members, state_of

SIZE = PlanSize(seconds=120.0, kills=20, suspends=4, disks=2, longest_s=6.0)
VICTIMS = ("hal", "actor", "replay", "learner")


def test_a_seed_gives_the_same_plan_everywhere():
    plan = make_plan(7, VICTIMS, ("actor", "replay"), SIZE)
    assert plan == make_plan(7, VICTIMS, ("actor", "replay"), SIZE)
    assert plan != make_plan(8, VICTIMS, ("actor", "replay"), SIZE)
    assert plan[0] == Fault(5.59, "kill", "replay")


def test_a_plan_is_in_order_and_spares_nobody():
    plan = make_plan(3, VICTIMS, ("actor", "replay"), SIZE)
    assert [fault.at_s for fault in plan] == sorted(fault.at_s for fault in plan)
    assert all(0 <= fault.at_s <= 120 for fault in plan)
    kills = [fault.victim for fault in plan if fault.kind == "kill"]
    assert {name: kills.count(name) for name in VICTIMS} == dict.fromkeys(VICTIMS, 5)
    assert all(f.duration_s == 0 for f in plan if f.kind == "kill")
    assert all(1 <= f.duration_s <= 6 for f in plan if f.kind != "kill")
    assert {f.victim for f in plan if f.kind == "disk"} == {"actor", "replay"}


def test_cuts_and_hunger_have_victims_of_their_own_and_change_no_plan_without_them():
    size = replace(SIZE, networks=3, memories=2)
    plan = make_plan(7, VICTIMS, ("actor", "replay"), size, ("learner",))
    assert plan == make_plan(7, VICTIMS, ("actor", "replay"), size, ("learner",))
    assert [f.victim for f in plan if f.kind == "network"] == [LINK] * 3
    assert [f.victim for f in plan if f.kind == "memory"] == ["learner"] * 2
    assert all(1 <= f.duration_s <= 6 for f in plan if f.kind in ("network", "memory"))
    assert make_plan(7, VICTIMS, ("actor", "replay"), SIZE, ("learner",))[0] == Fault(
        5.59, "kill", "replay"
    )


def test_a_link_that_is_cut_keeps_connections_and_tells_nobody():
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as stack:
        link = stack.enter_context(Link("127.0.0.1", server.getsockname()[1]))

        def connect():
            near = stack.enter_context(socket.create_connection(("127.0.0.1", link.port), 5))
            near.settimeout(0.3)
            return near

        near = connect()
        far, _ = server.accept()
        stack.enter_context(far)
        far.settimeout(5)
        near.sendall(b"up")
        far.sendall(b"down")
        assert (far.recv(9), near.recv(9)) == (b"up", b"down")
        link.cut()
        far.settimeout(0.3)
        near.sendall(b"later")
        late = connect()  # the kernel takes it
        late.sendall(b"hello")
        for end in (far, near):
            with pytest.raises(TimeoutError):
                end.recv(9)
        near.shutdown(socket.SHUT_WR)  # nor is its end told
        with pytest.raises(TimeoutError):
            far.recv(9)
        link.restore()
        far.settimeout(5)
        assert (far.recv(9), far.recv(9)) == (b"later", b"")
        second, _ = server.accept()
        stack.enter_context(second)
        second.settimeout(5)
        assert second.recv(9) == b"hello"
        assert link.carried == len(b"updownlaterhello")


def test_a_process_gets_no_more_memory_for_a_while():
    program = (
        "while input():\n"
        "    try: bytearray(200_000_000); print('taken', flush=True)\n"
        "    except MemoryError: print('refused', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def asked() -> str:
        process.stdin.write("more\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    with process:
        assert asked() == "taken"
        inflict("memory", process.pid)
        assert asked() == "refused"
        relieve("memory", process.pid)
        assert asked() == "taken"
        process.kill()


def test_faults_can_be_kept_apart():
    times = [f.at_s for f in make_plan(1, VICTIMS, (), PlanSize(100.0, 10, apart_s=8.0))]
    assert all(later - earlier >= 7.999 for earlier, later in itertools.pairwise(times))
    assert times[-1] <= 100.0


def test_faults_hit_a_real_process_and_go_away_again(tmp_path):
    program = (
        "import sys, time\n"
        "while True:\n"
        "    try:\n"
        "        with open(sys.argv[1], 'a') as stream: stream.write('more\\n')\n"
        "    except OSError as error: print(error.errno, flush=True)\n"
        "    time.sleep(0.01)\n"
    )
    file = tmp_path / "grows"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE, start_new_session=True
    )

    def grows(within_s: float = 30.0) -> bool:
        size = file.stat().st_size if file.exists() else 0
        end_s = time.monotonic() + within_s
        while time.monotonic() < end_s:
            if file.exists() and file.stat().st_size > size:
                return True
            time.sleep(0.01)
        return False

    try:
        assert grows()
        inflict("suspend", process.pid)
        while state_of(process.pid) != "T":
            time.sleep(0.01)
        assert not grows(0.5)
        relieve("suspend", process.pid)
        assert grows()
        inflict("disk", process.pid)
        process.stdout.readline()
        assert not grows(0.5)
        relieve("disk", process.pid)
        assert grows()
        assert find_processes([str(file)]) == {str(file): process.pid}
        assert session_members([process.pid]) == [process.pid]
        inflict("kill", process.pid)
        process.wait(60)
        assert not is_alive(process.pid)
        with pytest.raises(ProcessLookupError):
            inflict("kill", process.pid)
        relieve("suspend", process.pid)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_who_works_is_seen_by_what_comes_out():
    evidence = Evidence()
    hal = ProcessSpec(name="hal", package="p", executable="hal_node", namespace="/r0")
    replay = ProcessSpec(name="replay", package="p", executable="replay_node")
    teleop = ProcessSpec(name="teleop", package="p", executable="teleop_node")
    bridge = ProcessSpec(name="bridge", package="p", executable="bridge_node")
    assert works_since(hal, evidence, 0.0) is None
    evidence.acted("/r0", 100, 1.0)
    evidence.acted("/r0", 100, 2.0)  # the same action again: nothing new reached the robot
    assert works_since(hal, evidence, 0.0) == 1.0
    assert works_since(hal, evidence, 1.0) is None
    evidence.acknowledge(("a", 1), 5, 3.0)
    evidence.acknowledge(("a", 1), 5, 4.0)
    assert works_since(replay, evidence, 0.0) == 3.0
    assert works_since(bridge, evidence, 0.0) == 3.0
    evidence.acknowledge(("b", 1), 2, 4.0)
    assert works_since(bridge, evidence, 0.0, {"b"}) == 4.0
    assert works_since(bridge, evidence, 3.0, {"a"}) is None
    evidence.active_s["teleop"] = 5.0
    assert works_since(teleop, evidence, 4.0) == 5.0


def test_what_must_pass_a_process_is_what_the_actors_of_its_host_send():
    def process(name, executable, host, **changes):
        return ProcessSpec(name=name, package="p", executable=executable, host=host, **changes)

    processes = [
        process("actor0", "actor_node", "site0", namespace="/r0", parameters={"name": "one"}),
        process("bridge0", "bridge_node", "site0", namespace="/r0"),
        process("actor1", "actor_node", "site1", namespace="/r1"),
        process("router1", "router", "site1"),
        process("replay", "replay_node", "learner"),
    ]
    behind = {p.name: producers_behind(p, processes) for p in processes}
    assert behind == {
        "actor0": {"one"}, "bridge0": {"one"}, "actor1": {"r1.actor1"}, "router1": {"r1.actor1"},
        "replay": set(),
    }  # fmt: skip


def test_contents_and_numbers_that_change_are_noticed():
    evidence = Evidence()
    columns = {"a": np.arange(6.0).reshape(3, 2), "b": np.zeros(3, bool)}
    evidence.chunk(("p", 1, 1), columns)
    evidence.chunk(("p", 1, 1), dict(reversed(columns.items())))
    assert not evidence.changed
    torn = {**columns, "a": columns["a"] + np.eye(3, 2)}
    assert checksum(torn) != checksum(columns)
    evidence.chunk(("p", 1, 1), torn)
    assert evidence.changed == [("p", 1, 1)]
    evidence.announced(1, "x")
    evidence.announced(2, "y")
    assert not evidence.trouble
    evidence.announced(1, "x", domain=1)  # it takes longer to get there
    evidence.announced(2, "y", domain=1)
    assert not evidence.trouble
    evidence.announced(2, "z")
    evidence.announced(1, "x")
    evidence.announced(1, "x", domain=1)
    assert len(evidence.trouble) == 3


def test_recoveries_are_tabled_and_drawn(tmp_path):
    blows = [
        Blow(Fault(1.0, "kill", "hal"), os.getpid(), 1.0, 1.0, 3.0),
        Blow(Fault(9.0, "kill", "hal"), os.getpid(), 9.0, 9.0, 19.0, alone=False),
        Blow(Fault(20.0, "suspend", "hal", 2.0), os.getpid(), 20.0, 22.0, 22.5),
        Blow(Fault(30.0, "kill", "hal"), note="the process did not come back"),
    ]
    table = recovery_table(blows, {"hal": "hal_node"})
    assert "| hal_node | kill | 2 | 1 | 2.0 s | 2.0 s | 10.0 s | 3 s |" in table
    assert "| hal_node | suspend | 1 | 1 | 0.5 s |" in table
    draw_recovery(blows, {"hal": "hal_node"}, tmp_path / "recovery.png")
    assert (tmp_path / "recovery.png").stat().st_size > 1000


def test_pairs_fall_within_two_seconds_and_the_first_right_after_the_start():
    partners = [("hal", "actor"), ("learner", "manager")]
    size = PlanSize(seconds=120.0, kills=4, pairs=6)
    plan = make_plan(5, VICTIMS, (), size, (), partners)
    alone = make_plan(5, VICTIMS, (), PlanSize(seconds=120.0, kills=4))
    pairs = [fault for fault in plan if fault not in alone]
    assert [fault.at_s for fault in plan] == sorted(fault.at_s for fault in plan)
    assert len(pairs) == 12
    assert {f.victim for f in pairs if f.at_s < 3.1} >= {"hal", "actor"}
    for first, second in partners:
        times = [sorted(f.at_s for f in pairs if f.victim == name) for name in (first, second)]
        assert len(times[0]) == 3
        assert all(abs(a - b) <= PAIR_S for a, b in zip(*times, strict=True))
    assert plan == make_plan(5, VICTIMS, (), size, (), partners)


def test_partners_are_hal_and_actor_of_one_robot_and_nodes_with_their_manager():
    def node(name, executable, namespace="", host="", **more):
        return ProcessSpec(
            name=name,
            package="user_x",
            executable=executable,
            namespace=namespace,
            host=host,
            **more,
        )

    processes = [
        node("hal0", "hal_node", "/robot0", "site0"),
        node("actor0", "actor_node", "/robot0", "site0"),
        node("hal1", "hal_node", "/robot1", "site1"),
        node("actor1", "actor_node", "/robot1", "site1"),
        node("learner", "learner_node", "", "hall"),
        node("router", "router", "", "hall", ros=False, lifecycle=False),
        node("manager0", "lifecycle_manager", "", "site0", lifecycle=False),
        node("manager", "lifecycle_manager", "", "hall", lifecycle=False),
    ]
    names = [process.name for process in processes]
    found = pairs_of(processes, names)
    assert found[:2] == [("hal0", "actor0"), ("hal1", "actor1")]
    assert set(found[2:]) == {("hal0", "manager0"), ("actor0", "manager0"), ("learner", "manager")}
    assert pairs_of(processes, ["hal0", "learner"]) == []
