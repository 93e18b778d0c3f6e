"""Why something waits, stops or is refused: a code for programs, a text for people.

``why_paused()``, ``trouble()`` and their like return a :class:`Reason`, which is false where
there is none. Its code travels into status messages, diagnostics and ``user status``, and stays the same
when the text is worded anew. :data:`CODES` lists all of them with what they mean; an error that
becomes a reason keeps its own code (:mod:`user_core.errors`).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from user_core.errors import SuiteError, in_words

#: Every code of this module, to one line that says what it means.
CODES: dict[str, str] = {}


@dataclass(frozen=True)
class Reason:
    """Why; false when there is no reason.

    Attributes:
        code: One of :data:`CODES`, or the code of an error; empty: there is no reason.
        text: The same for people, with numbers and names.
    """

    code: str = ""
    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.code)

    def __str__(self) -> str:
        return self.text

    @classmethod
    def of(cls, error: BaseException) -> Reason:
        """The reason that an error gives."""
        if isinstance(error, SuiteError):
            return cls(error.code, str(error))
        return cls(INTERNAL, in_words(error))


#: No reason: all is well.
NO_REASON = Reason()


def _code(code: str, meaning: str) -> str:
    CODES[code] = meaning
    return code


# Of any process.
INTERNAL = _code("internal", "An error that nobody expected; the log has its trace.")
PROCESS_ENDED = _code("process_ended", "A process ended that was to go on.")
HANGS = _code("hangs", "A call of a plugin has not returned for long; the process ends.")
LOOP_DIED = _code("loop_died", "The thread that runs a robot or a training has ended.")
STOPPING = _code("stopping", "The process is about to end.")
REQUESTED = _code("requested", "A person or a program asked for it.")

# Why an actor cannot begin, or go on with, an episode.
WAITS_FOR_GO = _code("waits_for_go", "Nothing moves until a person has said go.")
NO_LEASE = _code("no_lease", "The actor holds no lease of the robot.")
SPEC_DIFFERS = _code("spec_differs", "The robot is not of the kind that the actor is set up for.")
SAFETY_STOP = _code("safety_stop", "The robot's safety gate has stopped it for the time being.")
EMERGENCY_STOP = _code("emergency_stop", "The emergency stop is latched until it is reset.")
NO_OBSERVATIONS = _code("no_observations", "The robot shows no observations.")
COMMANDS_UNHEARD = _code(
    "commands_unheard", "The robot is sent commands, and says that none has come."
)
ROBOT_WAS_RESET = _code("robot_was_reset", "The robot was reset or restarted within an episode.")
PERSON_TOOK_OVER = _code("person_took_over", "A person took over an evaluation.")
EVALUATION_GIVEN_UP = _code(
    "evaluation_given_up",
    "Evaluation episodes in a row were aborted; the robot goes on collecting until the next round.",
)
PERSON_ENDED = _code("person_ended", "A person ended the episode without a verdict.")
ASKED_BACK = _code(
    "asked_back", "The robot was asked back: its actor ends the episode, and begins none."
)
PERSON_SAID = _code("person_said", "A person judged the episode while nothing was done.")
NO_TELEOP = _code("no_teleop", "Demonstrations need a teleoperator, and there is none.")
NO_POLICY = _code("no_policy", "No policy is configured.")
NO_POLICY_VERSION = _code("no_policy_version", "No policy version has come yet.")
INFERENCE_SILENT = _code("inference_silent", "The inference host does not answer.")
INFERENCE_REFUSED = _code(
    "inference_refused",
    "The inference host refused the last question, or has no room for this robot.",
)
LOCAL_POLICY = _code(
    "local_policy", "The policy on the robot acts, for the inference host does not answer."
)
LEARNER_SILENT = _code("learner_silent", "The learner that a lockstep robot waits for is silent.")
LEARNER_BEHIND = _code("learner_behind", "A lockstep robot waits until the learner has caught up.")
STEPS_IRREGULAR = _code(
    "steps_irregular", "Deadlines, commands or feedback of some steps were not as they should be."
)
POLICY_PULL = _code("policy_pull", "A policy version could not be fetched.")

# Why collecting pauses.
OUTBOX_FULL = _code("outbox_full", "Unacknowledged chunks fill the quota of the outbox.")
OUTBOX_MEMORY = _code("outbox_memory", "Too many steps wait in memory for the disk.")
OUTBOX_WRITE = _code("outbox_write", "The outbox cannot be written.")
DISK_FULL = _code("disk_full", "Less is free on the disk than must stay free.")
NOT_RECORDED = _code(
    "not_recorded", "What was to be recorded could not be written, for another reason than room."
)
STORE_REFUSED = _code("store_refused", "The replay store refused a chunk for good.")
STORE_WAITS = _code("store_waits", "The replay store takes nothing for now.")
NOT_DELIVERED = _code("not_delivered", "Chunks could not be handed to the network.")
OUTBOX_CHANGED = _code(
    "outbox_changed", "Chunks were kept aside, given new numbers, or go to another store."
)
ACKS_IGNORED = _code("acks_ignored", "Acknowledgements came that are not for this outbox.")

# Why a learner waits, and what is not as it should be with it or its store.
NO_ROBOT_SPEC = _code("no_robot_spec", "The learner knows no robot's spec yet.")
NO_STORE = _code("no_store", "The replay store that the learner reads is not there yet.")
NO_DATA = _code("no_data", "Nothing can be drawn from the replay stores yet.")
FEW_STEPS = _code("few_steps", "Training begins once more steps have been collected.")
UPDATE_SKIPPED = _code(
    "update_skipped", "An update gave numbers that are not finite, and was skipped."
)
UPDATE_RATIO = _code("update_ratio", "The learner waits for robots, to keep its update ratio.")
ALL_UPDATES = _code("all_updates", "Training has made all the updates that it was to make.")
LEARNER_SLOW = _code("learner_slow", "The learner cannot keep its update ratio; updates are lost.")
CHECKPOINT_REFUSED = _code("checkpoint_refused", "A checkpoint cannot be used, and was set aside.")
BATCH_SPLIT = _code(
    "batch_split", "The GPU's memory is short: batches are computed in several parts."
)
TRAINING_DIVERGED = _code(
    "training_diverged", "An update gave numbers that are not finite; training went back or ended."
)
TEMPERATURE_BOUND = _code(
    "temperature_bound", "The temperature of the entropy is at its bound and would run away."
)
POLICY_RETURNED = _code(
    "policy_returned",
    "New policy versions were worse; the last good one acts, and they are withheld.",
)
CHECKPOINT_WRITE = _code("checkpoint_write", "A checkpoint could not be written.")
POLICY_PUBLISH = _code("policy_publish", "A policy version could not be published.")
MEANING_UNKNOWN = _code("meaning_unknown", "Nobody knows what the numbers of a store mean.")
MEANING_ACCEPTED = _code(
    "meaning_accepted", "A store means other things than the robot; a person has accepted that."
)
ACTIONS_OUTSIDE = _code(
    "actions_outside", "Many actions in the data lie outside the robot's bounds."
)
INPUT_CUT = _code("input_cut", "Many values of an input of the policy lie far outside its range.")
NOTHING_AFTER_END = _code(
    "nothing_after_end", "Chunks do not learn as they are told to what comes after a task's end."
)
HINDSIGHT_REWARD = _code(
    "hindsight_reward", "The goal reward of hindsight relabelling is not the one of the store."
)
TASKS_UNTOLD = _code(
    "tasks_untold", "Names of tasks that a policy is told and those of the stored episodes differ."
)
ROWS_SET_ASIDE = _code("rows_set_aside", "Damaged rows of a replay store are passed over.")
BUCKET_AWAY = _code(
    "bucket_away",
    "Segments of a replay store are in a bucket that cannot be reached; draws are from what is here.",
)
EDITS_UNREADABLE = _code(
    "edits_unreadable", "Some edits of a replay store cannot be read; the others are honoured."
)

# What looks wrong with the data of one robot of several.
BELOW_PEERS = _code(
    "below_peers", "Far fewer episodes of a robot succeed than of its peers in the same time."
)
REWARDS_CONSTANT = _code(
    "rewards_constant", "All rewards of a robot are one number, and should not be."
)
ACTIONS_CLIPPED = _code(
    "actions_clipped", "Nearly all actions of the policy are changed on their way to a robot."
)

# Why the HAL of a robot stopped it, or refused or changed a command.
DEVICE = _code("device", "The driver of the robot failed.")
STOP_FAILED = _code("stop_failed", "Stopping the robot failed; it is tried again.")
WATCHDOG = _code("watchdog", "No command came in time.")
STALE_OBSERVATION = _code("stale_observation", "The robot's newest observation is too old.")
FORCE = _code("force", "A force or torque is above its limit.")
LEASE = _code("lease", "A lease ended, or a command came without the newest one.")
OLD_GRANT = _code("old_grant", "The scheduler has granted the robot to somebody else since.")
LIMITS_TIGHTENED = _code(
    "limits_tightened", "The limits were tightened while the robot was driven."
)
STOPPED = _code("stopped", "A command came while the cause of a safe stop holds.")
BUSY = _code("busy", "A command came while the robot is reset, or is shut down.")
SEQUENCE = _code("sequence", "A chunk came that is not newer than the one before.")
FUTURE = _code("future", "A chunk begins too far ahead: the clocks may differ.")
STALE_CHUNK = _code("stale_chunk", "All rows of a chunk were due before it came.")
CHUNK_TOO_LONG = _code("chunk_too_long", "A chunk would drive the robot for too long by itself.")
SHAPE = _code("shape", "A command has another shape than the robot's action.")
DTYPE = _code("dtype", "A command has another type than the robot's action.")
NOT_FINITE = _code("not_finite", "A command holds NaN or infinity.")
NO_OBSERVATION = _code("no_observation", "A command came before the first reading of the robot.")
UNSETTLED = _code(
    "unsettled",
    "A command would start from readings that jumped, or are of before the last command.",
)
QUATERNION = _code("quaternion", "The quaternion of a command has not length one.")
OUT_OF_BOUNDS = _code("out_of_bounds", "A command is far out of its bounds, and was refused.")
NO_CHOICE = _code(
    "no_choice", "A categorical element of a command is none of its choices; it was refused."
)
BOUNDS = _code("bounds", "A command was a little out of its bounds, and was clipped.")
STEP = _code("step", "A command asked for too long a step.")
VELOCITY = _code("velocity", "A command asked for too high a velocity.")
ACCELERATION = _code("acceleration", "A command asked for too high an acceleration.")
JOINT_LIMITS = _code("joint_limits", "A joint would leave its range, or is outside of it.")
WORKSPACE = _code("workspace", "The tool would leave its box, or is outside of it.")

GRIPPER_REJECTED = _code("gripper_rejected", "The gripper's action server rejects the goals.")
COMMAND_REJECTED = _code(
    "command_rejected", "The server of the action that moves the robot rejects or aborts goals."
)
ROBOT_STOP = _code("robot_stop", "A topic says that the robot must stand still (stop_when).")
INCOMPATIBLE_QOS = _code(
    "incompatible_qos", "A node is not heard, because its quality of service does not fit."
)
NOT_FOLLOWED = _code("not_followed", "The robot does not move although it is told to.")

# What is suspicious about a robot, although it works.
SEVERAL_PUBLISHERS = _code(
    "several_publishers", "More than one node publishes the joints that the robot is read from."
)
OTHER_COMMANDERS = _code(
    "other_commanders", "Another node publishes on a topic that the robot is commanded by."
)

# Why a person's device does not drive.
DEVICE_SILENT = _code("device_silent", "No message of the person's device comes.")
DEVICE_MISFITS = _code("device_misfits", "The device has not the axes or buttons asked for.")
NOT_ALIGNED = _code("not_aligned", "The leader arm does not stand as the robot does.")

# Why a host does not reach the others.
LINK_DOWN = _code("link_down", "The router of the network cannot be reached, or does not answer.")

# Why a resource of the fleet cannot be had, or was taken away; why an experiment waits.
GPU_DIVIDED = _code("gpu_divided", "A GPU is divided by MIG, and is left to whoever has done so.")
GPU_IN_USE = _code("gpu_in_use", "Most of the memory of a GPU is used by others.")
TOPICS_MISSING = _code("topics_missing", "The ROS graph lacks what the contract of a robot names.")
RESOURCE_HELD = _code("resource_held", "Another experiment holds it, or it is kept for one.")
RESOURCE_FAILED = _code("resource_failed", "A resource of an experiment has failed or is gone.")
HOST_UNREACHABLE = _code("host_unreachable", "Nothing has been heard of a host for some time.")
HOST_GONE = _code("host_gone", "The agent of a host has ended.")
TWO_AGENTS = _code("two_agents", "Two agents call themselves by one host's name.")
CLOCK_OFF = _code("clock_off", "The clock of a host differs much from the scheduler's.")
STANDS_BY = _code("stands_by", "Another scheduler works on the same file.")
EXPERIMENT_FAILED = _code("experiment_failed", "What an experiment runs failed too often.")
JOB_WAITS = _code("job_waits", "An engine has not begun a job yet.")
JOB_FAILED = _code("job_failed", "A job of an engine has ended otherwise than well.")
JOB_GONE = _code("job_gone", "An engine knows nothing of a job that it was given.")
DRAINED = _code("drained", "A person keeps a resource free, for instance for maintenance.")
QUARANTINED = _code("quarantined", "A resource failed too often; a person releases it.")
RESERVED = _code("reserved", "A resource is reserved for others at this time.")
PREEMPTED = _code("preempted", "An experiment gives its resources to one of higher priority.")
GRANT_ENDED = _code("grant_ended", "What a resource was granted for is over.")
WAITS_FOR_RESOURCES = _code("waits_for_resources", "What an experiment needs is not free yet.")
NEVER_FITS = _code("never_fits", "Nothing that is known fits, even if all of it were free.")
AFTER_OTHERS = _code("after_others", "An experiment begins after others have ended.")
WAITS_IN_A_CYCLE = _code("waits_in_a_cycle", "Experiments wait for each other.")

# Why a node of a deployment is not as it should be.
NODE_WAITS = _code("node_waits", "The node waits for one that it depends on.")
NODE_SILENT = _code("node_silent", "The node was not heard of yet, or not for a while.")
NODE_FAILED = _code("node_failed", "A transition of the node failed; it is tried again.")
NODE_GIVEN_UP = _code("node_given_up", "The node failed too often, and is left alone.")
NODE_STARTING = _code("node_starting", "The node is being configured or activated.")
NODE_PAUSED = _code("node_paused", "The deployment is paused, or is being shut down.")
NODE_HELD = _code("node_held", "A person has taken the node in hand; it is left alone.")


_NUMBERS = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|0x[0-9a-fA-F]+")


def same_kind(one: Reason, other: Reason) -> bool:
    """Whether two reasons are equal except for the numbers in their texts."""
    return one.code == other.code and _NUMBERS.sub("#", one.text) == _NUMBERS.sub("#", other.text)


class EqualFailures:
    """Counts failures that are equal, and says when it is enough.

    What fails in the same way again and again (a wrong value, a diverged loss) will do so for
    ever: to go on trying hides the cause.

    Args:
        limit: Equal failures in a row that are enough; 0: never.
        window_s: Time within which they must come.
        clock_s: Monotonic seconds.
    """

    def __init__(
        self,
        limit: int = 5,
        window_s: float = 600.0,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self._window_s, self._clock_s = limit, window_s, clock_s
        self._last = NO_REASON
        self._times_s: list[float] = []

    def clear(self) -> None:
        """It works, or failed in a way that may pass."""
        self._last, self._times_s = NO_REASON, []

    def add(self, reason: Reason) -> bool:
        """One more; returns whether it is enough."""
        now_s = self._clock_s()
        if not same_kind(reason, self._last):
            self._times_s = []
        self._last = reason
        self._times_s = [t for t in self._times_s if t > now_s - self._window_s] + [now_s]
        return bool(self.given_up)

    @property
    def given_up(self) -> Reason:
        """The reason that came too often, with the number in its text; false before."""
        if not 0 < self.limit <= len(self._times_s):
            return NO_REASON
        return Reason(self._last.code, f"{self._last.text} ({len(self._times_s)} times the same)")


class Lately:
    """Tells whether counts have grown lately, so that a warning of what is over disappears.

    Args:
        window_s: For how long a growth is news.
        clock_s: Monotonic seconds.
    """

    #: Of what a count is counted in, growth by less is no news; nor is growth by fewer within a window.
    SHARE, FEW = 0.05, 10

    def __init__(
        self, window_s: float = 60.0, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._window_s, self._clock_s = window_s, clock_s
        self._seen: dict[str, tuple[float, float]] = {}
        self._bases: dict[str, tuple[float, float, float]] = {}  # count, of, time
        self._news_s: dict[str, float] = {}

    def grew(self, name: str, count: float) -> bool:
        """Whether a count has grown within the window; the first look counts what is there."""
        now_s = self._clock_s()
        before, since_s = self._seen.get(name, (0.0, -math.inf))
        if count != before:
            since_s = now_s if count > before else since_s
            self._seen[name] = (count, since_s)
        return now_s - since_s < self._window_s

    def grew_much(self, name: str, count: float, of: float) -> bool:
        """The same of a count within another, where a few belong to it: steps that were late, of all steps.

        The first is news; after it, at least :attr:`FEW` of a window, and :attr:`SHARE` of ``of`` in it.
        """
        now_s = self._clock_s()
        before, then, since_s = self._bases.setdefault(name, (0.0, 0.0, now_s))
        grown, enough = count - before, max(self.FEW, self.SHARE * (of - then))
        if grown >= enough or (not before and count):
            self._news_s[name] = now_s
            self._bases[name] = count, of, now_s
        elif now_s - since_s >= self._window_s or grown < 0:
            self._bases[name] = count, of, now_s
        return now_s - self._news_s.get(name, -math.inf) < self._window_s
