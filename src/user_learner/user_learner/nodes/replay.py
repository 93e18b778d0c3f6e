"""replay_node: takes trajectory chunks, makes them durable, acknowledges them."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

from user_msgs.msg import ReplayStatus

from user_comm import topics
from user_comm.converters import CONVERTERS, RobotDescription, set_stamp
from user_comm.diagnostics import Item, Level
from user_comm.lifecycle import LifecycleNode
from user_comm.run import run
from user_comm.subscriptions import CheckedSubscription
from user_comm.topics import interface_class, profile
from user_core.errors import StoreError
from user_core.reasons import NO_REASON, ROWS_SET_ASIDE, Reason
from user_core.types import TrajectoryAck, TrajectoryChunk
from user_learner.node_configs import ReplayConfig
from user_learner.replay.ingest import ChunkStatus, CodingLog
from user_learner.replay.reader import StoreReader
from user_learner.replay.writer import StoreWriter
from user_learner.robot_watch import RobotWatch
from user_learner.training.progress import Rate
from user_learner.upkeep.apart import Apart, Stopped
from user_learner.upkeep.compression import compress, saved_bytes, waits
from user_learner.upkeep.retention import retain
from user_learner.upkeep.tiering import move_old

_GREETING_PERIOD_S = 0.2
#: Time between two looks for robots that have come.
_LOOK_PERIOD_S = 1.0
_RETRY_S = 0.5
"""After a full or failing disk; the producers send again what was not acknowledged."""


class ReplayNode(LifecycleNode):
    """The one writer of a store.

    The callback of ``trajectory`` only stages a chunk. A thread of its own commits (fsync) and
    publishes the acknowledgements, so that a slow disk delays acks and nothing else: outboxes
    hold back by themselves. Chunks that wait for the disk wait here, in order, up to the size
    that the reliable topic holds beside; what does not fit is sent again.
    """

    Config = ReplayConfig

    def configure(self, stack: ExitStack) -> None:
        config: ReplayConfig = self.config
        self._writer = stack.enter_context(closing(StoreWriter(config.path, config=config.store)))
        for warning in self._writer.warnings:
            self.get_logger().warning(warning)
        self._reader = stack.enter_context(closing(StoreReader(config.path, with_extents=False)))
        self._episodes = self._reader.count_episodes()
        self._codings = CodingLog(config.path)
        self._acks = self.advertise(topics.TRAJECTORY_ACK)
        self._status = self.advertise(topics.REPLAY_STATUS, always=True)
        self.listen(topics.TRAJECTORY, self._take)
        self.every(config.status_period_s, self._publish_status, always=True)
        self._robots: set[str] = set()
        self._heard = stack.enter_context(ExitStack())
        self._look_for_robots()
        self.every(_LOOK_PERIOD_S, self._look_for_robots, always=True)
        self._counts = dict.fromkeys(ChunkStatus, 0)
        self._rate = Rate()
        self._trouble = NO_REASON
        self._watch, self._logged = RobotWatch(config.robots), frozenset[str]()
        self.diagnostics.watch("robots", self._robots_item)
        stack.callback(self.diagnostics.unwatch, "robots")
        self._noted: set[str] = set()
        self._saved_by_file: dict[str, tuple[tuple[int, int], int]] = {}
        self._saved_bytes = saved_bytes(self._reader, self._saved_by_file)
        self._stop = threading.Event()

    def activate(self, stack: ExitStack) -> None:
        self._stop.clear()
        committer = threading.Thread(target=self._commit_while_active, name="commit", daemon=True)
        committer.start()
        stack.callback(committer.join)
        stack.callback(self._stop.set)
        self._greeted = 0
        self.every(_GREETING_PERIOD_S, self._greet)
        keeper = threading.Thread(target=self._keep_while_active, name="retention", daemon=True)
        keeper.start()
        stack.callback(keeper.join)
        stack.callback(self._stop.set)

    def _look_for_robots(self) -> None:
        """Listen to the spec of every robot in the graph: what it sends must mean what the
        store's rows mean."""
        topic = topics.ROBOT_SPEC
        for name, types in self.get_topic_names_and_types():
            if topic.type in types and name not in self._robots:
                self._robots.add(name)
                subscription = CheckedSubscription(
                    self, name, interface_class(topic.type), CONVERTERS[topic.type].decode,
                    partial(self._take_spec, name), profile(topic.quality),
                )  # fmt: skip
                self._heard.callback(subscription.destroy)

    def _take_spec(self, topic: str, description: RobotDescription) -> None:
        """Actors are called by their namespace, which is that of their robot, and their node."""
        *namespace, _ = topic.strip("/").split("/")
        self._writer.expect(".".join([*namespace, "*"]), description.spec)

    def _greet(self) -> None:
        """Who was cut off in the middle of a transfer learns how far it got, once it listens:
        what is published before the other side is discovered reaches nobody."""
        listeners = self._acks.listeners
        if listeners > self._greeted:
            for ack in self._writer.acknowledged():
                self._acks.publish(ack)
        self._greeted = listeners

    def _take(self, chunk: TrajectoryChunk) -> None:
        try:
            self._codings.note(chunk)
            result = self._writer.append(chunk)
        except OSError as error:
            self._say_trouble(StoreError("codings of images", got=error))
            return
        except StoreError as error:
            self._say_trouble(error)
            return
        for note in self._writer.meaning_notes():
            self.get_logger().warning(note)
        if result.status is ChunkStatus.STAGED:
            self._counts[result.status] += len(result.staged)
            self._rate.add(sum(map(len, result.staged)))
            if (schema := self._writer.schema) is not None:
                for staged in result.staged:
                    self._watch.take(staged, schema)
            return
        self._counts[result.status] += 1
        if result.status is ChunkStatus.REFUSED:
            self.get_logger().error(f"chunk {chunk.id} refused: {result.ack.error}")
            self.diagnostics.report("refused", Level.ERROR, result.ack.error)
        self._acks.publish(result.ack)

    def _commit_while_active(self) -> None:
        wait_s = self.config.store.commit_period_s / 2
        while not self._stop.wait(wait_s):
            wait_s = self.config.store.commit_period_s / 2
            if self._writer.commit_due and not self._commit():
                wait_s = _RETRY_S
        self._commit()

    def _commit(self) -> bool:
        try:
            acks: list[TrajectoryAck] = self._writer.commit()
        except StoreError as error:
            self._say_trouble(error)
            return False
        for ack in acks:
            self._acks.publish(ack)
        if acks and self._trouble:
            self.get_logger().info("the store takes data again")
            self._trouble = NO_REASON
            self.diagnostics.resolve("store")
        return True

    def _keep_while_active(self) -> None:
        """Apply the retention policy, compress and move, in a thread of its own: rewriting segments takes seconds.

        What fails does not keep the rest from being done: a disk without room to compress gets room by moving. At the
        start it only sees whether the disk or bucket for old segments can be used: what retention lets go or is to be
        compressed does not go there before that is done."""
        logged: list[str] = []
        wait_s, steps = 0.0, [self._try_tier]
        while not self._stop.wait(wait_s):
            failed: list[str] = []
            for step in steps:
                try:
                    step()
                except Exception as error:  # the next time may go better
                    failed.append(str(error) or type(error).__name__)
            if self._stop.is_set():  # what was left undone has not worked, and not failed
                return
            if failed:
                self.diagnostics.report("upkeep", Level.WARN, "; ".join(failed))
            else:
                self.diagnostics.resolve("upkeep")
            if failed != logged:
                self.get_logger().warning(
                    f"upkeep is tried again every {self.config.retention_period_s:g} s: {'; '.join(failed)}"
                    if failed else "upkeep works again"
                )  # fmt: skip
                logged = failed
            wait_s = self.config.retention_period_s
            steps = [self._retain, self._compress, self._move_old]

    def _retain(self) -> None:
        with Apart(self._stop.is_set) as apart:
            retired = retain(self._writer, is_over=self._stop.is_set, apart=apart)
        for gone in retired:
            self.get_logger().info(f"dropped by the retention policy: {gone}")

    def _try_tier(self) -> None:
        """See that old segments could be moved, and move none."""
        self._move_old(lambda: True)

    def _move_old(self, is_over: Callable[[], bool] | None = None) -> None:
        tier = self.config.tier
        if not tier.folder:
            return
        moved = move_old(
            self.config.path, tier.folder, round(tier.keep_here_mb * 2**20), is_over or self._stop.is_set,
            round(tier.fetched_mb * 2**20),
        )  # fmt: skip
        if moved.moved:
            self.get_logger().info(f"moved to {tier.folder}: {moved}")

    def _compress(self) -> None:
        """In a process of low priority: it takes processor time that robots and learners may want."""
        config, store = self.config.store, self.config.path
        if waits(store, config.compression):
            with Apart(self._stop.is_set) as apart:
                try:
                    report = apart.call(compress, store, config.compression, config.min_free_bytes)
                except Stopped:  # the next time goes on where this one was left
                    return
            for note in sorted(set(report.notes) - self._noted):
                self.get_logger().warning(f"compression: {note}")
            self._noted |= set(report.notes)
            if report.segments:
                self.get_logger().info(f"compressed: {report}")
        # retention and `user data compress` change it, too
        with closing(StoreReader(store, with_extents=False)) as reader:
            self._saved_bytes = saved_bytes(reader, self._saved_by_file)

    def _say_trouble(self, error: StoreError) -> None:
        trouble = Reason.of(error)
        if trouble != self._trouble:
            self._trouble = trouble
            self.get_logger().error(trouble.text)
        self.diagnostics.report("store", Level.ERROR, f"{trouble.code}: {trouble.text}")

    def _publish_status(self) -> None:
        if self._reader.refresh():
            self._episodes = self._reader.count_episodes()
        tables = self._reader.tables
        message = ReplayStatus()
        set_stamp(message.header.stamp, self.get_clock().now().nanoseconds)
        message.store = self._writer.store
        schema = self._writer.schema
        message.schema_hash = schema.hash if schema is not None else ""
        rows = int(tables.segments[:, 2].sum())
        message.steps, message.episodes = max(rows - self._episodes, 0), self._episodes
        message.chunks = self._counts[ChunkStatus.STAGED]
        message.duplicates = self._counts[ChunkStatus.DUPLICATE]
        message.refused = self._counts[ChunkStatus.REFUSED]
        nbytes = rows * (schema.row_nbytes if schema is not None else 0)
        message.disk_bytes = max(0, nbytes - self._saved_bytes)
        message.disk_free_bytes = shutil.disk_usage(self._writer.path).free
        message.rate_hz = self._rate.per_s()
        warnings = [self._trouble] if self._trouble else []
        warnings += [
            Reason(ROWS_SET_ASIDE, f"segment {damage.segment} set aside: {damage.reason}")
            for damage in tables.damages
        ]
        warnings += self._watch.reasons()
        self._tell_flags()
        message.warning_codes = [warning.code for warning in warnings]
        message.warnings = [warning.text for warning in warnings]
        self._status.publish(message)

    def _robots_item(self) -> Item:
        """Whether the data of a robot look wrong."""
        flags = self._watch.flags()
        text = "; ".join(flag.text for found in flags.values() for flag in found)
        values = {name: ", ".join(flag.code for flag in found) for name, found in flags.items()}
        return Item("robots", Level.WARN if flags else Level.OK, text or "alike", values)

    def _tell_flags(self) -> None:
        """In the log, once each."""
        flags = {
            f"{flag.code} {name}": flag for name, f in self._watch.flags().items() for flag in f
        }
        for key in flags.keys() - self._logged:
            self.get_logger().warning(f"data look wrong: {flags[key].text}")
        self._logged = frozenset(flags)


def main() -> None:
    """Entry point of the executable ``replay_node``."""
    sys.exit(run(ReplayNode, "replay"))
