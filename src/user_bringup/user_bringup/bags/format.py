"""The format ``rosbag`` of ``user data``: a bag, and the contract of the robot that it is of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from user_bringup.bags.proposing import propose
from user_bringup.bags.reading import Bag, in_order, is_bag, ran_twice, rates
from user_core.body.embodiment import EmbodimentConfig
from user_core.codecs.trajectory import RecordedEpisode
from user_core.config import from_mapping, setting
from user_core.errors import CodecError, ConfigError, SpecError
from user_core.plugins import load
from user_core.specs import Array
from user_core.types import (
    OBSERVATION,
    ActedBy,
    EpisodeResult,
    EpisodeSource,
    Outcome,
    RewardSource,
    TrajectorySchema,
)
from user_hal.robot_file import RobotFile, find_robot_file, load_robot_file
from user_hal.robots.ros2.contract import Ros2Config
from user_hal.robots.ros2.recorded.config import RecordingConfig
from user_hal.robots.ros2.recorded.cuts import Cut
from user_hal.robots.ros2.recorded.playing import Message, Recording, Steps
from user_learner.data.mapping import key_of
from user_learner.data.source import (
    Description,
    EpisodeRef,
    Field,
    SourceEpisode,
    array_parts,
    identity_of,
    place_of,
)

_STRING = "std_msgs/msg/String"


class RosbagConfig(RecordingConfig):
    """Options of the format ``rosbag``."""

    robot: str = setting("", doc="The robot's file, or the name of a ready one: its contract.")
    distribution: str = setting(
        "jazzy", doc="ROS distribution whose message types are known besides those of the bag."
    )
    definitions: tuple[str, ...] = setting(
        (), doc="Folders with ROS packages (PACKAGE/msg/NAME.msg), for types that neither has."
    )


class RosbagFormat:
    """Bags of ROS 2."""

    name = "rosbag"
    title = "a bag of ROS 2 (MCAP or SQLite), by the contract of its robot (--robot)"

    def recognises(self, path: Path) -> bool:
        """Whether there are a bag's metadata, or a file of one."""
        return is_bag(path)

    def open(self, path: Path, options: Mapping[str, Any]) -> RosbagSource:
        """Open a bag."""
        known = {k: v for k, v in options.items() if k != "period_s"}
        return RosbagSource(path, from_mapping(RosbagConfig, known, "options of a bag"))


FORMAT = RosbagFormat()


class RosbagSource:
    """A bag that is open.

    Raises:
        CodecError: It cannot be read.
        ConfigError: The contract does not fit it; names what is missing.
    """

    def __init__(self, path: Path, config: RosbagConfig) -> None:
        self.path, self._config = path, config
        self._bag = Bag(path, config.distribution, config.definitions)
        self._recording: Recording | None = None
        self._cuts: list[Cut] = []
        self._about: dict[str, Array] = {}  # when calibrations of cameras were said
        self._twice: list[tuple[int, int]] = []  # spans of time that were recorded twice
        if config.robot:
            self._recording = self._make_recording(load_robot_file(find_robot_file(config.robot)))
            self._cuts = self._cut(self._recording)

    def _cut(self, recording: Recording) -> list[Cut]:
        self._about = self._bag.times(recording.newest_topics)
        written = self._bag.written(recording.timed_topics)
        self._twice = ran_twice(written)
        whole = recording.cuts(in_order(written), self._messages(recording.event_topics))
        least_ns = max(1, round(recording.config.least_s * 1e9))
        return [part for episode in whole for part in once(episode, self._twice, least_ns)]

    def _make_recording(self, file: RobotFile, measured: bool = False) -> Recording:
        config_class = load("robots", file.robot.plugin).Config
        if not issubclass(config_class, Ros2Config):
            raise ConfigError(
                f"robot {self._config.robot!r}", got=f"plugin {file.robot.plugin}",
                expected="ros2: a contract says what topics mean",
            )  # fmt: skip
        if file.grippers != "openings" or file.embodiment != EmbodimentConfig():
            raise ConfigError(
                f"robot {self._config.robot!r}", got="grippers: choices, or an embodiment",
                expected="neither: a bag is read in the robot's own space",
                hint="Import into a store of its own, and convert: user replay convert",
            )  # fmt: skip
        contract = from_mapping(config_class, file.robot.params, "robot.params")
        urdf = ""
        if contract.urdf is not None and not contract.urdf.file:
            topic = contract.urdf.topic
            if self._bag.types.get(topic) == _STRING:
                first = next(iter(self._bag.messages([topic])), None)
                urdf = str(self._bag.decode(first).data) if first is not None else ""
        config = self._config.replace(actions="measured") if measured else self._config
        return Recording(
            contract, config, self._bag.message_class, self._bag.types, file.cameras, urdf
        )

    def describe(self) -> Description:
        """The episodes by the contract; without one, what each topic carries."""
        recording = self._recording
        if recording is None:
            return self._describe_topics()
        notes = (*self._bag.notes, *map(_said_twice, self._twice))
        spec = recording.spec
        fields = {
            name: Field(
                one.shape, one.dtype, one.unit, one.names,
                is_image=len(one.shape) == 3 and one.dtype == "uint8", is_observation=True,
            )
            for name, one in spec.observation.items()
        }  # fmt: skip
        fields["action"] = Field(
            spec.action.shape, spec.action.dtype, spec.action.unit, spec.action.names
        )
        fields["reward"] = Field((), "float32")
        steps = sum(round((c.end_ns - c.start_ns) / 1e9 / spec.period_s) for c in self._cuts)
        return Description(
            "rosbag", fields, spec.period_s, spec.robot, len(self._cuts), steps,
            tuple(sorted({c.task for c in self._cuts if c.task})),
            as_it_was=TrajectorySchema.of(spec), spec=spec,
            roles={"action": "action", "reward": "reward"}, notes=notes,
        )  # fmt: skip

    def _describe_topics(self) -> Description:
        written = self._bag.written(self._bag.types)
        found = rates(in_order(written))
        notes = (*self._bag.notes, *map(_said_twice, ran_twice(written)))
        fields = {}
        for topic, name in sorted(self._bag.types.items()):
            count, rate_hz, silence_s = found.get(topic, (0, 0.0, 0.0))
            fields[topic] = Field(
                (), name,
                note=f"{count:,} messages, {rate_hz:.4g} Hz, longest silence {silence_s:.3g} s",
            )  # fmt: skip
        proposal = propose(self._bag, self._play)
        hint = "--robot FILE says by a contract what they mean: then there are episodes"
        return Description(
            "rosbag", fields, notes=(*notes, *proposal.notes, hint), contract=proposal.contract
        )

    def _play(
        self, content: Mapping[str, Any], measured: bool
    ) -> tuple[Recording, list[Cut], Callable[[Cut], Steps]]:
        """What a contract makes of the bag. Raises SuiteError where it does not fit."""
        recording = self._make_recording(from_mapping(RobotFile, content), measured)
        return (
            recording, self._cut(recording),
            lambda episode: recording.steps(episode, self._around(recording, episode)),
        )  # fmt: skip

    def episodes(self) -> list[EpisodeRef]:
        """The episodes that the options cut out of it."""
        if self._recording is None:
            raise CodecError(
                f"bag {self.path}", got="no robot", expected="the contract of its robot",
                hint="--robot FILE: a bag is topics, and a contract says what they mean",
            )  # fmt: skip
        step = self._recording.spec.period_s * 1e9
        file = self.path if self.path.is_file() else self._bag.parts[0].path
        return [
            EpisodeRef(
                number, int((c.end_ns - c.start_ns) / step),
                place_of(file, c.start_ns, c.end_ns, *self._said()),
            )
            for number, c in enumerate(self._cuts)
        ]  # fmt: skip

    def read(
        self,
        ref: EpisodeRef,
        wanted: Collection[str] | None = None,
        sizes: Mapping[str, tuple[int, int]] | None = None,
    ) -> SourceEpisode:
        """Play one episode to the contract."""
        recording = self._recording
        if recording is None:
            raise CodecError(f"bag {self.path}", got="no robot", expected="--robot FILE")
        episode = self._cuts[ref.number]
        for span in self._twice:
            if episode.start_ns <= span[1] and span[0] <= episode.end_ns:
                raise CodecError(
                    f"bag {self.path}", got=_said_twice(span), expected="each moment once",
                    hint="Which message belongs to which motion, nobody can tell there",
                )  # fmt: skip
        steps = recording.steps(episode, self._around(recording, episode))
        identity = recorded_identity(steps)
        recorded = self._recorded(recording, episode, steps, identity)
        count = len(steps.actions)
        fields = {**steps.observations, "action": steps.actions}
        fields["reward"] = recorded.columns["reward"][:count]
        success = {Outcome.SUCCESS: True, Outcome.FAILURE: False}.get(episode.outcome)
        return SourceEpisode(
            fields, count, identity, episode.task, steps.stamps_ns, success, recorded,
        )  # fmt: skip

    def close(self) -> None:
        """Nothing stays open."""

    def _said(self) -> list[str]:
        """What an episode depends on besides the file: another contract gives another one."""
        recording = self._recording
        assert recording is not None  # noqa: S101 - asked after it was made
        return [repr(recording.contract), repr(self._config)]

    def _around(self, recording: Recording, episode: Cut) -> Iterator[Message]:
        start_ns = episode.start_ns - recording.warm_up_ns
        # nothing of what was recorded twice flows into the motion after it
        ends = [last + 1 for _, last in self._twice if last < episode.start_ns]
        start_ns = max([start_ns, *ends])
        kept = recording.kept_topics
        flows = [self._messages(kept, 0, start_ns)] if kept else []
        for topic, times in self._about.items():
            before = int(np.searchsorted(times, start_ns))
            if before:
                newest = int(times[before - 1])
                flows.append(self._messages([topic], newest, newest + 1))
        flows.append(self._messages(recording.topics, start_ns, episode.end_ns + 1))
        return chain.from_iterable(flows)

    def _messages(
        self, topics: Collection[str], start_ns: int = 0, end_ns: int = 2**63 - 1
    ) -> Iterator[Message]:
        decode = self._bag.decode
        for one in self._bag.messages(topics, start_ns, end_ns):
            yield Message(one.topic, one.time_ns, partial(decode, one))

    def _recorded(
        self, recording: Recording, episode: Cut, steps: Steps, identity: str
    ) -> RecordedEpisode:
        """The episode as the robot would have recorded it."""
        spec, config, count = recording.spec, recording.config, len(steps.actions)
        low, high = spec.action.low_array, spec.action.high_array
        row = np.arange(count + 1)
        step = row < count
        over = episode.outcome is not Outcome.UNKNOWN and config.terminated == "success"
        proposed = np.concatenate([steps.actions, np.zeros_like(steps.actions[:1])])
        said = np.isfinite(steps.rewards)
        reward = np.where(said, steps.rewards, 0.0)
        if config.reward is None and episode.outcome is Outcome.SUCCESS:
            reward[-1] = 1.0
        who = ActedBy[config.acted_by.upper()]
        columns: dict[str, Array] = {
            **{OBSERVATION + name: rows for name, rows in steps.observations.items()},
            "action": np.clip(proposed, low, high) * step[:, None],
            "proposed_action": proposed,
            "reward": np.append(reward, 0.0),
            "terminated": (row == count - 1) & over,
            "truncated": (row == count - 1) & (not over),
            "final": ~step,
            "acted_by": step * int(who),
            "reward_source": step * int(
                RewardSource.ROBOT if config.reward is not None else RewardSource.RELABELLED
            ),
            "policy_version": np.zeros(count + 1),
            "stamp_ns": steps.stamps_ns,
            "action_stamp_ns": np.append(steps.action_stamps_ns, 0),
        }  # fmt: skip
        schema = TrajectorySchema.of(spec)
        columns = {n: np.asarray(columns[n], s.dtype) for n, s in schema.columns.items()}
        for name, rows in columns.items():
            if rows.dtype.kind == "f" and not np.isfinite(rows).all():
                raise SpecError(name, got="a value that is not finite", expected="finite numbers")
        key = key_of(identity)
        source = EpisodeSource[config.source.upper()]
        result = EpisodeResult(
            key, source, episode.outcome, count, float(reward.astype(np.float64).sum()),
            interventions=0, start_ns=int(steps.stamps_ns[0]), end_ns=int(steps.stamps_ns[-1]),
            reason=f"imported: {episode.reason}"[:200],
        )  # fmt: skip
        return RecordedEpisode(key, source, columns, result, spec.robot, episode.task[:256])


def once(episode: Cut, twice: Sequence[tuple[int, int]], least_ns: int) -> list[Cut]:
    """The parts of an episode outside of the spans that were recorded twice, each an episode; one that has none stays
    whole, and cannot be read. What was said of the whole counts for the last part only, and only where it reaches the
    end.

    Args:
        episode: As it would be without such spans.
        twice: Spans of time, from and to, sorted.
        least_ns: Shorter parts are none.
    """
    parts: list[Cut] = []
    start_ns = episode.start_ns
    for first, last in twice:
        if last < start_ns or episode.end_ns < first:
            continue
        parts.append(replace(
            episode, start_ns=start_ns, end_ns=first - 1, outcome=Outcome.UNKNOWN,
            reason="what follows was recorded twice",
        ))  # fmt: skip
        start_ns = last + 1
    if not parts:
        return [episode]
    parts.append(replace(episode, start_ns=start_ns))
    return [part for part in parts if part.end_ns - part.start_ns >= least_ns] or [episode]


def _said_twice(span: tuple[int, int]) -> str:
    first_ns, end_ns = span
    when = datetime.fromtimestamp(first_ns / 1e9, timezone.utc).isoformat(" ", "milliseconds")
    return (
        f"{(end_ns - first_ns) / 1e9:.3g} s from {when} on that were recorded twice: a clock was set back, or two "
        "recordings lie in one folder"
    )


def recorded_identity(steps: Steps) -> str:
    """What an episode is known by: equal for an equal one in another bag."""
    fields = {**steps.observations, "action": steps.actions, "stamps": steps.stamps_ns}
    return identity_of(array_parts(fields))
