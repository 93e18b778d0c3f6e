"""Calls before and after motion: of any type, judged by their answer, and taken back."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from user_core.config import from_mapping
from user_core.errors import ConfigError, DeviceFault, DeviceTimeout, TransportError
from user_core.reasons import NO_REASON, Reason
from user_hal.fakes import LocalTopics
from user_hal.fakes.local_topics import JointState
from user_hal.robots.ros2.calls import CallConfig, Performed, perform, prepare
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.driver import Ros2Robot

SET_BOOL = "std_srvs/srv/SetBool"
FOLLOW = "control_msgs/action/FollowJointTrajectory"


def config(**keys: Any) -> CallConfig:
    return from_mapping(CallConfig, keys)


class Services:
    """Services that remember their requests."""

    def __init__(self, **answers: Any) -> None:
        self.io, self.calls = LocalTopics(), [("", None)] * 0
        for name, answer in answers.items():
            self.io.services[f"/{name}"] = self._serve(name, answer)

    def _serve(self, name: str, answer: Any) -> Any:
        def serve(request: Any) -> Any:
            self.calls.append((name, getattr(request, "data", None)))
            return answer

        return serve

    def perform(self, *configs: CallConfig) -> Performed:
        performed = Performed(self.io)
        performed.perform(prepare(self.io, configs, "before"))
        return performed


def answer(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**fields)


def test_calls_are_made_in_order_and_taken_back_in_the_opposite_one() -> None:
    world = Services(power=answer(success=True), mode=answer(success=True), off=answer())
    performed = world.perform(
        config(service="/power", type=SET_BOOL, request={"data": True},
               undo={"request": {"data": False}}),
        config(service="/mode", type=SET_BOOL, undo={"service": "/off"}),
    )  # fmt: skip
    performed.undo()
    performed.undo()  # once
    assert world.calls == [("power", True), ("mode", False), ("off", None), ("power", False)]


@dataclass
class LoadMap:
    """Like the answer of nav_msgs/srv/LoadMap."""

    result: int = 0
    RESULT_SUCCESS: ClassVar[int] = 0
    RESULT_MAP_DOES_NOT_EXIST: ClassVar[int] = 1


def test_an_answer_is_judged_by_the_names_of_constants() -> None:
    world = Services(good=LoadMap(), bad=LoadMap(1))
    success = {"result": "RESULT_SUCCESS"}
    world.perform(config(service="/good", success=success))
    with pytest.raises(DeviceFault, match="result = 1"):
        world.perform(config(service="/bad", success=success))


def test_groups_have_calls_of_their_own() -> None:
    """Of all first; what a group's own fault asks for is not done to the others."""
    names = (
        "all_on",
        "left_on",
        "left_off",
        "right_on",
        "all_off",
        "clear",
        "clear_left",
        "clear_right",
    )
    services = Services(**{name: answer(success=True) for name in names})

    def group(side: str, **calls: Any) -> dict[str, Any]:
        command = {"topic": f"/{side}", "type": "std_msgs/msg/Float64MultiArray"}
        action = {"kind": "joint_delta", "low": -0.1, "high": 0.1, "command": command}
        return {
            "joints": [side],
            "action": action,
            "recover": [{"service": f"/clear_{side}"}],
            **calls,
        }

    state = {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState", "field": "position"}
    contract = {
        "robot": "two", "observation": {"joint_position": state}, "timing": {"connect_timeout_s": 0.5},
        "before": [{"service": "/all_on"}], "after": [{"service": "/all_off"}],
        "recover": [{"service": "/clear"}],
        "groups": {
            "left": group("left", before=[{"service": "/left_on"}], after=[{"service": "/left_off"}]),
            "right": group("right", before=[{"service": "/right_on"}]),
        },
    }  # fmt: skip
    robot = Ros2Robot(from_mapping(Ros2Config, contract))
    robot.attach(services.io)
    troubles: dict[str, Reason] = {}
    publisher = services.io.publisher("/joint_states", "sensor_msgs/msg/JointState")
    for side in ("left", "right"):
        services.io.subscribe(f"/{side}", "std_msgs/msg/Float64MultiArray", lambda _: None)
    ending = threading.Event()

    def publish() -> None:
        while not ending.wait(0.005):
            publisher.publish(JointState(name=["left", "right"], position=[0.0, 0.0]))

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    try:
        robot.connect()
        assert [name for name, _ in services.calls] == ["all_on", "left_on", "right_on"]
        for drive in robot._drives:
            drive.trouble = lambda name=drive.group.name: troubles.get(name, NO_REASON)
        services.calls.clear()
        robot.reset()
        assert services.calls == []
        troubles["right"] = Reason("not_followed", "it does not follow")
        robot.reset()
        assert [name for name, _ in services.calls] == ["clear", "clear_right"]
        robot._has_stopped = True
        services.calls.clear()
        robot.reset()
        assert [name for name, _ in services.calls] == ["clear", "clear_left", "clear_right"]
        services.calls.clear()
        robot.close()
        assert [name for name, _ in services.calls] == ["left_off", "all_off"]
    finally:
        robot.close()
        ending.set()
        thread.join()


def test_undoing_spends_no_more_than_its_time_on_servers_that_are_not_there() -> None:
    world = Services(a=answer(success=True))
    given: list[float] = []
    call = world.io.call

    def slow(service: str, type_name: str, request: Any, *, timeout_s: float) -> Any:
        if service == "/gone":
            given.append(timeout_s)
            raise DeviceTimeout("service '/gone'")
        return call(service, type_name, request, timeout_s=timeout_s)

    world.io.call = slow  # type: ignore[method-assign]
    gone = {"service": "/a", "undo": {"service": "/gone", "timeout_s": 60.0}}
    performed = world.perform(config(**gone), config(**gone))
    with pytest.raises(DeviceTimeout):
        performed.undo(1.0)
    assert len(given) == 2 and max(given) <= 1.0


def test_what_was_not_done_is_not_taken_back_and_the_answer_is_told() -> None:
    world = Services(power=answer(success=True), mode=answer(success=False, message="no power"))
    performed = Performed(world.io)
    calls = prepare(
        world.io,
        [
            config(service="/power", type=SET_BOOL, request={"data": True},
                   undo={"request": {"data": False}}),
            config(service="/mode", type=SET_BOOL, undo={"request": {"data": True}}),
        ],
        "before",
    )  # fmt: skip
    with pytest.raises(DeviceFault, match="service '/mode': got no: no power, expected success"):
        performed.perform(calls)
    performed.undo()
    assert world.calls == [("power", True), ("mode", False), ("power", False)]


def test_everything_is_taken_back_although_something_fails() -> None:
    world = Services(a=answer(ok=True), b=answer(success=True), no=answer(ok=False, error="stuck"))
    performed = world.perform(
        config(service="/a", undo={"service": "/a"}), config(service="/b", undo={"service": "/no"})
    )
    with pytest.raises(DeviceFault, match="'/no': got no: stuck, expected ok"):
        performed.undo()
    assert [name for name, _ in world.calls] == ["a", "b", "no", "a"]


def test_an_answer_is_judged_by_the_fields_that_the_contract_names() -> None:
    world = Services(enable=answer(ret=-1, message="error 22", state=answer(mode=7)))
    wanted = config(service="/enable", success={"ret": 0})
    with pytest.raises(
        DeviceFault, match=r"got ret = -1 \(ret=-1, message='error 22'\), expected 0"
    ):
        world.perform(wanted)
    world.perform(config(service="/enable", success={"ret": -1, "state.mode": 7}))
    world.perform(config(service="/enable", success={}))
    with pytest.raises(DeviceFault, match="an answer without 'code'"):
        world.perform(config(service="/enable", success={"code": 0}))


def test_an_answer_that_says_nothing_is_a_yes() -> None:
    Services(stop=answer()).perform(config(service="/stop", type="std_srvs/srv/Empty"))


def test_goals_are_waited_for_and_their_end_is_judged() -> None:
    io = LocalTopics()
    ends = [("succeeded", answer(error_code=0)), ("aborted", answer(error_code=-4)),
            ("rejected", None)]  # fmt: skip
    io.services["/recover"] = lambda goal: ends.pop(0)
    (call,) = prepare(io, [config(action="/recover", type=FOLLOW)], "recover")
    assert perform(io, call).error_code == 0
    with pytest.raises(DeviceFault, match="action '/recover': got aborted: error_code=-4"):
        perform(io, call)
    with pytest.raises(DeviceFault, match="action '/recover': got rejected"):
        perform(io, call)


def test_nobody_there_is_told() -> None:
    with pytest.raises(DeviceTimeout, match="/nobody"):
        Services().perform(config(service="/nobody"))


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({}, ConfigError, "expected one of the two"),
        ({"service": "/a", "action": "/b"}, ConfigError, "expected one of the two"),
        ({"action": "/a"}, ConfigError, "type of the action"),
        ({"service": "/a", "type": FOLLOW}, ConfigError, "expected package/srv/Name"),
        ({"service": "/a", "type": "x_msgs/srv/Odd"}, TransportError, "x_msgs/srv/Odd"),
        ({"service": "/a", "type": SET_BOOL, "request": {"date": True}}, ConfigError,
         r"before\[0\].request.date: .*did you mean 'data'"),
        ({"service": "/a", "type": SET_BOOL, "request": {"data": 1}}, ConfigError,
         r"before\[0\].request.data: got 1, expected bool"),
        ({"service": "/a", "undo": {"type": "x_msgs/srv/Odd", "service": "/b"}}, TransportError,
         "x_msgs/srv/Odd"),
    ],
)  # fmt: skip
def test_what_cannot_be_called_is_refused_before_anything_is(
    keys: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepare(LocalTopics(), [config(**keys)], "before")
