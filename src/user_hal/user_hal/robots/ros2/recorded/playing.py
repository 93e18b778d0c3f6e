"""Plays a recording to a contract, step by step.

A step is what the control loop would have had: at each period's beginning the newest moment for
which all topics have spoken, and then what the robot was told until the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from user_core.errors import ConfigError, DeviceError, DeviceFault
from user_core.specs import Array, ArraySpec, RobotSpec
from user_hal.cameras.ros_topic import RosTopicCamera
from user_hal.cameras.with_cameras import CamerasConfig, FrameAligner, build_cameras
from user_hal.robots.ros2.contract import Ros2Config, groups_of, robot_spec
from user_hal.robots.ros2.description import described, parse_urdf, read_urdf
from user_hal.robots.ros2.field_paths import FieldPath
from user_hal.robots.ros2.reading.observations import Observer
from user_hal.robots.ros2.reading.topic_parts import TopicPart
from user_hal.robots.ros2.recorded.actions import GroupActions
from user_hal.robots.ros2.recorded.config import NumberConfig, RecordingConfig
from user_hal.robots.ros2.recorded.cuts import Cut, Events, Silences, cut
from user_hal.robots.ros2.recorded.topics import RecordedTopics
from user_hal.topic_io import attach_topics


class Message(NamedTuple):
    """A recorded message.

    Attributes:
        topic: Its topic.
        time_ns: When it was recorded.
        decode: Makes the message.
    """

    topic: str
    time_ns: int
    decode: Callable[[], Any]


@dataclass
class Steps:
    """What became of an episode.

    Attributes:
        observations: By name, (n + 1, ...): the last row is the final observation.
        actions: What the robot was told (or did), (n, a) float32, not cut to its bounds.
        rewards: (n,) float32; NaN where nobody said one.
        stamps_ns: Of the observations, (n + 1,).
        action_stamps_ns: When each period began, (n,).
        notes: What a person should know.
    """

    observations: dict[str, Array]
    actions: Array
    rewards: Array
    stamps_ns: Array
    action_stamps_ns: Array
    notes: list[str] = field(default_factory=list)


class Recording:
    """A recording, as a robot's contract sees it.

    Args:
        contract: The robot's.
        config: What episodes are.
        message_class: Finds the class of a message type, made without arguments.
        types: Types by topic, of all that is recorded.
        cameras: More cameras than the contract's own.
        urdf: Text of the robot's description, where it was recorded.

    Attributes:
        spec: What the robot shows and takes.

    Raises:
        ConfigError: The contract cannot be read from topics, or a topic was not recorded, or with
            another type; names all of them.
    """

    def __init__(
        self,
        contract: Ros2Config,
        config: RecordingConfig,
        message_class: Callable[[str], type[Any]],
        types: Mapping[str, str],
        cameras: CamerasConfig | None = None,
        urdf: str = "",
    ) -> None:
        if contract.urdf is not None:
            if contract.urdf.file:
                contract, _ = described(contract, read_urdf(contract.urdf.file))
            elif urdf:
                contract, _ = described(contract, parse_urdf(urdf))
        self.contract, self.config = contract, config
        self._message_class, self._types = message_class, dict(types)
        self._cameras = [
            (build_cameras(one), one.max_skew_s)
            for one in (contract.cameras, cameras) if one is not None and one.devices
        ]  # fmt: skip
        self._of_topics: list[RosTopicCamera] = []
        for made, _ in self._cameras:
            for name, camera in made.items():
                if not isinstance(camera, RosTopicCamera):
                    raise ConfigError(
                        f"camera {name!r}", got=type(camera).__name__,
                        expected="ros_topic: others are not recorded on topics",
                    )  # fmt: skip
                self._of_topics.append(camera)
        images: dict[str, ArraySpec] = {}
        for made, skew_s in self._cameras:
            images |= FrameAligner(made, skew_s).specs
        # Says what is read; each episode has one of its own to read it.
        self._observer = Observer(contract)
        self.spec: RobotSpec = robot_spec(contract, {**self._observer.specs, **images})
        self._make_actions()
        self._require_topics()

    def _make_actions(self) -> None:
        measured = self.config.actions == "measured"
        self._groups = [GroupActions(group, measured) for group in groups_of(self.contract)]

    # --- what is needed of the recording ----------------------------------------------------

    def types_needed(self) -> dict[str, str]:
        """Topics that there must be, with their types; empty: any."""
        needed: dict[str, str] = {}
        for part in self._parts():
            needed[part.config.topic] = part.config.type
        needed |= dict.fromkeys((camera.topics_read[0] for camera in self._of_topics), "")
        for group in self._groups:
            needed |= group.types
        config = self.config
        needed |= dict.fromkeys((event.heard_on for event in config.events.values()), "")
        for number in (config.reward, config.task_from):
            if number is not None:
                needed[number.topic] = ""
        return needed

    @property
    def topics(self) -> set[str]:
        """All topics that are read."""
        more = {topic for camera in self._of_topics for topic in camera.topics_read}
        more |= set(self._observer.listeners)
        more |= {f"{topic}_static" for topic in self._observer.listeners}
        return (set(self.types_needed()) | more) & set(self._types)

    @property
    def kept_topics(self) -> set[str]:
        """Topics of which each message counts, however old it is."""
        kept = {part.config.topic for part in self._parts() if part.config.latched}
        kept |= {f"{topic}_static" for topic in self._observer.listeners}
        return kept & set(self._types)

    @property
    def newest_topics(self) -> set[str]:
        """Topics of which only the newest message counts, however old it is: of calibrations."""
        about = {topic for camera in self._of_topics for topic in camera.topics_read[1:]}
        return about & set(self._types)

    @property
    def warm_up_ns(self) -> int:
        """How long before an episode messages are played, so that everything has spoken."""
        return 2_000_000_000 + max(self._longest_ns().values(), default=0)

    def _parts(self) -> Iterator[TopicPart]:
        for source in self._observer.sources.values():
            for part in source.parts:
                if isinstance(part, TopicPart):
                    yield part

    def _longest_ns(self) -> dict[str, int]:
        """By topic, the silence that ends an episode."""
        gap_ns = round(self.config.gap_s * 1e9)
        found: dict[str, int] = {}
        for part in self._parts():
            if not part.config.latched:
                longest = gap_ns or round(part.max_age_s * 1e9)
                found[part.config.topic] = min(longest, found.get(part.config.topic, longest))
        for camera in self._of_topics:
            found[camera.topics_read[0]] = gap_ns or round(camera.max_age_s * 1e9)
        if not found:  # a robot that is only seen on /tf
            found = dict.fromkeys(
                [t for t in self._observer.listeners if t in self._types],
                gap_ns or round(self.contract.timing.max_age_s * 1e9),
            )
        return found

    def _require_topics(self) -> None:
        needed = self.types_needed()
        missing = sorted(set(needed) - set(self._types))
        other = [
            f"{topic} is {self._types[topic]}, not {wanted}"
            for topic, wanted in needed.items()
            if wanted and topic in self._types and self._types[topic] != wanted
        ]
        if missing or other:
            told = sorted(set(missing) & {t for group in self._groups for t in group.types})
            raise ConfigError(
                "topics of the contract",
                got="; ".join([*(f"{topic} was not recorded" for topic in missing), *other]),
                expected=f"some of {sorted(f'{t} ({k})' for t, k in self._types.items())}",
                hint="Without a recording of commands write actions: measured" if told else "",
            )
        for topic, wanted in needed.items():
            if wanted and topic not in self._observer.listeners:
                self._message_class(wanted)  # known, or it says so before anything is read

    # --- episodes ---------------------------------------------------------------------------

    @property
    def event_topics(self) -> set[str]:
        """Topics of events and tasks, which say where episodes begin and end."""
        told = {event.heard_on for event in self.config.events.values()}
        if self.config.task_from is not None:
            told.add(self.config.task_from.topic)
        return told

    @property
    def timed_topics(self) -> set[str]:
        """Topics whose silence ends an episode."""
        return set(self._longest_ns())

    def cuts(self, times_ns: Mapping[str, Array], told: Iterable[Message]) -> list[Cut]:
        """The episodes.

        Args:
            times_ns: When the messages of :attr:`timed_topics` came: sorted.
            told: Messages of :attr:`event_topics`, in the order of their times.

        Raises:
            DeviceFault: A topic of the observation never spoke, or an event's field is not there.
        """
        events = {key: Events(event) for key, event in self.config.events.items()}
        heard: dict[str, list[Events]] = {}
        for one in events.values():
            heard.setdefault(one.config.heard_on, []).append(one)
        silences, tasks = Silences(self._longest_ns(), times_ns), []
        for message in told:
            for one in heard.get(message.topic, ()):
                try:
                    one.take(message.time_ns, message.decode())
                except (AttributeError, IndexError) as error:
                    raise DeviceFault(
                        f"event on {message.topic!r}", got=str(error),
                        expected=f"a field {one.config.field!r}",
                    ) from error  # fmt: skip
            task = self.config.task_from
            if task is not None and message.topic == task.topic:
                tasks.append((message.time_ns, str(_value(task, message.decode()))))
        if silences.missing:
            raise DeviceFault(
                "recording", got=f"no message on {silences.missing}", expected="some on each topic"
            )
        return cut(self.config, events, silences, tasks)

    def steps(self, episode: Cut, messages: Iterable[Message]) -> Steps:
        """Play the messages around an episode.

        Args:
            episode: Which.
            messages: Of :attr:`topics`, from :attr:`warm_up_ns` before the episode to its end, in
                the order of their times; those of :attr:`kept_topics` from the beginning, and the
                newest before of each of :attr:`newest_topics`.

        Raises:
            DeviceError: What was recorded is not what the contract says; says when.
        """
        self._make_actions()  # nothing is left of another episode
        return _Player(self, episode, self._groups, self._cameras).play(messages)


def _value(number: NumberConfig, message: Any) -> Any:
    try:
        return FieldPath(number.field).get(message)
    except (AttributeError, IndexError) as error:
        raise DeviceFault(
            f"topic {number.topic!r}", got=str(error), expected=f"a field {number.field!r}"
        ) from error


class _Player:
    def __init__(
        self,
        recording: Recording,
        episode: Cut,
        groups: list[GroupActions],
        cameras: list[tuple[dict[str, Any], float]],
    ) -> None:
        self._recording, self._episode, self._groups = recording, episode, groups
        self._io = RecordedTopics(recording._message_class, recording._types)  # noqa: SLF001
        self._observer = Observer(recording.contract)
        self._aligners = [FrameAligner(made, skew_s) for made, skew_s in cameras]
        for made, _ in cameras:
            for camera in made.values():
                attach_topics(camera, self._io)
        self._period_ns = round(recording.contract.period_s * 1e9)
        self._commanded: dict[str, list[GroupActions]] = {}
        for group in groups:
            for topic in group.types:
                self._commanded.setdefault(topic, []).append(group)
        self._reward = recording.config.reward
        self._rewards: list[tuple[int, float]] = []
        self._observer.subscribe(self._io)
        self._has_cameras = False

    def play(self, messages: Iterable[Message]) -> Steps:
        source = iter(messages)
        waiting: Message | None = next(source, None)
        tick_ns, end_ns = self._episode.start_ns, self._episode.end_ns
        rows: list[tuple[dict[str, Array], int]] = []
        actions: list[Array] = []
        began: list[int] = []
        problem: DeviceError | None = None
        while tick_ns <= end_ns:
            while waiting is not None and waiting.time_ns <= tick_ns:
                self._take(waiting)
                waiting = next(source, None)
            self._io.pass_to(tick_ns)
            try:
                seen = self._observe()
            except DeviceError as error:
                if actions:
                    at_s = (tick_ns - self._episode.start_ns) / 1e9
                    raise type(error)(
                        f"{at_s:.2f} s after its start: {error.what}", got=error.got,
                        expected=error.expected, hint=error.hint,
                    ) from error  # fmt: skip
                problem, rows, began = error, [], []
                tick_ns += self._period_ns
                continue
            if rows:
                action = self._action(began[-1], tick_ns, rows[-1][0], seen[0])
                if action is None:  # nothing was told yet: the episode begins later
                    rows, began = [], []
                else:
                    actions.append(action)
            rows.append(seen)
            began.append(tick_ns)
            tick_ns += self._period_ns
        if not actions:
            raise problem or DeviceFault(
                "episode", got="no command within it", expected="what the robot was told",
                hint="actions: measured takes what it did",
            )  # fmt: skip
        return self._steps(rows, actions, began)

    def _take(self, message: Message) -> None:
        topic, time_ns, decode = message
        made, reward = decode(), self._reward
        if reward is not None and topic == reward.topic:
            self._rewards.append((time_ns, float(_value(reward, made))))
        for group in self._commanded.get(topic, ()):
            group.take(topic, time_ns, made)
        self._io.put(topic, time_ns, made)

    def _observe(self) -> tuple[dict[str, Array], int]:
        arrays, moment_ns = self._observer.read()
        if not self._has_cameras:  # they wait for an image, and get the newest at once
            for aligner in self._aligners:
                aligner.connect()
            self._has_cameras = True
        for aligner in self._aligners:
            arrays.update(aligner.at(moment_ns))
        return arrays, moment_ns

    def _action(
        self, start_ns: int, end_ns: int, before: dict[str, Array], after: dict[str, Array]
    ) -> Array | None:
        parts = [group.between(start_ns, end_ns, before, after) for group in self._groups]
        if any(part is None for part in parts):
            return None
        return np.concatenate([part for part in parts if part is not None])

    def _steps(
        self, rows: list[tuple[dict[str, Array], int]], actions: list[Array], began: list[int]
    ) -> Steps:
        stamps = np.array([stamp for _, stamp in rows], np.int64)
        repeated = int((np.diff(stamps) <= 0).sum())
        notes = []
        if repeated:
            notes.append(
                f"{repeated} of {len(actions)} steps show the same moment as the one before"
            )
        rewards = np.full(len(actions), np.nan, np.float32)
        for time_ns, reward in self._rewards:
            step = int(np.searchsorted(began, time_ns, side="left")) - 1
            if 0 <= step < len(actions):
                rewards[step] = reward
        observations = {name: np.stack([row[name] for row, _ in rows]) for name in rows[0][0]}
        return Steps(
            observations, np.array(actions, np.float32), rewards, stamps,
            np.array(began[: len(actions)], np.int64), notes,
        )  # fmt: skip
