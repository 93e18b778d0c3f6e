"""learner_node: trains from the store, and publishes policy versions."""

from __future__ import annotations

import gc
import importlib
import json
import math
import sys
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from std_msgs.msg import Float64
from user_msgs.msg import LearnerStatus

from user_comm import topics
from user_comm.converters import RobotDescription, set_stamp
from user_comm.diagnostics import Flow, Level
from user_comm.lifecycle import LifecycleNode
from user_comm.net.sessions import open_session
from user_comm.policy_blobs.server import PolicyServer, ServerProbe
from user_comm.run import run
from user_core.errors import (
    ConfigError,
    PluginError,
    SchemaMismatch,
    SpecError,
    TransportError,
)
from user_core.reasons import NO_REASON, NO_ROBOT_SPEC, NO_STORE, Reason
from user_core.runtime.files import write_atomically
from user_core.runtime.processes.endings import time_to_end_s
from user_core.runtime.scheduling import let_threads_of_torch_sleep
from user_core.specs import RobotSpec
from user_core.weight_plane.offers import Offers
from user_learner.learner import made_for_of, open_learner
from user_learner.node_configs import LearnerNodeConfig
from user_learner.ranks import Ranks, is_follower
from user_learner.replay.index import INDEX_NAME
from user_learner.training.loop import TrainingDiverged, TrainingLoop
from user_learner.training.progress import LearnerState, Progress

_LOOK_PERIOD_S = 0.2
#: What else is to be done at the end of the process, seconds.
_REST_S = 1.5
#: What comes again for certain.
_HOPELESS = (ConfigError, SpecError, PluginError, SchemaMismatch, TrainingDiverged)


class LearnerNode(LifecycleNode):
    """Trains in a thread of its own, as long as it is active.

    What it learns for comes from ``robot_spec``, and is kept in the run's folder, so that a
    learner that is restarted goes on also while no robot is there. It waits for the store's
    first data. Whatever the training thread raises ends its being active; started by itself
    it tries again, from the newest checkpoint. A configuration that cannot be trained, and a
    training that diverges again and again, end the process with the reason.
    """

    Config = LearnerNodeConfig

    def configure(self, stack: ExitStack) -> None:
        config: LearnerNodeConfig = self.config
        self._loop: TrainingLoop | None = None
        self._begun: TrainingLoop | None = None  # whose first update has been told
        self._waiting_for = Reason(NO_ROBOT_SPEC, "the robot's spec")
        self._spec = self._kept_spec()
        self._announcements = self.advertise(topics.POLICY)
        self._status = self.advertise(topics.LEARNER_STATUS, always=True)
        self._backlog = self.advertise(topics.LEARNER_BACKLOG)
        session = stack.enter_context(open_session(config.zenoh))
        self._offers: Offers | None = None
        if config.offer_locally:
            self._offers = stack.enter_context(Offers(gives_way=config.training.gives_way))
        server = PolicyServer(
            session, config.key, self._announcements.publish,
            offer=(lambda version, name: None) if self._offers is None else self._offers.offer,
        )  # fmt: skip
        self._server = stack.enter_context(closing(server))
        flow = Flow("policy served", self._server.figures)
        self.diagnostics.watch(flow.name, flow.item)
        stack.callback(self.diagnostics.unwatch, flow.name)
        self.listen(topics.ROBOT_SPEC, self._take_spec, always=True)
        self.serve(topics.CHECKPOINT, self._on_checkpoint, always=True)
        self._published: LearnerState | None = None
        self.every(config.status_period_s, self._publish_status, always=True)
        self.every(_LOOK_PERIOD_S, self._publish_news, always=True)
        self.every(config.backlog_period_s, self._publish_backlog)

    def activate(self, stack: ExitStack) -> None:
        config: LearnerNodeConfig = self.config
        if config.zenoh.mode == "client":  # else robots come to itself, and come anew
            stack.enter_context(ServerProbe(config.zenoh, config.key, self._hung))
        stop = threading.Event()
        thread = threading.Thread(target=self._train, args=(stop,), name="training", daemon=True)
        thread.start()
        stack.callback(self._stop_training, thread, stop)

    def _on_checkpoint(self, request: Any, response: Any) -> None:
        if self._loop is None:
            raise ConfigError(
                "checkpoint", got="nothing that trains yet", expected="a learner that does"
            )
        response.message, response.success = self._loop.keep_now(), True
        self.get_logger().info(f"a person asks for a checkpoint: {response.message}")

    def _hung(self) -> None:
        self.get_logger().error("policies are asked for and not answered: connecting anew")
        self.fail(
            TransportError(
                "Zenoh session of the learner", got="no answer to queries", expected="one"
            )
        )

    def _train(self, stop: threading.Event) -> None:
        ranks: Ranks | None = None
        try:
            spec = self._wait_for_spec_and_store(stop)
            if spec is None:
                return
            self._server.describe(made_for_of(self.config, spec))
            ranks = Ranks(self.config, spec, self._end_to_begin_again)
            with ranks, open_learner(ranks.config, spec, self._server, snapshots=self._offers) as loop:  # fmt: skip
                if stop.is_set():
                    return
                self._loop = loop
                progress = loop.progress()
                self.get_logger().info(
                    f"training from update {progress.update}, "
                    f"{progress.environment_steps} environment steps"
                )
                gc.unfreeze()  # of a training before this one
                gc.collect()
                gc.freeze()  # to look at all that is there takes 0.2 s, in which nobody can draw a batch
                if not stop.is_set():  # who stopped it before did not know the loop
                    loop.run()
        except BaseException as error:  # of an algorithm, a plugin, the disk; SystemExit, too
            self.get_logger().error(f"training ended: {error}")
            if stop.is_set():
                return
            error = error if ranks is None else ranks.why_ended(error)
            if isinstance(error, _HOPELESS):
                self.end(Reason.of(error))
            elif ranks is not None and ranks.others:
                self._end_to_begin_again(error)
            else:
                self.fail(error)

    def _end_to_begin_again(self, error: BaseException) -> None:
        """One of several processes has ended: a process group cannot be mended, and a thread may hang in
        it. Whoever started this process starts it again."""
        self.end(Reason.of(error), final=False)

    def _stop_training(self, thread: threading.Thread, stop: threading.Event) -> None:
        stop.set()
        if self._loop is not None:
            self._loop.stop()
            self._join(thread)  # it keeps a last checkpoint
            self._loop = None
        else:
            # It waits, or is importing torch, which cannot be interrupted and takes long on a
            # machine under load; there is nothing to be kept yet.
            thread.join(1.0)

    def _join(self, thread: threading.Thread) -> None:
        """Wait for the training thread, in a process that ends for as long as it may. An update of a large policy may
        take longer, above all the first, or its checkpoint."""
        ends = self.owns_process and self.state == "shuttingdown"
        limit_s = max(1.0, time_to_end_s() - _REST_S) if ends else None
        thread.join(limit_s)
        if thread.is_alive():
            update = self._progress().checkpoint_update
            kept = f"its last checkpoint is of update {update}" if update >= 0 else "it has kept no checkpoint"  # fmt: skip
            self.get_logger().warning(
                f"training has not ended within {limit_s:g} s and is left behind: {kept}. Where updates or checkpoints "
                "take so long, give this process a larger stop_timeout_s in the deployment"
            )

    def _wait_for_spec_and_store(self, stop: threading.Event) -> RobotSpec | None:
        while not stop.is_set():
            if self._spec is None:
                self._waiting_for = Reason(NO_ROBOT_SPEC, "the robot's spec")
            elif not (self.config.store / INDEX_NAME).exists():
                self._waiting_for = Reason(NO_STORE, f"a store at {self.config.store}")
            else:
                self._waiting_for = NO_REASON
                return self._spec
            stop.wait(_LOOK_PERIOD_S)
        return None

    def _take_spec(self, description: RobotDescription) -> None:
        if self._spec is None:
            self._keep_spec(description.spec)
            self._spec = description.spec
        elif self._spec != description.spec:
            self.diagnostics.report(
                "robot_spec", Level.WARN,
                "a robot came with another spec than this run's; what it sends is refused by "
                "the store if shapes differ",
            )  # fmt: skip

    @property
    def _spec_file(self) -> Path:
        return Path(self.config.directory) / "robot_spec.json"

    def _kept_spec(self) -> RobotSpec | None:
        if not self._spec_file.exists():
            return None
        return RobotSpec.from_dict(json.loads(self._spec_file.read_text(encoding="utf-8")))

    def _keep_spec(self, spec: RobotSpec) -> None:
        self._spec_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._spec_file, json.dumps(spec.to_dict(), indent=1), durable=False)

    def _publish_backlog(self) -> None:
        """Say nothing while it is not known: simulations wait then."""
        loop = self._loop
        if loop is not None and self._backlog.wanted:
            self._backlog.publish(Float64(data=loop.behind_steps()))

    def _progress(self) -> Progress:
        loop = self._loop
        return loop.progress() if loop is not None else Progress(LearnerState.WAITING)

    def _publish_status(self) -> None:
        progress = self._progress()
        self._published = progress.state
        self._status.publish(self._message(progress))

    def _publish_news(self) -> None:
        """That it begins or ends to train is said at once; between updates it is not."""
        loop = self._loop
        if loop is not None and loop.first_update_s is not None and loop is not self._begun:
            self._begun = loop
            self.get_logger().info(
                f"first update, {loop.first_update_s:.1f} s after there were enough steps"
            )
        state = self._progress().state
        working = (LearnerState.TRAINING, LearnerState.LIMITED)
        if (state in working) != (self._published in working):
            self._publish_status()

    def _message(self, progress: Progress) -> LearnerStatus:
        message = LearnerStatus()
        set_stamp(message.header.stamp, self.get_clock().now().nanoseconds)
        message.run = Path(self.config.directory).name
        message.algorithm = self.config.algorithm.plugin
        message.state = int(progress.state)
        for name in (
            "update", "environment_steps", "utd_ratio", "utd_target", "updates_per_s",
            "data_wait_share", "policy_version", "policy_period_s", "checkpoint_update",
        ):  # fmt: skip
            setattr(message, name, getattr(progress, name))
        finite = {k: v for k, v in progress.metrics.items() if math.isfinite(v)}
        message.metric_names, message.metric_values = list(finite), list(finite.values())
        reason, warnings = progress.reason, list(progress.warnings)
        if waiting_for := self._waiting_for:
            reason = Reason(waiting_for.code, f"waiting for {waiting_for.text}")
            warnings.append(reason)
        message.code, message.detail = reason.code, reason.text
        message.warning_codes = [warning.code for warning in warnings]
        message.warnings = [warning.text for warning in warnings]
        return message


def main() -> None:
    """Entry point of the executable ``learner_node``. Of several that ``torchrun`` has started, the first is
    the node."""
    let_threads_of_torch_sleep()
    if is_follower():
        from user_learner.ranks import follow

        sys.exit(follow.main())
    # Most of a restart is the import of torch: it begins beside everything else.
    threading.Thread(target=importlib.import_module, args=("torch",), daemon=True).start()
    sys.exit(run(LearnerNode, "learner"))
