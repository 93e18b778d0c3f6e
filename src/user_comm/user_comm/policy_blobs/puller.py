"""The robot's end: pulls announced versions as keyframe or delta, and verifies them."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import zenoh

from user_comm.converters import PolicyAnnouncement
from user_comm.diagnostics import FlowFigures, code_of
from user_comm.logs import Throttle
from user_comm.policy_blobs.pieces import (
    NAME_DIGITS,
    NO_BASE,
    PIECE_BYTES,
    made_for_key,
    version_key,
)
from user_comm.policy_blobs.transfer import (
    Hung,
    NotServed,
    PieceTransfer,
    Superseded,
    TransferStats,
)
from user_core.codecs.policy_blob import BlobLimits, decode_blob
from user_core.errors import PolicyError, SuiteError
from user_core.policies import differences_in_words
from user_core.reasons import NO_REASON, Reason
from user_core.runtime.closing import Closing
from user_core.runtime.link_model import LinkWindow
from user_core.specs import digest
from user_core.types import PolicyVersion

_log = logging.getLogger(__name__)
#: However slow the link, a version is taken this often, seconds.
_LONGEST_S = 60.0
#: Pauses of this length are told when they have changed by this factor.
_WORTH_SAYING_S, _CHANGE = 0.5, 1.5


class PullPace:
    """Spaces pulls so that policies take at most a share of the link; the rest is for the others.

    On a fast link this does nothing. Versions that are published meanwhile are passed over.

    Args:
        share: Part of the measured rate that policies may take, over time.

    Attributes:
        interval_s: Shortest time between the beginnings of two pulls now, seconds.
    """

    def __init__(self, share: float = 0.5) -> None:
        self._share = share
        self.interval_s = self._said_s = 0.0
        self._begun_s = float("-inf")

    def begin(self, now_s: float) -> None:
        """A pull begins."""
        self._begun_s = now_s

    def end(self, nbytes: int, rate_bytes_s: float) -> None:
        """It took this many bytes, on a link of this measured rate; 0: not measured."""
        if rate_bytes_s <= 0:
            return
        self.interval_s = min(nbytes / (rate_bytes_s * self._share), _LONGEST_S)
        low, high = sorted((max(self.interval_s, 0.01), max(self._said_s, 0.01)))
        if high >= _WORTH_SAYING_S and high > _CHANGE * low:
            self._said_s = self.interval_s
            _log.info(
                "policy versions at most every %.1f s: one has %.2f MB, the link %.2f MB/s, of "
                "which policies may take %.0f %%",
                self.interval_s, 1e-6 * nbytes, 1e-6 * rate_bytes_s, 100 * self._share,
            )  # fmt: skip

    def wait_s(self, now_s: float) -> float:
        """Time until the next may begin, seconds; 0: now."""
        return max(0.0, self._begun_s + self.interval_s - now_s)


#: A relay that was silent is not asked for this long, and then with less patience.
REST_S = 10.0
_PROBE_S = 1.0


class RelayPatience:
    """Adds up a relay's silence. Versions may come faster than patience ends: each by itself
    would wait for a dead relay until the next one takes its place, and none would ever arrive.

    Args:
        patience_s: A relay that is silent for this long is passed by, seconds.
        rest_s: Time for which it is then, seconds.
    """

    def __init__(self, patience_s: float, rest_s: float = REST_S) -> None:
        self._patience_s, self._rest_s = patience_s, rest_s
        self._left_s = patience_s
        self._rests_until_s = float("-inf")

    def left_s(self, now_s: float) -> float:
        """How long it may be silent; 0 while it is passed by."""
        return 0.0 if now_s < self._rests_until_s else self._left_s

    def asked(self, heard: bool, for_s: float, now_s: float) -> None:
        """It was asked for a time, and answered in it or did not."""
        if heard:
            self._left_s = self._patience_s
            return
        self._left_s -= for_s
        if self._left_s <= 0:
            self._rests_until_s = now_s + self._rest_s
            self._left_s = min(self._patience_s, _PROBE_S)


#: Damaged bytes are fetched again; this often, and then the version is left alone.
_ATTEMPTS = 4
_WAIT_S = 0.5
#: Pause before the next session where one could not be opened, or failed, seconds.
_AGAIN_S = 1.0
_MAX_WINDOW_BYTES = 8 * 2**20


@dataclass
class PullStats(TransferStats):
    """What the puller has done.

    Attributes:
        versions: Versions that were pulled whole and found right.
        keyframes: How many of them as keyframe.
        deltas: How many as delta.
        here: How many came by another way than the network.
        superseded: Versions that were given up because a newer one was announced.
        refused: Versions and blobs that were refused; ``refusals`` has them by kind.
        detours: Versions that were fetched past a relay that did not answer.
        reopened: Sessions that were only half alive, and opened anew.
        last_pull_s: Time from announcement to verified version, of the last one, seconds.
        last_error: Why the last one was refused or did not come; empty after a success.
        last_code: The same for programs: the code of an error, or of :mod:`user_core.reasons`.
    """

    versions: int = 0
    keyframes: int = 0
    deltas: int = 0
    here: int = 0
    superseded: int = 0
    refused: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    detours: int = 0
    reopened: int = 0
    last_pull_s: float = 0.0
    last_error: str = ""
    last_code: str = ""


class PolicyPuller(Closing):
    """A :class:`~user_core.interfaces.PolicySource` that is told of versions and pulls them.

    Give it every announcement (:meth:`announced`, from any thread). Its one thread pulls the newest
    and hands it on with ``on_version``. It pulls the delta from the version that it has, or the
    keyframe where it has none or its base is not kept any more. What is damaged is refused,
    counted and fetched again as a keyframe; what is made for another configuration is refused
    for good. The version before stays until the next one is whole.

    Args:
        open_session: Opens the Zenoh session; called in the puller's thread with the event
            that ends it, because a client waits until its router is there. Called again where a
            session is only half alive.
        config_hash: What weights must be made for, or plain data of it (:func:`user_core.policies.policy_made_for`),
            by which a refusal says how the learner's differs; empty: anything.
        on_version: Called in the puller's thread when a version is ready, and after
            :meth:`call_again`. What it raises is logged.
        max_bytes: A larger version is refused before anything is allocated for it.
        piece_timeout_s: Time after which a piece is asked for again, at least.
        relay: Prefix under which a relay of the site serves; empty: the learner is asked.
        relay_patience_s: A relay that is silent for this long, over all versions, is passed by.
        link_share: Part of the link's measured rate that policies may take, over time; on a
            thin link versions are passed over for it.
        take_here: Brings a version by another way than the network, called in the puller's thread with its
            announcement, and what tells whether it is not wanted any more; whether it did. Until then nothing is
            pulled.

    Attributes:
        stats: What it has done.
        window: What may be under way, and what is known of the link.
        pace: How often it takes a version.
        on_version: As given; may be set later, followed by :meth:`call_again`.
    """

    def __init__(
        self,
        open_session: Callable[[threading.Event], zenoh.Session],
        config_hash: str | Mapping[str, Any] = "",
        on_version: Callable[[], object] = lambda: None,
        max_bytes: int = 2**30,
        piece_timeout_s: float = 2.0,
        relay: str = "",
        relay_patience_s: float = 5.0,
        link_share: float = 0.5,
        take_here: Callable[[PolicyAnnouncement, Callable[[], bool]], bool] | None = None,
    ) -> None:
        self._take_here = take_here
        self.stats = PullStats()
        self.window = LinkWindow(2 * PIECE_BYTES, _MAX_WINDOW_BYTES, 0.5, 10.0)
        self.pace = PullPace(link_share)
        self._open_session = open_session
        self._made_for = {} if isinstance(config_hash, str) else dict(config_hash)
        self._config_hash = digest(self._made_for) if self._made_for else str(config_hash)
        self._others: dict[str, PolicyError] = {}
        self.on_version, self._max_bytes = on_version, max_bytes
        self._piece_timeout_s = piece_timeout_s
        self._relay, self._patience = relay, RelayPatience(relay_patience_s)
        self._throttle = Throttle()
        self._wake = threading.Condition()
        self._ending = threading.Event()
        self._again = False
        self._wanted: PolicyAnnouncement | None = None
        self._done: PolicyAnnouncement | None = None
        self._wanted_s = 0.0
        self._newest: PolicyVersion | None = None
        self._newest_hash = ""
        self._thread = threading.Thread(target=self._run, name="policy-puller", daemon=True)
        self._thread.start()

    def announced(self, announcement: PolicyAnnouncement) -> None:
        """Hear of a version; one that is older than the newest known is refused."""
        with self._wake:
            wanted = self._wanted
            if wanted is None or announcement.number > wanted.number:
                self._wanted, self._wanted_s = announcement, time.monotonic()
                self._wake.notify_all()
                return
            same = announcement.content_hash == wanted.content_hash
        if announcement.number < wanted.number:
            self._refuse("replayed", f"version {announcement.number} is older than {wanted.number}")
        elif not same:
            self._refuse("conflicting", f"another version {announcement.number} was announced")

    def newest(self, after: int) -> PolicyVersion | None:
        """The newest verified version, if its number is above ``after``."""
        version = self._newest
        return version if version is not None and version.number > after else None

    def call_again(self) -> None:
        """Have ``on_version`` called soon, in the puller's thread: who could not use the newest
        version when it came can now. From any thread; returns at once.
        """
        with self._wake:
            self._again = True
            self._wake.notify_all()

    def figures(self) -> FlowFigures:
        """What a robot or relay pulls, for diagnostics."""
        stats, window = self.stats, self.window
        return FlowFigures(
            bytes=stats.bytes,
            link_bytes_s=window.rate_bytes_s,
            round_trip_s=window.round_trip_s,
            base_s=window.base_s,
            window_bytes=window.nbytes,
            again=stats.retries,
            refused=stats.refused,
            note=Reason(stats.last_code, stats.last_error) if stats.last_error else NO_REASON,
        )

    @property
    def newest_number(self) -> int:
        """Number of the newest verified version; 0 without one."""
        return 0 if self._newest is None else self._newest.number

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._ending.set()
        with self._wake:
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                with self._open_session(self._ending) as session:
                    self._follow(session)
            except Hung:
                self.stats.reopened += 1
                _log.warning("queries for policies are not answered at all; connecting anew")
            except Exception as error:  # without this thread no policy would ever come again
                if self._ending.is_set():
                    return
                text = Reason.of(error).text
                if text != self.stats.last_error:
                    _log.warning("policies are not pulled for now: %s", text)
                self.stats.last_error, self.stats.last_code = text, code_of(error)
                self._ending.wait(_AGAIN_S)

    def _follow(self, session: zenoh.Session) -> None:
        """Pull what is announced, until the end. Raises Hung."""
        transfer = PieceTransfer(
            session, self.window, self.stats, self._max_bytes, self._piece_timeout_s
        )
        while (wanted := self._next()) is not None:
            self.pace.begin(time.monotonic())
            before = self.stats.bytes
            self._try(transfer, wanted)
            self.pace.end(self.stats.bytes - before, self.window.rate_bytes_s)
            self._done = wanted

    def _next(self) -> PolicyAnnouncement | None:
        """Wait for the next version whose turn it is; None at the end.

        The newest when its turn has come: what is announced meanwhile replaces what waited.
        """
        while not self._ending.is_set():
            self._hand_on_again()
            with self._wake:
                wanted = self._wanted
                waits = wanted is not None and wanted != self._done
                wait_s = self.pace.wait_s(time.monotonic()) if waits else None
                if wait_s == 0.0:
                    return wanted
                if not self._again and not self._ending.is_set():
                    self._wake.wait(wait_s)
        return None

    def _try(self, transfer: PieceTransfer, wanted: PolicyAnnouncement) -> None:
        try:
            self._check_configuration(transfer, wanted)
            if not self._is_taken_here(wanted):
                self._check_size(wanted)
                self._pull(transfer, wanted)
        except Hung:
            raise
        except Superseded:
            self.stats.superseded += 1
        except SuiteError as error:
            self._refuse(error.code, f"policy version {wanted.number} refused: {error}")
        except Exception as error:  # of Zenoh: the next version is another try
            _log.exception("policy version %d", wanted.number)
            self._refuse("internal", f"policy version {wanted.number}: {error}")

    def _is_taken_here(self, wanted: PolicyAnnouncement) -> bool:
        """Whether it came by another way. Raises Superseded, and what makes that hopeless."""

        def cancelled() -> bool:
            return self._ending.is_set() or self._wanted != wanted

        if self._take_here is None:
            return False
        if self._take_here(wanted, cancelled):
            self.stats.here += 1
            self._done_with(wanted)
            return True
        if cancelled():
            raise Superseded
        return False

    def _pull(self, transfer: PieceTransfer, wanted: PolicyAnnouncement) -> None:
        """Pull until it is there. Raises what makes that hopeless."""
        relay, use_delta = self._relay, self._newest is not None
        if relay and not self._patience.left_s(time.monotonic()):
            relay = ""  # it was silent a moment ago
            self.stats.detours += 1
        failures = 0
        while True:
            base, base_hash = (self._newest, self._newest_hash) if use_delta else (None, "")
            key = wanted.key
            if relay:
                key = version_key(relay, wanted.number, wanted.content_hash)
            try:
                blob = self._fetch(transfer, key, base_hash[:NAME_DIGITS], wanted, bool(relay))
                version = decode_blob(
                    blob,
                    base=base,
                    base_name=base_hash,
                    config_hash=self._config_hash or None,
                    expected_hash=wanted.content_hash,
                    limits=BlobLimits(header_bytes=2**22, total_bytes=self._max_bytes),
                )
                self._take(version, wanted)
                self.stats.deltas += base is not None
                self.stats.keyframes += base is None
                return
            except NotServed as error:
                if use_delta and error.reason == NO_BASE:
                    use_delta = False  # a gap: it was away for longer than versions are kept
                elif relay:
                    _log.warning("%s; asking the learner itself", error)
                    relay = ""
                    self.stats.detours += 1
                else:
                    self._wait(wanted)  # a learner that was restarted may have it again
            except SuiteError as error:
                failures += 1
                if failures >= _ATTEMPTS:
                    raise
                self._refuse(error.code, f"policy version {wanted.number}, fetching again: {error}")
                use_delta = False
                self._wait(wanted)

    def _fetch(
        self,
        transfer: PieceTransfer,
        key: str,
        base: str,
        wanted: PolicyAnnouncement,
        from_relay: bool,
    ) -> memoryview:
        """The bytes of a blob. Raises what :meth:`PieceTransfer.pull` does."""

        def cancelled() -> bool:
            self._hand_on_again()  # a pull over a thin link takes long
            return self._ending.is_set() or self._wanted != wanted

        if not from_relay:
            return transfer.pull(key, base, cancelled)
        asked_s, before = time.monotonic(), self.stats.bytes + self.stats.waits
        try:
            return transfer.pull(key, base, cancelled, self._patience.left_s(asked_s))
        finally:
            now_s = time.monotonic()
            heard = self.stats.bytes + self.stats.waits > before
            self._patience.asked(heard, now_s - asked_s, now_s)

    def _wait(self, wanted: PolicyAnnouncement) -> None:
        """Before the next attempt. Raises Superseded."""
        with self._wake:
            self._wake.wait_for(
                lambda: self._ending.is_set() or self._wanted != wanted, timeout=_WAIT_S
            )
        if self._ending.is_set() or self._wanted != wanted:
            raise Superseded

    def _take(self, version: PolicyVersion, wanted: PolicyAnnouncement) -> None:
        if version.number != wanted.number:
            raise PolicyError(
                "number of a policy version", got=version.number, expected=wanted.number
            )
        self._newest, self._newest_hash = version, wanted.content_hash
        self._done_with(wanted)
        self._hand_on()

    def _done_with(self, wanted: PolicyAnnouncement) -> None:
        self.stats.versions += 1
        self.stats.last_error = self.stats.last_code = ""
        self.stats.last_pull_s = time.monotonic() - self._wanted_s

    def _hand_on(self) -> None:
        try:
            self.on_version()
        except Exception:  # of who uses it: the next version is another try
            _log.exception("policy version %d could not be handed on", self.newest_number)

    def _hand_on_again(self) -> None:
        """In the puller's thread, now and then: see :meth:`call_again`."""
        if self._again:
            with self._wake:
                self._again = False
            self._hand_on()

    def _check_size(self, wanted: PolicyAnnouncement) -> None:
        if wanted.size > self._max_bytes or wanted.piece_size < 1024:
            raise PolicyError(
                f"policy version {wanted.number}",
                got=f"{wanted.size} bytes in pieces of {wanted.piece_size}",
                expected=f"at most {self._max_bytes} bytes, in pieces of 1024 or more",
            )

    def _check_configuration(self, transfer: PieceTransfer, wanted: PolicyAnnouncement) -> None:
        if not self._config_hash or wanted.config_hash == self._config_hash:
            return
        error = self._others.get(wanted.config_hash)
        if error is None:
            theirs = self._ask_what_it_is_for(transfer, wanted) if self._made_for else None
            error = _of_another(wanted.config_hash, theirs, self._config_hash, self._made_for)
            if theirs is not None:
                self._others[wanted.config_hash] = error
        raise error.with_traceback(None)  # else it keeps the frames of each time that it was raised

    def _ask_what_it_is_for(
        self, transfer: PieceTransfer, wanted: PolicyAnnouncement
    ) -> Mapping[str, Any] | None:
        """What the learner's versions are made for; None where it does not say. It is what its hash says, or nothing."""
        data = transfer.ask(made_for_key(wanted.key, wanted.config_hash), self._piece_timeout_s)
        try:
            theirs = json.loads(data or b"")
        except ValueError:
            return None
        return theirs if isinstance(theirs, dict) and digest(theirs) == wanted.config_hash else None

    def _refuse(self, kind: str, text: str) -> None:
        with self._wake:
            self.stats.refused += 1
            self.stats.refusals[kind] += 1
            if kind not in ("replayed", "conflicting"):  # the version that is wanted is all right
                self.stats.last_error, self.stats.last_code = text, kind
            line = self._throttle(kind, text)
        if line:
            _log.warning("%s", line)


def _of_another(
    their_hash: str, theirs: Mapping[str, Any] | None, hash_here: str, made_for: Mapping[str, Any]
) -> PolicyError:
    """Why versions of this learner cannot be used here."""
    what = "the learner has another policy than this host"
    if theirs is None:
        return PolicyError(
            what, got=f"versions for configuration {their_hash[:12]}", expected=f"{hash_here[:12]}",
            hint="Start both with the same `algorithm:=`, for robots with the same observations and actions",
        )  # fmt: skip
    there, here, of_the_robot = differences_in_words(theirs, made_for)
    if of_the_robot:
        what = "the learner learns for another robot than this one"
        hint = "Robots of one policy show and take the same: start both alike, or give this robot a learner of its own"
    else:
        hint = "Start both with the same `algorithm:=` (and the same `policy.params`); it is one argument of both deployments"
    return PolicyError(
        what,
        got=f"{', '.join(there)} at the learner",
        expected=f"{', '.join(here)}, as here",
        hint=hint,
    )
