"""Diagnostics, refusal counts and the throttle: the parts that need no ROS."""

from __future__ import annotations

from user_comm.diagnostics import Diagnostics, Item, Level
from user_comm.logs import Throttle
from user_comm.subscriptions import Refusals
from user_core.errors import CodecError, DeviceTimeout


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_change_of_level_or_message_is_announced_and_a_value_is_not() -> None:
    changes: list[int] = []
    diagnostics = Diagnostics(on_change=lambda: changes.append(1))
    diagnostics.report("arm", Level.OK, "fine", {"temperature": 30})
    diagnostics.report("arm", Level.OK, "fine", {"temperature": 31})
    assert len(changes) == 1
    diagnostics.report("arm", Level.WARN, "hot", {"temperature": 80})
    assert len(changes) == 2
    assert diagnostics.items() == [Item("arm", Level.WARN, "hot", {"temperature": 80})]


def test_an_error_is_named_by_its_code_and_tells_what_came_and_what_to_do() -> None:
    diagnostics = Diagnostics()
    diagnostics.error(
        DeviceTimeout("camera front", got="0.4 s", expected="0.1 s", hint="Check the cable")
    )
    (item,) = diagnostics.items()
    assert (item.name, item.level) == ("device_timeout", Level.ERROR)
    assert item.values["got"] == "0.4 s" and item.values["hint"] == "Check the cable"
    diagnostics.resolve("device_timeout")
    (item,) = diagnostics.items()
    assert item.level is Level.OK and "camera front" in item.values["was"]


def test_an_error_that_is_none_of_ours_is_called_exception() -> None:
    diagnostics = Diagnostics()
    diagnostics.error(ZeroDivisionError("division by zero"))
    assert [item.name for item in diagnostics.items()] == ["exception"]


def test_resolving_what_was_never_wrong_says_nothing() -> None:
    diagnostics = Diagnostics()
    diagnostics.resolve("device")
    diagnostics.report("arm", Level.OK, "fine")
    diagnostics.resolve("arm")
    assert diagnostics.items() == [Item("arm", Level.OK, "fine")]


def test_a_source_that_raises_is_shown_and_hides_nothing() -> None:
    diagnostics = Diagnostics()
    diagnostics.report("arm", Level.OK)
    diagnostics.watch("broken", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    diagnostics.watch("counts", lambda: Item("counts", Level.OK, "3"))
    assert [(i.name, i.level) for i in diagnostics.items()] == [
        ("arm", Level.OK), ("broken", Level.ERROR), ("counts", Level.OK),
    ]  # fmt: skip
    diagnostics.unwatch("broken")
    assert len(diagnostics.items()) == 2


def test_refusals_are_counted_by_code_and_warn_for_a_while() -> None:
    clock = Clock()
    counts = Refusals("/observation", recent_s=10.0, clock_s=clock)
    counts.accept()
    assert counts.item().level is Level.OK
    counts.refuse("codec", str(CodecError("dtype of 'a'", got=77)))
    counts.refuse("codec", "again")
    counts.refuse("spec", "other shape")
    item = counts.item()
    assert item.level is Level.WARN and "other shape" in item.message
    assert item.values["refused_codec"] == 2 and item.values["refused_spec"] == 1
    clock.now_s += 11.0
    item = counts.item()
    assert item.level is Level.OK
    assert item.values["refused_codec"] == 2, "counts are not forgotten"


def test_the_throttle_says_how_much_it_held_back() -> None:
    clock = Clock()
    say = Throttle(period_s=5.0, clock_s=clock)
    assert say("a", "first") == "first"
    assert [say("a", "more") for _ in range(3)] == [None] * 3
    assert say("b", "another key") == "another key"
    clock.now_s += 5.0
    assert say("a", "again") == "again (3 more like this before)"
    clock.now_s += 5.0
    assert say("a", "once more") == "once more"


def test_the_throttle_remembers_only_so_many_keys() -> None:
    say = Throttle(period_s=5.0, clock_s=Clock(), keys=4)
    for i in range(1000):
        assert say(i, "new") == "new"
    assert len(say._last) <= 4


def test_a_source_that_calls_sys_exit_is_an_item_that_says_so():
    def leave():
        raise SystemExit(0)

    diagnostics = Diagnostics()
    diagnostics.watch("robot", leave)
    (item,) = diagnostics.items()
    assert (item.name, item.level) == ("robot", Level.ERROR) and "SystemExit" in item.message
