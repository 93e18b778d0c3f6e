"""Moves when told: a small known motion of each element of an action, there and back, measured.

It goes through the safety gate (:class:`user_hal.local.LocalHal`), so nothing moves faster or
further than the robot's file allows.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from user_core.body.action_groups import JOINT_KINDS, TOOL_KINDS, GroupView, group_views
from user_core.errors import DeviceTimeout, SuiteError
from user_core.reasons import STALE_OBSERVATION, WATCHDOG
from user_core.specs import ActionKind, Array, RobotSpec
from user_core.types import ActedBy, ActionChunk, Observation
from user_hal.local import LocalHal
from user_hal.safety import SafetyConfig
from user_hal.safety.rotation import conjugate, from_vector, multiply, to_vector

#: How far it goes: joints (rad), the tool or a lift (m), the tool (rad), a gripper (its opening), a
#: base (m and rad; odometry is coarse).
JOINT, TOOL_M, TOOL_RAD, GRIPPER = 0.05, 0.01, 0.05, 0.2
BASE_M, BASE_RAD = 0.05, 0.1
#: Share of what was told that counts as followed, as done by nothing, and as the wrong way.
_FOLLOWED = (0.6, 1.4)
_NOTHING = 0.2
_ABSOLUTE = (ActionKind.JOINT_POSITION, ActionKind.EE_POSE)
_VELOCITIES = (ActionKind.JOINT_VELOCITY, ActionKind.EE_TWIST, ActionKind.BASE_TWIST)
#: Elements of a base's action, and which of x y z rx ry rz they move.
_BASE_AXES = {"vx": 0, "vy": 1, "wz": 5}
_SIX = ("x", "y", "z", "rx", "ry", "rz")
_MOST_STEPS = 60
_SETTLE_S = 2.0
_LOOK_S = 0.02
#: A robot that stands where it was not told to go is looked at for this long before it counts as at rest there: its
#: controller, its simulator or this process may have had no time yet.
_LATE_S = 1.5
#: Shares of what was told that differ by less, of two tries, are one.
_SAME_SHARE = 0.15
#: Time that a motion may take beyond its periods, as a share of these: a velocity that is held for longer goes further.
_LATE_SHARE = 0.2


#: Stops after which the same may be tried again: nothing was touched, something came late.
_PASSING = (DeviceTimeout.code, STALE_OBSERVATION, WATCHDOG)


class _Interrupted(SuiteError):
    """The robot was stopped for one of :data:`_PASSING`."""


@dataclass(frozen=True)
class Element:
    """One element of the action, or one direction of an absolute pose, and how it is measured.

    Attributes:
        name: For people.
        view: Its group.
        index: Among the elements that move the group (0 to 5 of a pose: x y z and rotation).
        gripper: Which element of its array a gripper is; -1: it is none.
        unit: Of the motion.
        amount: How far to go, in this unit.
        source: Array of the observation that shows a gripper, or where a base is.
        axis: Of x y z rx ry rz, where a base goes; -1: it is none.
    """

    name: str
    view: GroupView
    index: int
    gripper: int
    unit: str
    amount: float
    source: str = "gripper"
    axis: int = -1

    def measure(self, observation: Observation) -> Array:
        """Where all elements of its kind are: joints (n,), tool (7,), gripper (n,)."""
        arrays = self.view.arrays(observation.arrays)
        if self.gripper >= 0 or self.axis >= 0:
            return np.asarray(arrays[self.source], float)
        name = "joint_position" if self.view.spec.action_kind in JOINT_KINDS else "tcp_pose"
        return np.asarray(arrays[name], float)

    def way(self, start: Array, end: Array) -> Array:
        """From one measurement to another, (n,): of the tool translation and rotation vector, of a
        base the same as seen from where it started."""
        if self.gripper >= 0 or self.view.spec.action_kind in JOINT_KINDS:
            return np.asarray(end - start)
        back = conjugate(_quaternion(start))
        shift, turn = end[:3] - start[:3], multiply(_quaternion(end), back)
        if self.axis >= 0:
            x, y, z = (float(number) for number in shift)
            shift = np.array(multiply(multiply(back, (x, y, z, 0.0)), conjugate(back))[:3])
        return np.concatenate([shift, to_vector(turn)])

    @property
    def row(self) -> int:
        """Which element of that way is its own."""
        if self.axis >= 0:
            return self.axis
        names, index = self.view.spec.action.names, self.index
        if self.gripper < 0 and index >= 3 and self.view.spec.action_kind in TOOL_KINDS and names:
            return _TURNS.get(names[index], index)  # a tool may turn about one axis only
        return self.gripper if self.gripper >= 0 else index

    @property
    def turns(self) -> bool:
        """Whether it turns the tool or the base."""
        kind = self.view.spec.action_kind
        return self.axis >= 3 or (kind in TOOL_KINDS and self.index >= 3)


#: Row of a way that an element of a tool's action turns, by its name.
_TURNS = {"rx": 3, "ry": 4, "rz": 5, "wx": 3, "wy": 4, "wz": 5}


@dataclass
class Moved:
    """What came of one element.

    Attributes:
        name: The element.
        unit: Of the ways.
        told: How far it was to go; 0: it was not tried.
        went: How far it went.
        back: How far from its start it is now.
        verdict: ``moved``, ``did not move``, ``wrong way``, ``other scale``, ``not tried``,
            ``not measured``, ``stopped``.
        detail: Why, or by how much.
        interrupted: Whether the robot was stopped meanwhile for something that passes, and this is
            the second try.
        late_s: By how much the way there took longer than its periods.
        took_s: Its periods.
    """

    name: str
    unit: str
    told: float = 0.0
    went: float = 0.0
    back: float = 0.0
    verdict: str = "not tried"
    detail: str = ""
    interrupted: bool = False
    late_s: float = 0.0
    took_s: float = 0.0

    @property
    def good(self) -> bool | None:
        """Whether it moved as told; None: nobody knows."""
        return None if self.verdict in ("not tried", "not measured") else self.verdict == "moved"

    @property
    def share(self) -> float:
        """How much of what it was told it went."""
        return self.went / self.told if self.told else 0.0


@dataclass
class MotionReport:
    """Of all elements.

    Attributes:
        moved: One for each element.
        trouble: Why it ended early; empty if it did not.
    """

    moved: list[Moved] = field(default_factory=list)
    trouble: str = ""


def elements_of(hal: LocalHal, scale: float = 1.0) -> Iterator[tuple[Element | None, Moved]]:
    """What can be tried, and what cannot, with the reason."""
    shifting = hal.mobility.prismatic
    for view in group_views(hal.spec):
        spec = view.spec
        names = spec.action.names or tuple(f"element {i}" for i in range(spec.action.size))
        arms = [i for i in range(spec.action.size) if i not in spec.grippers]
        tool = spec.action_kind in TOOL_KINDS
        labels = [names[i] for i in arms]
        if spec.action_kind is ActionKind.BASE_TWIST:
            yield from _elements_of_base(view, labels, scale)
            continue
        if spec.action_kind is ActionKind.EE_POSE:
            labels = ["x", "y", "z", "rx", "ry", "rz"]
        source = "tcp_pose" if tool else "joint_position"
        known = tool or spec.action_kind in JOINT_KINDS
        measured = spec.observation.get(source)
        fits = measured is not None and (measured.size == 7 if tool else measured.size == len(arms))
        for index, label in enumerate(labels):
            turns = tool and index >= 3
            shifts = label in shifting or (tool and not turns)
            unit = "m" if shifts else "rad"
            nothing = Moved(_named(view, label), unit)
            if not known or not fits:
                nothing.detail = (
                    f"nothing in the observation measures it: no {source} of its size"
                    if known
                    else f"how far {spec.action_kind.value} actions move is not known"
                )
                yield None, nothing
                continue
            amount = scale * (TOOL_M if shifts else TOOL_RAD if tool else JOINT)
            yield Element(nothing.name, view, index, -1, unit, amount), nothing
        for count, index in enumerate(spec.grippers):
            nothing = Moved(_named(view, names[index]), "")
            source, row = _gripper_source(view, names[index], count)
            if index in spec.action.categorical:
                nothing.detail = "a choice, which goes no distance: it is held meanwhile"
                yield None, nothing
            elif not source:
                nothing.detail = "nothing in the observation measures it: no gripper"
                yield None, nothing
            else:
                yield Element(nothing.name, view, index, row, "", GRIPPER, source), nothing


def _elements_of_base(
    view: GroupView, labels: Sequence[str], scale: float
) -> Iterator[tuple[Element | None, Moved]]:
    source = next(
        (
            name
            for name, seen in view.spec.observation.items()
            if seen.size == 7 and seen.names[:4] == ("x", "y", "z", "qx") and name != "tcp_pose"
        ),
        "",
    )
    for index, label in enumerate(labels):
        axis = _BASE_AXES.get(label.rpartition(".")[2].rpartition("_")[2], -1)
        unit = "rad" if axis >= 3 else "m"
        nothing = Moved(_named(view, label), unit)
        if not source or axis < 0:
            nothing.detail = (
                "nothing in the observation measures where the base is: of its odometry "
                f"{view.name or 'base'}.pose: {{topic: ODOMETRY, type: nav_msgs/msg/Odometry, field: "
                "pose.pose, layout: pose, frame: odom}"
            )
            yield None, nothing
            continue
        amount = scale * (BASE_RAD if axis >= 3 else BASE_M)
        yield Element(nothing.name, view, index, -1, unit, amount, source, axis), nothing


def grippers_that_open(spec: RobotSpec) -> list[str]:
    """Grippers whose opening nothing measures: they cannot be held as they are, and open when the
    robot is commanded for the first time."""
    return [
        _named(view, (view.spec.action.names or ["gripper"] * view.spec.action.size)[index])
        for view in group_views(spec)
        for count, index in enumerate(view.spec.grippers)
        if not _gripper_source(
            view, (view.spec.action.names or [""] * view.spec.action.size)[index], count
        )[0]
    ]


def _allowed(action: Array, spec: RobotSpec) -> Array:
    """An action of the robot near to this one; choices hold."""
    clipped = np.clip(action, spec.action.low_array, spec.action.high_array)
    chosen = list(spec.action.categorical)
    clipped[chosen] = spec.hold_choices or spec.action.low_array[chosen]
    return np.asarray(clipped, spec.action.dtype)


def _gripper_source(view: GroupView, name: str, count: int) -> tuple[str, int]:
    """Array, and element of it, that shows a gripper; an empty name where none does."""
    observation, total = view.spec.observation, len(view.spec.grippers)
    own = (name, f"{name.removesuffix('_gripper')}.gripper", f"gripper_{name}")
    for source in own if total > 1 else ("gripper", *own):
        if source in observation and observation[source].size == 1:
            return source, 0
    both = observation.get("gripper")
    return ("gripper", count) if both is not None and both.size == total else ("", 0)


def _named(view: GroupView, element: str) -> str:
    """Name of an element for people, with that of its group unless it says that already."""
    said = not view.name or element.startswith((f"{view.name}_", f"{view.name}."))
    return element if said else f"{view.name}.{element}"


class MotionCheck:
    """Moves one element after another, and compares what was told with what was measured.

    Args:
        hal: The robot behind its gate, open.
        safety: Its limits, which the motion stays below.
        scale: Factor on the usual amounts.
        seconds: How long one way takes at least.
    """

    def __init__(
        self, hal: LocalHal, safety: SafetyConfig, scale: float = 1.0, seconds: float = 0.8
    ) -> None:
        self._hal, self._safety, self._scale, self._seconds = hal, safety, scale, seconds
        self._period_s = hal.spec.period_s
        self._sequence = 0
        self._hold: dict[str, Array] = {}  # the absolute target of each group that has one

    def run(self, progress: Callable[[str], None] = lambda name: None) -> MotionReport:
        """Try everything; ends early when the robot does what it must not."""
        report = MotionReport()
        for element, result in elements_of(self._hal, self._scale):
            report.moved.append(result)
            if element is None:
                continue
            if report.trouble:
                result.detail = "not after the fault above"
                continue
            progress(element.name)
            try:
                self._try_twice(element, result)
            except SuiteError as error:
                result.verdict, result.detail = "stopped", str(error)
            if result.verdict == "stopped":
                report.trouble = f"{element.name}: {result.detail}"
        return report

    # --- one element ---

    def _try_twice(self, element: Element, result: Moved) -> None:
        """Try it; once more where the robot was stopped meanwhile, by a reading that came late for
        instance, and goes on."""
        try:
            self._ask(element, result)
        except _Interrupted:
            if not self._goes_on():
                raise
            result.interrupted = True
            self._ask(element, result)

    def _ask(self, element: Element, result: Moved) -> None:
        """Try it; once more where it did not move as told, for who was late looks like that, too: a verdict that says
        that something is wrong with the robot needs two measurements that agree."""
        self._try(element, result)
        if result.good is not False or result.verdict == "stopped" or self._hal.spec.lockstep:
            return
        again = Moved(result.name, result.unit, interrupted=result.interrupted)
        self._try(element, again)
        if again.verdict == "not tried":
            return
        first, second = result.share, again.share
        vars(result).update(vars(again))
        if again.verdict == "stopped":  # nothing else may be moved
            return
        late = self._of_velocity(element) and again.late_s > _LATE_SHARE * again.took_s
        if again.verdict == "moved":
            result.detail = (
                result.detail or f"at first {first:.2f} of what it was told was measured"
            )
        elif abs(second - first) > _SAME_SHARE * max(1.0, abs(first), abs(second)) or late:
            result.verdict = "not measured"
            result.detail = (
                f"{first:.2f} of what it was told, and {second:.2f} the second time"
                if not late
                else f"{second:.2f} of what it was told, by commands that were late: velocities held for longer go further"
            )

    def _of_velocity(self, element: Element) -> bool:
        """Whether what it goes depends on how long a command is held."""
        return element.gripper < 0 and element.view.spec.action_kind in _VELOCITIES

    def _goes_on(self) -> bool:
        """Wait until commands pass again, holding it where it is; whether they do."""
        end_s = time.monotonic() + _SETTLE_S
        while time.monotonic() < end_s:
            if not self._hal.unready():
                self._hold = self._targets(self._newest())
                with contextlib.suppress(SuiteError):
                    self._hal.send(self._chunk(self._resting()))
            time.sleep(max(self._period_s, _LOOK_S))
            if not self._hal.trouble():
                return True
        return False

    def _try(self, element: Element, result: Moved) -> None:
        start_observation = self._newest()
        self._hold = self._targets(start_observation)
        start = element.measure(start_observation)
        steps = self._steps(element, start, result)
        if not steps:
            return
        begin_s = time.monotonic()
        told = self._go(element, start, steps, 0.0, result)
        if result.verdict == "stopped":
            return
        result.took_s = len(steps) * self._period_s
        result.late_s = time.monotonic() - begin_s - result.took_s
        there = self._settled(element, start, told, told)
        way = element.way(start, there)
        result.told, result.went = told, float(way[element.row])
        returned = self._go(element, start, [-step for step in steps], sum(steps), result)
        if result.verdict == "stopped":
            return
        end = element.way(start, self._settled(element, start, told, told + returned))
        result.back = float(end[element.row])
        if abs(told + returned) > 0.5 * abs(told):
            result.detail = "the way back was cut by the safety gate"
        _judge(element, result, way)

    def _steps(self, element: Element, start: Array, result: Moved) -> list[float]:
        """How far to go in each period, in the element's unit; empty: it must not be tried."""
        per_step = self._largest_step(element)
        amount = element.amount
        if per_step <= 0:
            result.detail = "the bounds of the action do not allow there and back"
            return []
        count = max(8, math.ceil(self._seconds / self._period_s), math.ceil(2 * amount / per_step))
        if count > _MOST_STEPS:
            count = _MOST_STEPS
            amount = per_step * count / 2
        room = self._room(element, start)
        if room < 0:
            amount = -amount
        shares = [2 * math.sin(math.pi * (k + 0.5) / count) ** 2 / count for k in range(count)]
        return [amount * share for share in shares]

    def _largest_step(self, element: Element) -> float:
        spec, safety, period_s = element.view.spec, self._safety, self._period_s
        if element.gripper >= 0:
            return 1.0
        place = element.view.part.start + element.index
        limits = [math.inf]
        if spec.action_kind not in _ABSOLUTE:
            low = float(spec.action.low_array[element.index])
            high = float(spec.action.high_array[element.index])
            per_period = period_s if spec.action_kind in _VELOCITIES else 1.0
            limits.append(min(-low, high) * per_period * self._unit(element))
        own = safety.groups.get(element.view.name)
        motions = [(safety.step, 1.0, place), (safety.velocity, period_s, place)]
        if own is not None:
            motions += [(own.step, 1.0, element.index), (own.velocity, period_s, element.index)]
        for motion, factor, index in motions:
            if motion.each:
                limit = motion.each[index if len(motion.each) > index else 0]
                limits.append(0.8 * limit * factor)
            vector = motion.angular if element.turns else motion.linear
            if vector is not None and (spec.action_kind in TOOL_KINDS or element.axis >= 0):
                limits.append(0.8 * vector * factor)
        quickest = [(safety.acceleration.each, place)]
        if own is not None:
            quickest.append((own.acceleration.each, element.index))
        for each, index in quickest:
            if each:
                limit = each[index if len(each) > index else 0]
                # the fastest step of a motion over T with the amount A is 2 A / T for T = sqrt(2 pi A / a)
                limits.append(0.8 * period_s * math.sqrt(2 * element.amount * limit / math.pi))
        return min(limits)

    def _unit(self, element: Element) -> float:
        """What one unit of the action moves, in the element's unit."""
        scale = self._safety.action_scale
        if not scale:
            return 1.0
        place = element.view.part.start + element.index
        return scale[place if len(scale) > place else 0]

    def _room(self, element: Element, start: Array) -> float:
        """Positive where it had better go up, negative where down."""
        here = float(start[element.row])
        if element.gripper >= 0:
            return 1.0 if here < 0.5 else -1.0
        spec, limits, box = element.view.spec, self._safety.joint_limits, self._safety.workspace
        if spec.action_kind in JOINT_KINDS:
            measured = spec.observation["joint_position"]
            low, high = float(measured.low_array[element.row]), float(measured.high_array[element.row])  # fmt: skip
            place = element.view.part.start + element.index
            if len(limits.low) > place and len(limits.high) > place:
                low, high = limits.low[place], limits.high[place]
        elif element.axis < 0 and element.index < 3 and box.given:
            low, high = box.low[element.index], box.high[element.index]
        else:
            return 1.0
        return 1.0 if high - here >= here - low or high - here > 4 * element.amount else -1.0

    # --- commands ---

    def _targets(self, observation: Observation) -> dict[str, Array]:
        """Where the groups with absolute actions are, as actions."""
        found = {}
        for view in group_views(self._hal.spec):
            arrays, spec = view.arrays(observation.arrays), view.spec
            target = spec.action.zeros().astype(float)
            arms = [i for i in range(spec.action.size) if i not in spec.grippers]
            if spec.action_kind in _ABSOLUTE:
                name = "joint_position" if spec.action_kind in JOINT_KINDS else "tcp_pose"
                target[arms] = arrays[name]
            names = spec.action.names or [""] * spec.action.size
            for count, index in enumerate(spec.grippers):
                source, row = _gripper_source(view, names[index], count)
                target[index] = float(arrays[source][row]) if source else 1.0
            found[view.name] = target
        return found

    def _go(
        self, element: Element, start: Array, steps: Sequence[float], done: float, result: Moved
    ) -> float:
        """Go all steps; returns what was carried out of them, in the element's unit."""
        carried, begin = 0.0, done
        absolute = element.gripper >= 0 or element.view.spec.action_kind in _ABSOLUTE
        limit = abs(done) + abs(sum(steps))
        for step in steps:
            done += step
            applied = self._send(self._action(element, start, step, done))
            if applied is not None and absolute:
                carried = self._target(element, start, applied) - begin
            elif applied is not None:
                carried += self._change(element, applied)
            went = element.way(start, element.measure(self._newest()))
            if abs(float(went[element.row])) > 2 * limit + abs(done):
                result.told, result.went = done, float(went[element.row])
                result.verdict = "stopped"
                result.detail = (
                    f"it was told to go {done:+.4f} {element.unit}, and went "
                    f"{result.went:+.4f}: stopped. Look at the units (scale) of the command"
                )
                break
        return carried

    def _action(self, element: Element, start: Array, step: float, done: float) -> Array:
        """The whole robot's action in which one element moves."""
        spec = self._hal.spec
        action = np.zeros(spec.action.size)
        for view in group_views(spec):
            own = np.array(self._hold[view.name])
            if view.name == element.view.name:
                self._move(element, own, start, step, done)
                if element.gripper >= 0 or view.spec.action_kind in _ABSOLUTE:
                    self._hold[view.name] = np.array(own)
            action[view.part] = own
        return _allowed(action, spec)

    def _move(self, element: Element, own: Array, start: Array, step: float, done: float) -> None:
        kind = element.view.spec.action_kind
        if element.gripper >= 0:
            own[element.index] = float(start[element.gripper]) + done
        elif kind is ActionKind.JOINT_POSITION:
            own[element.index] = float(start[element.index]) + done
        elif kind is ActionKind.EE_POSE:
            shift = np.zeros(6)
            shift[element.index] = done
            own[:3] = start[:3] + shift[:3]
            turn = from_vector((float(shift[3]), float(shift[4]), float(shift[5])))
            own[3:7] = multiply(turn, _quaternion(start))
        else:
            per_period = self._period_s if kind in _VELOCITIES else 1.0
            own[element.index] = step / (per_period * self._unit(element))

    def _target(self, element: Element, start: Array, applied: Array) -> float:
        """How far from its start an absolute action sends the element."""
        own = applied[element.view.part]
        if element.gripper >= 0:
            return float(own[element.index] - start[element.gripper])
        return float(element.way(start, own[: len(start)])[element.row])

    def _change(self, element: Element, applied: Array) -> float:
        """How far a change or velocity moves the element."""
        velocity = element.view.spec.action_kind in _VELOCITIES
        number = float(applied[element.view.part][element.index])
        return number * (self._period_s if velocity else 1.0) * self._unit(element)

    def _send(self, action: Array) -> Array | None:
        """Have one action carried out, and wait for its period; what was really applied."""
        begin_s = time.monotonic()
        self._hal.send(self._chunk(action))
        self._refuse_trouble()
        if not self._hal.spec.lockstep:
            time.sleep(max(0.0, begin_s + self._period_s - time.monotonic()))
        deadline_s = begin_s + 10 * self._period_s + 0.5
        while True:
            applied = self._newest().applied
            if applied is not None and applied.sequence >= self._sequence:
                return np.asarray(applied.action, float)
            self._refuse_trouble()
            if time.monotonic() > deadline_s or self._hal.spec.lockstep:
                return None
            time.sleep(0.002)

    def _chunk(self, action: Array) -> ActionChunk:
        self._sequence += 1
        return ActionChunk(
            action[None],
            int(self._period_s * 1e9),
            sequence=self._sequence,
            acted_by=ActedBy.SCRIPT,
        )

    def _settled(self, element: Element, start: Array, told: float, place: float) -> Array:
        """Hold until it has come to rest; where it is then.

        Three looks alike are rest where it is about at the place where it should be, a way from its start; elsewhere
        it must have stood for :data:`_LATE_S`, unless it steps with the commands.
        """
        begin_s = since_s = time.monotonic()
        near, patience_s = (
            (1 - _FOLLOWED[0]) * abs(told),
            0.0 if self._hal.spec.lockstep else _LATE_S,
        )
        quiet, here = 0, element.measure(self._newest())
        while time.monotonic() < begin_s + _SETTLE_S + patience_s:
            self._send(self._resting())
            now = element.measure(self._newest())
            moved = abs(float(element.way(here, now)[element.row]))
            quiet, here = (quiet + 1 if moved < 0.02 * element.amount else 0), now
            since_s = since_s if quiet else time.monotonic()
            off = abs(float(element.way(start, now)[element.row]) - place)
            if quiet >= 3 and (off <= near or time.monotonic() - since_s >= patience_s):
                break
        return here

    def _resting(self) -> Array:
        """The action that changes nothing."""
        spec = self._hal.spec
        action = np.zeros(spec.action.size)
        for view in group_views(spec):
            action[view.part] = self._hold[view.name]
        return _allowed(action, spec)

    def _newest(self) -> Observation:
        observation = self._hal.observations.newest
        assert observation is not None  # noqa: S101 - open() waited for the first
        return observation

    def _refuse_trouble(self) -> None:
        trouble = self._hal.trouble()
        if trouble:
            passing = self._hal.status().cause.code in _PASSING
            raise (_Interrupted if passing else SuiteError)(f"the robot was stopped: {trouble}")


def _judge(element: Element, result: Moved, way: Array) -> None:
    told, went, unit = result.told, result.went, element.unit
    if abs(told) < 0.2 * abs(element.amount):
        result.verdict = "not tried"
        result.detail = "the safety gate lets next to nothing of it through"
        return
    share = went / told
    if abs(share) < _NOTHING:
        result.verdict = "did not move"
        others = np.abs(np.delete(way, element.row)) if element.gripper < 0 else np.zeros(0)
        if others.size and float(others.max()) > 0.5 * abs(told):
            other = int(np.argmax(np.where(np.arange(len(way)) == element.row, 0.0, np.abs(way))))
            names = _SIX if element.axis >= 0 else element.view.spec.action.names
            name = names[other] if other < len(names) else f"element {other}"
            result.detail = f"{name} moved instead, by {way[other]:+.4f}: look at the order"
    elif share < 0:
        result.verdict = "wrong way"
        result.detail = f"{share:+.2f} of what it was told: look at the sign (scale)"
    elif not _FOLLOWED[0] <= share <= _FOLLOWED[1]:
        result.verdict, result.detail = "other scale", _scale_text(share)
    else:
        result.verdict = "moved"
        if abs(result.back) > 0.5 * abs(told):
            result.detail = f"did not come back: {result.back:+.4f} {unit} off"


def _scale_text(share: float) -> str:
    for factor, what in (
        (180 / math.pi, "degrees are taken or reported for radians"),
        (1000.0, "millimetres are taken or reported for metres"),
    ):
        for ratio in (factor, 1 / factor):
            if 0.8 < share / ratio < 1.25:
                return f"{share:.3g} times what it was told: {what} (scale)"
    return f"{share:.3g} times what it was told: look at the scale of the command"


def _quaternion(pose: Array) -> tuple[float, float, float, float]:
    x, y, z, w = (float(value) for value in pose[3:7])
    return x, y, z, w
