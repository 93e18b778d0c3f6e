"""The manager against nodes that behave as ours do, with a clock that the test moves."""

import json

import pytest

from user_core.errors import StoreError
from user_core.reasons import Reason
from user_fleet.deployment import ProcessSpec, RestartPolicy
from user_fleet.lifecycle import (
    AskState,
    ChangeState,
    Kill,
    LifecycleConfig,
    LifecycleManager,
    Memory,
    Mode,
)
from user_fleet.lifecycle.managed_node import GOALS, TRANSITIONS

CONFIG = LifecycleConfig(hang_timeout_s=5.0, startup_timeout_s=20.0, patience_s=3.0)
LATER = 0.05


class Node:
    """What a process with a managed node does."""

    def __init__(self, pid):
        self.state, self.pid = "unconfigured", pid
        self.hangs = False
        self.fails = ()


class World:
    def __init__(self, *specs, memory=None):
        self.now_s = 100.0
        self.specs = specs
        self.memory = memory or Memory()
        self.pids = 0
        self.nodes = {}
        self.log = []
        for spec in specs:
            self.start(spec.name)
        self.new_manager()

    def new_manager(self):
        self.manager = LifecycleManager(
            self.specs, CONFIG, self.memory, self.now_s,
            lambda names: {n: node.pid for n, node in self.nodes.items() if node},
        )  # fmt: skip

    def start(self, name):
        self.pids += 1
        self.nodes[name] = Node(self.pids)

    def run(self, seconds):
        end_s = self.now_s + seconds
        beat_s = 0.0
        while self.now_s < end_s:
            if self.now_s >= beat_s:
                beat_s = self.now_s + 1.0
                for name, node in self.nodes.items():
                    if node and not node.hangs:
                        self.manager.heartbeat(name, node.state, self.now_s)
            for order in self.manager.step(self.now_s):
                self.carry_out(order)
            self.now_s += LATER

    def carry_out(self, order):
        node = self.nodes[order.node]
        if isinstance(order, Kill):
            self.log.append(f"kill {order.node}")
            assert node.pid == order.pid
            self.start(order.node)
        elif node is None or node.hangs:
            self.manager.unanswered(order.node)
        elif isinstance(order, AskState):
            self.manager.state_answered(order.node, node.state, self.now_s)
        elif isinstance(order, ChangeState):
            self.log.append(f"{order.transition} {order.node}")
            possible = TRANSITIONS.get((node.state, order.transition)) == order.number
            success = possible and order.transition not in node.fails
            if success:
                node.state = GOALS[order.transition]
            self.manager.changed(order.node, success, self.now_s)

    def states(self):
        return {name: node.state if node else "gone" for name, node in self.nodes.items()}

    def reason(self, name):
        (report,) = [r for r in self.manager.report(self.now_s) if r.name == name]
        return report.reason


def spec(name, **values):
    return ProcessSpec(name=name, package="p", executable="e", **values)


def robot(**values):
    return World(
        spec("learner", order=3),
        spec("actor", order=2, depends_on=("hal",)),
        spec("hal", order=1, **values),
    )


def test_nodes_are_brought_up_in_order():
    world = robot()
    world.run(3)
    assert world.log == [
        "configure hal", "activate hal", "configure actor", "activate actor",
        "configure learner", "activate learner",
    ]  # fmt: skip
    assert set(world.states().values()) == {"active"}
    assert not any(report.reason for report in world.manager.report(world.now_s))


def test_a_restarted_node_comes_back_and_what_depends_on_it_is_reactivated():
    world = robot()
    world.run(3)
    world.log.clear()
    world.start("hal")
    world.run(3)
    assert world.log == ["configure hal", "activate hal", "deactivate actor", "activate actor"]
    assert set(world.states().values()) == {"active"}


def test_a_dead_process_is_noticed_and_the_others_go_on():
    world = robot()
    world.run(3)
    world.log.clear()
    world.nodes["hal"] = None
    world.run(10)
    assert world.log == []
    assert world.states() == {"learner": "active", "actor": "active", "hal": "gone"}
    assert "process ended" in world.reason("hal").text
    world.start("hal")
    world.run(2)
    assert world.states()["hal"] == "active"


def test_nobody_waits_for_ever():
    world = robot()
    world.nodes["hal"].fails = ("configure",)
    world.run(2)
    assert world.states()["actor"] == "unconfigured"
    assert "waits for hal" in world.reason("actor").text
    assert world.reason("actor").code == "node_waits"
    world.run(8)
    assert world.states() == {"learner": "active", "actor": "active", "hal": "unconfigured"}
    world.log.clear()
    world.nodes["hal"].fails = ()
    world.run(30)
    assert world.log[-4:] == ["configure hal", "activate hal", "deactivate actor", "activate actor"]


def test_attempts_become_rarer():
    world = robot()
    world.nodes["hal"].fails = ("configure",)
    world.run(60)
    attempts = world.log.count("configure hal")
    assert 6 <= attempts <= 10  # 0.2 s, doubling up to 30 s


def test_one_that_fails_too_often_is_given_up_and_the_others_stay():
    world = robot(restart=RestartPolicy(max_failures=3, window_s=60.0))
    world.nodes["hal"].fails = ("activate",)
    world.run(20)
    assert world.log.count("activate hal") == 3
    assert "given up after 3 failures" in world.reason("hal").text
    assert world.reason("hal").code == "node_given_up"
    assert world.states()["actor"] == world.states()["learner"] == "active"
    world.nodes["hal"].fails = ()
    world.run(200)
    assert world.states()["hal"] == "inactive"
    world.manager.resume()
    world.run(2)
    assert world.states()["hal"] == "active"


def test_a_node_that_hangs_is_killed_and_comes_back():
    world = robot()
    world.run(3)
    world.log.clear()
    world.nodes["hal"].hangs = True
    world.run(12)
    assert world.log == [
        "kill hal", "configure hal", "activate hal", "deactivate actor", "activate actor",
    ]  # fmt: skip


def test_on_an_overloaded_machine_nobody_is_killed_for_being_late():
    world = World(spec("hal"))
    world.run(3)
    world.manager._slowness = lambda: 4.0
    world.nodes["hal"].hangs = True
    world.run(15)
    assert "kill hal" not in world.log
    world.run(10)
    assert "kill hal" in world.log


def test_one_that_never_says_anything_is_killed_later():
    world = World(spec("hal"))
    world.nodes["hal"].hangs = True
    world.run(15)
    assert world.log == []
    world.run(10)
    assert world.log == ["kill hal", "configure hal", "activate hal"]


def test_nothing_is_brought_up_unasked_where_so_configured_also_by_a_second_manager(tmp_path):
    def memory():
        return Memory(tmp_path / "memory.json", Mode.PAUSED)

    world = World(spec("hal", order=1), spec("actor", order=2), memory=memory())
    world.run(3)
    assert world.log == []
    assert "~/resume" in world.reason("actor").text
    world.memory = memory()
    world.new_manager()
    world.run(3)
    assert world.log == []
    world.manager.resume()
    world.run(3)
    assert [line.split()[0] for line in world.log] == ["configure", "activate"] * 2
    world.memory = memory()
    world.new_manager()
    world.run(1)
    assert world.manager.mode is Mode.RUN, "once asked, always asked"


def test_pause_and_resume_and_a_manager_that_dies_meanwhile(tmp_path):
    world = World(
        spec("hal", order=1), spec("actor", order=2, depends_on=("hal",)),
        memory=Memory(tmp_path / "memory.json"),
    )  # fmt: skip
    world.run(3)
    world.log.clear()
    world.manager.pause()
    world.run(1)
    assert world.log == ["deactivate actor", "deactivate hal"]
    world.memory = Memory(tmp_path / "memory.json")
    world.new_manager()
    world.start("hal")
    world.run(5)
    assert world.manager.mode is Mode.PAUSED
    assert world.states() == {"hal": "unconfigured", "actor": "inactive"}
    assert world.reason("actor") == Reason("node_paused", "paused")
    world.manager.resume()
    world.run(2)
    assert set(world.states().values()) == {"active"}


def test_a_new_manager_changes_nothing_in_a_running_system():
    world = robot()
    world.run(3)
    world.log.clear()
    world.new_manager()
    world.run(10)
    assert world.log == []
    assert set(world.states().values()) == {"active"}


def test_shut_down_is_in_reverse_order_and_what_comes_back_is_left_alone():
    world = robot()
    world.run(3)
    world.log.clear()
    world.manager.shut_down()
    world.run(2)
    assert world.log == ["shutdown learner", "shutdown actor", "shutdown hal"]
    for name in world.nodes:
        world.start(name)
    world.run(10)
    assert set(world.states().values()) == {"unconfigured"}


def test_what_a_person_deactivates_stays_so_until_it_is_activated(tmp_path):
    memory = Memory(tmp_path / "memory.json")
    world = World(spec("hal"), spec("actor", depends_on=("hal",)), memory=memory)
    world.run(3)
    world.nodes["hal"].state = "inactive"  # ros2 lifecycle set /hal deactivate
    world.run(5)
    assert world.states()["hal"] == "inactive"
    assert "taken in hand" in world.reason("hal").text
    assert world.reason("hal").code == "node_held"
    world.start("hal")
    world.memory = Memory(tmp_path / "memory.json")
    world.new_manager()
    world.run(5)
    assert world.states()["hal"] == "unconfigured"
    world.nodes["hal"].state = "active"  # configured and activated by hand
    world.run(2)
    world.start("hal")
    world.run(3)
    assert world.states()["hal"] == "active"


def test_a_node_that_starts_itself_is_watched_only():
    world = World(spec("hal", parameters={"autostart": True}), spec("actor", depends_on=("hal",)))
    world.run(1)
    assert world.log == []
    world.nodes["hal"].state = "active"
    world.run(2)
    assert world.log == ["configure actor", "activate actor"]
    world.nodes["hal"].hangs = True
    world.run(8)
    assert "kill hal" in world.log


def test_an_answer_that_never_comes_is_not_waited_for_after_a_restart():
    world = World(spec("hal"))
    orders = []
    while not any(isinstance(order, ChangeState) for order in orders):
        orders = world.manager.step(world.now_s)
        for order in orders:
            if isinstance(order, AskState):
                world.carry_out(order)
        world.now_s += LATER
    world.start("hal")  # it died over its configuration
    world.run(5)
    assert world.states()["hal"] == "active"


def test_a_damaged_memory_is_named(tmp_path):
    (tmp_path / "memory.json").write_text(json.dumps({"mode": "dance", "held": []}))
    with pytest.raises(StoreError, match="dance"):
        Memory(tmp_path / "memory.json")


def test_the_cause_of_a_failed_transition_travels_to_whoever_waits():
    world = World(spec("replay"), spec("learner", depends_on=("replay",)))
    world.nodes["replay"].fails = ("configure",)
    world.run(0.5)
    cause = Reason("schema_mismatch", "cannot configure: store: got 7 actions, expected 6")
    world.manager.complained("replay", cause)
    replay, learner = world.manager.report(world.now_s)
    assert replay.reason.code == "node_failed"
    assert "got 7 actions, expected 6 [schema_mismatch]" in replay.reason.text
    assert "its log" not in replay.reason.text
    assert learner.reason.code == "node_waits"
    assert "waits for replay (cannot configure: store: got 7 actions" in learner.reason.text
    world.nodes["replay"].fails = ()
    world.run(20.0)
    assert not any(report.reason for report in world.manager.report(world.now_s))
