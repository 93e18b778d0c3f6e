"""Safety of learning: new policy versions are watched, and the last good one comes back by itself.

A policy that learns may get worse from one version to the next. :class:`VersionGuard` counts what episodes
bring, in windows of some episodes. A window that is about as good as those before makes its version the last
good one. When success falls by more than is allowed, or the safety gate ends episodes more often, the last good
version is published again, under a number of its own, and new ones are withheld for a while; training goes on
meanwhile, from where it is or, with ``restores_training``, from its checkpoint of the good version. If the good
version does no better (the lamp was moved, the gripper is worn), what counts as good follows it: then it was not
the learning.

:class:`GuardedSink` stands between the learner and its robots; results come from the index of the replay store, so
that they arrive from every robot, over any network, and no earlier than they are durable.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from user_core.codecs.weights import encode_version, read_version
from user_core.errors import SuiteError
from user_core.interfaces import PolicySink
from user_core.reasons import NO_REASON, POLICY_RETURNED, SAFETY_STOP, Reason
from user_core.runtime.closing import Closing
from user_core.runtime.files import write_atomically
from user_core.types import EpisodeResult, EpisodeSource, Outcome, PolicyVersion
from user_learner.replay.index import INDEX_NAME, connect
from user_learner.replay.layout import result_from_dict
from user_learner.training.config import GuardConfig

GOOD_FILE, STATE_FILE, LOG_FILE = "good.safetensors", "guard.json", "guard.jsonl"
#: Windows that say together what is good, and doublings of the time for which versions are withheld.
_REFERENCE, _DOUBLINGS = 5, 5
#: Published versions that may still become the good one: bytes of them, and how many.
_KEPT_BYTES, _KEPT = 512 * 2**20, 32
_LOOK_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """Some episodes together.

    Attributes:
        episodes: How many.
        successes: Those that the policy solved by itself.
        stops: Those that the safety gate ended.
    """

    episodes: int = 0
    successes: int = 0
    stops: int = 0

    def plus(self, success: bool, stopped: bool) -> Window:
        """With one more episode."""
        return Window(self.episodes + 1, self.successes + success, self.stops + stopped)

    @classmethod
    def sum(cls, windows: Iterable[Window]) -> Window:
        """All of them together."""
        found = list(windows)
        return cls(*(sum(getattr(w, n) for w in found) for n in cls.__dataclass_fields__))

    @property
    def success(self) -> float:
        """Share that was solved; 0 of none."""
        return self.successes / max(1, self.episodes)

    @property
    def stopped(self) -> float:
        """Share that the gate ended; 0 of none."""
        return self.stops / max(1, self.episodes)


@dataclass
class GuardState:
    """What the guard remembers over restarts.

    Attributes:
        window: Episodes since the last verdict.
        reference: The last windows that were good.
        best: The best that this many windows in a row were together: a slow fall is one, too.
        since: Episodes that began with an older version do not count.
        good: The last good version; 0: none yet.
        returning: Why the good version is to be published again; empty: it is not.
        held_until: Update until which new versions are withheld; 0: they are not.
        returns: Returns without a good window since.
        training: Why the training is to go back, too; empty: it is not, or it has.
    """

    window: Window = field(default_factory=Window)
    reference: list[Window] = field(default_factory=list)
    best: Window = field(default_factory=Window)
    since: int = 0
    good: int = 0
    returning: str = ""
    held_until: int = 0
    returns: int = 0
    training: str = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GuardState:
        """The inverse of ``asdict``; raises TypeError or KeyError."""
        parts = dict(values)
        window, best = Window(**parts.pop("window")), Window(**parts.pop("best"))
        reference = [Window(**each) for each in parts.pop("reference")]
        return cls(window, reference, best, **parts)

    @property
    def before(self) -> Window:
        """What new versions must not fall far below."""
        return self.best if self.best.episodes else Window.sum(self.reference)


class VersionGuard:
    """Judges episodes. Pure."""

    def __init__(self, config: GuardConfig, state: GuardState | None = None) -> None:
        self.config, self.state = config, state or GuardState()

    def take(self, result: EpisodeResult) -> Literal["", "good", "return"]:
        """One episode has ended.

        Returns:
            ``good``: its last version is now the good one (while versions are withheld: it still is);
            ``return``: the good version has to come back, :attr:`GuardState.returning` says why.
        """
        state, config = self.state, self.config
        wanted = EpisodeSource[config.by.upper()]
        if result.source is not wanted or result.first_version < max(state.since, 1):
            return ""
        if state.returning:
            return ""
        stopped = result.outcome is Outcome.ABORTED and result.reason_code == SAFETY_STOP
        success = False if stopped else result.outcome.success
        if success is None:
            return ""  # nobody can tell, or a person ended it
        alone = success and not result.interventions
        state.window = state.window.plus(alone, stopped)
        return self._judge(result.last_version)

    def _judge(self, version: int) -> Literal["", "good", "return"]:
        state, config, window = self.state, self.config, self.state.window
        full = window.episodes >= config.episodes
        before = state.before
        if state.held_until:  # the good version itself: what it brings is good
            if full:
                self._accept()
                state.best = Window()
            return "good" if full else ""
        if before.episodes:
            missed = window.episodes - window.successes
            fallen = missed > config.episodes * (1 - before.success + config.max_drop) + 1e-9
            stops = window.stops > config.episodes * (before.stopped + config.max_more_stops) + 1e-9
            if (fallen or stops) and state.good:
                state.returning = self._why(before, window, stops)
                state.training = state.returning if config.restores_training else ""
                return "return"
        if not full:
            return ""
        if before.episodes and window.success < before.success - config.max_drop / 2:
            state.window = Window()  # neither good nor bad: the good version stays
            return ""
        self._accept()
        state.good, state.returns = version, 0
        return "good"

    def _accept(self) -> None:
        state = self.state
        state.reference = [*state.reference, state.window][-_REFERENCE:]
        together = Window.sum(state.reference)
        if len(state.reference) == _REFERENCE and together.success >= state.best.success:
            state.best = together
        state.window = Window()

    def _why(self, before: Window, now: Window, stops: bool) -> str:
        """What has become worse, for people."""
        since = f" since version {self.state.since}" if self.state.since else ""
        if stops:
            return (
                f"the safety gate ended {now.stops} of {now.episodes} episodes{since}, "
                f"before {before.stopped:.0%}"
            )
        return (
            f"{now.successes} of {now.episodes} episodes{since} succeeded without help, "
            f"before {before.success:.0%}"
        )

    def returned(self, number: int, update: int) -> None:
        """The good version was published again, as ``number``, when training had made ``update`` updates."""
        state = self.state
        state.returns += 1
        self._hold(update)
        state.since, state.window, state.returning = number, Window(), ""
        state.good = number

    def restored(self, update: int | None) -> None:
        """The training went back to this update; None: it could not."""
        self.state.training = ""
        if self.state.held_until and update is not None:
            self._hold(update)

    def _hold(self, update: int) -> None:
        """Withhold new versions, from this update on."""
        longer = 2 ** min(self.state.returns - 1, _DOUBLINGS)
        self.state.held_until = max(update, 1) + self.config.hold_updates * longer

    def released(self, number: int) -> None:
        """New versions are published again, from ``number`` on."""
        self.state.held_until, self.state.since, self.state.window = 0, number, Window()


class Training(Protocol):
    """What the guard may ask of the training, from any thread."""

    def keep_good(self, update: int) -> object:
        """The policy of this update has shown itself."""

    def return_to_good(self, why: str, done: Callable[[int | None], object]) -> object:
        """Go on from what was kept as good, and say from which update; None: there was nothing."""


class GuardedSink(Closing):
    """A :class:`~user_core.interfaces.PolicySink` that lets through what may act.

    What it knows is kept in ``directory``: the good version (``good.safetensors``), what was counted
    (``guard.json``), and each event as a line of ``guard.jsonl``.

    Args:
        config: When a version is bad.
        sink: Where versions go.
        directory: Of the run.
        publish_now: Makes the learner publish soon, also while it makes no updates.
        clock_s: Seconds since the epoch, for the log of events.
    """

    def __init__(
        self,
        config: GuardConfig,
        sink: PolicySink,
        directory: Path,
        publish_now: Callable[[], object] = lambda: None,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._sink, self._directory, self._clock_s = sink, Path(directory), clock_s
        self._publish_now, self._lock = publish_now, threading.RLock()
        self._recent: OrderedDict[int, PolicyVersion] = OrderedDict()
        self._good: PolicyVersion | None = None
        self._news = NO_REASON
        self.guard = VersionGuard(config, self._kept())
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._training: Training | None = None

    def takes_back(self, training: Training) -> None:
        """Take this training back, too, when success falls; at once if an earlier process was to."""
        self._training = training
        if self.guard.state.training:
            training.return_to_good(self.guard.state.training, self._restored)

    def publish(self, version: PolicyVersion) -> None:
        """Pass a version on, or the good one in its place, or nothing."""
        with self._lock:
            state = self.guard.state
            if state.returning and self._good is not None:
                why, self._good = state.returning, replace(self._good, number=version.number)
                self.guard.returned(version.number, version.update)
                self._tell("returned", why, self._good.update)
                self._keep(self._good)
                self._sink.publish(self._good)
                return
            if state.held_until and version.update < state.held_until:
                if self._good is not None and version.number and not self._recent:
                    self._sink.publish(replace(self._good, number=version.number))  # a restart
                    self._remember(self._good)
                return
            if state.held_until:
                self.guard.released(version.number)
                self._tell("released", "new versions are published again", version.update)
                self._keep(None)
            self._remember(version)
            self._sink.publish(version)

    def take(self, result: EpisodeResult) -> None:
        """An episode has ended."""
        with self._lock:
            if not self._recent:
                return  # nothing has been published yet, so that it is of another time
            verdict = self.guard.take(result)
            if verdict == "good" and not self.guard.state.held_until:
                self._good = self._version(result.last_version)
                self._keep(self._good)
                before = self.guard.state.before
                self._event("good", f"success {before.success:.0%}", self._good.update)
                if self._training is not None:
                    self._training.keep_good(self._good.update)
            elif verdict:
                self._keep(None)
            why = self.guard.state.training
        if verdict == "return":
            if why and self._training is not None:
                self._training.return_to_good(why, self._restored)
            self._publish_now()

    def reasons(self) -> list[Reason]:
        """What a person should know: that the good version acts, why, and until when."""
        with self._lock:
            state = self.guard.state
            if state.returning:
                return [
                    Reason(POLICY_RETURNED, f"the last good version comes back: {state.returning}")
                ]
            return [self._news] if state.held_until and self._news else []

    def forget(self) -> None:
        """What was known is of another policy: begin anew, and set the good version aside."""
        with self._lock:
            self.guard.state, self._good, self._news = GuardState(), None, NO_REASON
            for name in (GOOD_FILE, STATE_FILE):
                file = self._directory / name
                if file.exists():
                    os.replace(file, file.with_name(f"before.{name}"))

    def watch(self, store: str | Path) -> None:
        """Take the results of episodes that are stored from now on, in a thread of its own."""
        results = StoredResults(store)
        self._thread = threading.Thread(
            target=self._look, args=(results,), name="policy-guard", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Watch no longer. Idempotent."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _restored(self, update: int | None) -> None:
        """The training has gone back, or could not."""
        with self._lock:
            why = self.guard.state.training
            self.guard.restored(update)
            state, number = self.guard.state, 0 if update is None else update
            text = f"training went back to update {update}"
            if update is None:
                text = "no checkpoint of a good version is kept, so that training goes on as it was"
            if self._news:
                held = f"new versions are withheld until update {state.held_until}"
                self._news = Reason(
                    POLICY_RETURNED, f"{self._news.text.partition(';')[0]}; {text}; {held}"
                )
            _log.warning("%s", text)
            self._event("training" if update is not None else "training_stays", why, number)
            self._keep(None)

    def _look(self, results: StoredResults) -> None:
        trouble = ""
        while not self._stopping.wait(_LOOK_S):
            try:
                for result in results.new():
                    self.take(result)
                trouble = ""
            except Exception as error:  # the index is being rebuilt, for instance
                if str(error) != trouble:
                    trouble = str(error)
                    _log.warning("new policy versions are not watched for now: %s", error)
        results.close()

    def _version(self, number: int) -> PolicyVersion:
        """The version of this number, or the one nearest to it that is still here."""
        nearest = min(self._recent, key=lambda known: abs(known - number))
        return self._recent[nearest]

    def _remember(self, version: PolicyVersion) -> None:
        self._recent[version.number] = version
        size = sum(array.nbytes for array in version.arrays.values())
        while len(self._recent) > max(2, min(_KEPT, _KEPT_BYTES // max(size, 1))):
            self._recent.popitem(last=False)

    def _tell(self, event: str, why: str, update: int) -> None:
        state = self.guard.state
        text = f"new versions are published again, from update {update}"
        if event == "returned":
            text = (
                f"went back to the policy of update {update}, now version {state.good}: {why}; new versions "
                f"are withheld until update {state.held_until}"
            )
        self._news = Reason(POLICY_RETURNED, text) if event == "returned" else NO_REASON
        _log.warning("%s", text)
        self._event(event, why, update)

    def _event(self, event: str, why: str, update: int) -> None:
        line = {
            "t": round(self._clock_s(), 3), "event": event, "why": why, "update": update,
            "version": self.guard.state.good, "held_until": self.guard.state.held_until,
        }  # fmt: skip
        try:
            with (self._directory / LOG_FILE).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            _log.warning("%s is not written: %s", LOG_FILE, error)

    def _keep(self, good: PolicyVersion | None) -> None:
        """Make what is known durable: the weights first, where they are new."""
        try:
            if good is not None:
                write_atomically(self._directory / GOOD_FILE, encode_version(good))
            text = json.dumps({**asdict(self.guard.state), "news": self._news.text})
            write_atomically(self._directory / STATE_FILE, text)
        except OSError as error:
            _log.warning("the state of the guard is not kept: %s", error)

    def _kept(self) -> GuardState | None:
        """What an earlier process of the run has kept; None where there is nothing, or not all of it."""
        try:
            values = json.loads((self._directory / STATE_FILE).read_text(encoding="utf-8"))
            news = values.pop("news")
            state = GuardState.from_dict(values)
            if state.good:
                self._good = read_version(self._directory / GOOD_FILE)
        except FileNotFoundError:
            return None
        except (SuiteError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            _log.warning(
                "what was known of good versions cannot be read, and is forgotten: %s", error
            )
            return None
        self._news = Reason(POLICY_RETURNED, news) if news else NO_REASON
        return state


class StoredResults:
    """Results of episodes as they come into a store; those that were there before are passed over."""

    def __init__(self, store: str | Path) -> None:
        self._path = Path(store)
        self._db, self._identity = self._open()
        self._seen: deque[int] = deque(maxlen=10_000)
        self._floor = self._db.execute("SELECT COALESCE(MAX(id), 0) FROM episodes").fetchone()[0]
        self._floor = max(0, self._floor - 1000)  # of several robots, some go on
        self._seen.extend(number for number, _ in self._rows())

    def new(self) -> list[EpisodeResult]:
        """Results that have come since. Raises StoreError, StoreCorrupt or sqlite3.Error while it cannot be read."""
        if os.stat(self._path / INDEX_NAME).st_ino != self._identity:  # it was rebuilt
            self._db.close()
            self._db, self._identity = self._open()
            self._seen.extend(number for number, _ in self._rows())
            return []
        known, found = set(self._seen), []
        for number, text in self._rows():
            if number not in known:
                self._seen.append(number)
                if (result := result_from_dict(json.loads(text))) is not None:
                    found.append(result)
        if self._seen:
            self._floor = max(self._floor, max(self._seen) - 1000)
        return found

    def close(self) -> None:
        """Let go of the index. Idempotent."""
        self._db.close()

    def _rows(self) -> list[tuple[int, str]]:
        return self._db.execute(
            "SELECT id, result FROM episodes WHERE id > ? AND result != '' ORDER BY id",
            (self._floor,),
        ).fetchall()

    def _open(self) -> tuple[sqlite3.Connection, int]:
        identity = os.stat(self._path / INDEX_NAME).st_ino
        return connect(self._path, writable=False), identity
