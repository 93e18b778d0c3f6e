"""Writes episodes as a bag: each column on a topic, beside the topics that tools of ROS know.

One episode comes after the other, a second between them, by the clock of the bag; headers have the
stamps of the rows, and ``/user/stamp_ns`` has them too. ``/user/episode`` says where an episode begins
and ends. Identities and results are metadata of the file, so that an export comes back as it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from user_core.codecs.trajectory import RecordedEpisode
from user_core.errors import CodecError
from user_core.runtime.files import sync_directory
from user_core.specs import Array, RobotSpec
from user_core.types import OBSERVATION, TrajectorySchema
from user_learner.data.mcap.bags import BagWriter, Channel
from user_learner.data.mcap.messages import IMAGE, Messages, encoder, type_of
from user_learner.replay.layout import result_to_dict

MEANING, EPISODE = "user_meaning", "user_episode"
VERSION = 1
EPISODE_TOPIC = "/user/episode"
PART_BYTES = 2**30
_BETWEEN_NS = 1_000_000_000
_STRING = "std_msgs/msg/String"
_JOINTS = ("joint_position", "joint_velocity", "joint_effort")


def topic_of(column: str, kind: str) -> str:
    """The topic of a column, exact."""
    if kind == IMAGE:
        camera = column.removeprefix(OBSERVATION).removeprefix("image_")
        return f"/camera/{camera}/image_raw"
    return "/user/" + column.replace(".", "/")


class McapWriter:
    """Writes episodes of one schema as a bag.

    Args:
        path: Its directory; must not be there. It appears when it is complete.
        schema: Of the episodes.
        spec: What they mean; None when nobody knows.

    Raises:
        CodecError: There is something of this name.
    """

    #: Nothing is continued: an export that was stopped begins again.
    written: frozenset[tuple[str, int, int]] = frozenset()
    loss_psnr_db = float("inf")

    def __init__(
        self,
        path: str | Path,
        schema: TrajectorySchema,
        spec: RobotSpec | None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self.path = Path(path)
        if self.path.exists():
            raise CodecError(f"{path}", got="something of this name", expected="a new directory")
        self._schema, self._spec = schema, spec
        self._messages = Messages()
        self._part = self.path.with_name(self.path.name + ".part")
        shutil.rmtree(self._part, ignore_errors=True)
        self._bag = BagWriter(self._part, self.path.name, part_bytes)
        about = {"schema": schema.to_dict(), "spec": spec.to_dict() if spec else None}
        self._bag.note(MEANING, {"version": str(VERSION), "about": json.dumps(about)})
        self._columns: list[tuple[str, Channel, Callable[[Array, int], bytes]]] = []
        for name, one in schema.columns.items():
            kind = type_of(name, one)
            channel = self._messages.channel(topic_of(name, kind), kind)
            self._columns.append((name, channel, encoder(self._messages, name, one)))
        self._standard = self._standard_topics()
        self._episode = self._messages.channel(EPISODE_TOPIC, _STRING)
        self._end_ns = 0

    def add(self, episode: RecordedEpisode) -> None:
        """Write an episode. Raises OSError when the disk is full."""
        columns = episode.columns
        stamps = columns["stamp_ns"]
        shift = max(0, self._end_ns + _BETWEEN_NS - int(stamps[0]))
        times: list[int] = []
        for stamp in stamps.tolist():  # strictly forward, so that rows do not change places
            times.append(max(stamp + shift, times[-1] + 1 if times else 0))
        self._say("start", episode, times[0])
        for row, time_ns in enumerate(times):
            stamp = int(stamps[row])
            for name, channel, encode in self._columns:
                self._bag.write(channel, time_ns, encode(columns[name][row], stamp))
            for channel, make in self._standard:
                data = self._messages.encoded(make(columns, row, stamp), channel.type)
                self._bag.write(channel, time_ns, data)
        self._say("end", episode, times[-1])
        key = episode.key
        record = {
            "episode": [key.producer, key.incarnation, key.number], "source": int(episode.source),
            "robot": episode.robot, "task": episode.task, "first_row": episode.first_row,
            "result": result_to_dict(episode.result), "rows": len(episode),
            "start_ns": times[0], "end_ns": times[-1],
        }  # fmt: skip
        self._bag.add_metadata(EPISODE, {"record": json.dumps(record)})
        self._end_ns = times[-1]

    def finish(self) -> None:
        """Make the bag durable, under its name."""
        self._bag.close()
        self._part.rename(self.path)
        sync_directory(self.path.parent)

    def abort(self) -> None:
        """Remove what is not finished. Idempotent."""
        self._bag.abandon()
        with suppress(OSError):
            shutil.rmtree(self._part)

    def _say(self, what: str, episode: RecordedEpisode, time_ns: int) -> None:
        result = episode.result
        said: dict[str, Any] = {"event": what, "episode": str(episode.key), "task": episode.task}
        if what == "end" and result is not None:
            said |= {"outcome": result.outcome.name.lower(), "return": result.episode_return}
        data = self._messages.encoded(self._messages.text(json.dumps(said)), _STRING)
        self._bag.write(self._episode, time_ns, data)

    def _standard_topics(self) -> list[tuple[Channel, Callable[[Any, int, int], Any]]]:
        """Topics of standard types that say again what columns say, for people's tools."""
        messages, columns = self._messages, self._schema.columns
        observed = dict(self._spec.observation) if self._spec else {}
        found: list[tuple[Channel, Callable[[Any, int, int], Any]]] = []
        joints = [OBSERVATION + name if OBSERVATION + name in columns else "" for name in _JOINTS]
        if joints[0]:
            names = list(getattr(observed.get("joint_position"), "names", ())) or [
                f"joint{i + 1}" for i in range(columns[joints[0]].size)
            ]
            same = [n if n and columns[n].size == len(names) else "" for n in joints]

            def joint_state(rows: Any, row: int, stamp: int) -> Any:
                return messages.joint_state(
                    stamp, names, *(rows[n][row] if n else None for n in same)
                )

            found.append(
                (messages.channel("/joint_states", "sensor_msgs/msg/JointState"), joint_state)
            )

        def framed(column: str, make: Callable[[int, str, Array], Any]) -> Callable[..., Any]:
            one = observed.get(column)
            frame = one.frame if one else ""
            return lambda rows, row, stamp: make(stamp, frame, rows[OBSERVATION + column][row])

        for column, size, kind, make in (
            ("tcp_pose", 7, "geometry_msgs/msg/PoseStamped", messages.pose),
            ("wrench", 6, "geometry_msgs/msg/WrenchStamped", messages.wrench),
        ):
            known = columns.get(OBSERVATION + column)
            if known is not None and known.size == size:
                found.append((messages.channel(f"/{column}", kind), framed(column, make)))
        return found
