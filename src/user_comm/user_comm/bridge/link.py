"""One Zenoh session of a bridge, opened again and again for as long as it takes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import zenoh

from user_comm.diagnostics import Item, Level
from user_comm.net.sessions import ZenohConfig, open_session
from user_core.errors import TransportError
from user_core.reasons import LINK_DOWN

_LOOK_S = 0.2
_PING_TIMEOUT_S = 10.0
#: A session that is there, and gets no answer for this long, is only half alive.
_HUNG_S = 20.0
_NOBODY = "@/nobody/@ros2_lv/MP"


class BridgeLink:
    """Keeps a session open in a thread of its own.

    A bridge has two, for what must not wait and for bulk, so that the one does not queue behind
    the other in the kernel. (Zenoh can make several links for one session, by priority, but a
    client that has lost them comes back with one.)

    Args:
        name: For people.
        config: How to open it.
        declare: Called with each new session, in the link's thread.
        changed: Called when the link has come or gone.
        look: Called now and then while the link is there.
        say: For the log.
        ping_period_s: Time between two measurements of the round trip, seconds.

    Attributes:
        is_up: Whether the router is there.
        times_up: How often it has come.
        round_trip_s: To the router and back, measured last; NaN while it is not known.
    """

    def __init__(
        self,
        name: str,
        config: ZenohConfig,
        declare: Callable[[zenoh.Session], None],
        changed: Callable[[], None],
        look: Callable[[], None],
        say: Callable[[str], object],
        ping_period_s: float = 1.0,
    ) -> None:
        self.name, self._config, self._ping_period_s = name, config, ping_period_s
        self._declare, self._changed, self._look, self._say = declare, changed, look, say
        self._ending = threading.Event()
        self._session: zenoh.Session | None = None
        self._error = ""
        self.is_up = False
        self.times_up = 0
        self.round_trip_s = math.nan
        self._heard_s = self._since_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"bridge {name}", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def close(self) -> None:
        """End the session."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(10.0)

    @property
    def zid(self) -> str:
        """Zenoh's id of the session; empty while there is none."""
        session = self._session
        return "" if session is None else str(session.zid())

    def item(self) -> Item:
        """The state of the link, for /diagnostics."""
        where = ", ".join(self._config.connect or self._config.listen)
        for_s = time.monotonic() - self._since_s
        if self.is_up:
            level, text = Level.OK, f"connected to {where}"
        else:
            level, text = (
                Level.WARN,
                f"not connected to {where}" + f": {self._error}" * bool(self._error),
            )
        values = {
            "up": self.is_up,
            **({} if self.is_up else {"code": LINK_DOWN}),
            "times_up": self.times_up,
            "for_s": f"{for_s:.1f}",
            "round_trip_ms": f"{self.round_trip_s * 1e3:.1f}",
        }
        return Item(f"link {self.name}", level, text, values)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                with open_session(self._config, self._ending) as session:
                    self._session = session
                    self._declare(session)
                    self._watch(session)
            except TransportError as error:
                if self._ending.is_set():
                    return
                self._fail(error)
            except Exception as error:  # of Zenoh or the graph, whatever it is: connect anew
                self._fail(error)
            finally:
                self._session = None
                self._is_up(False)

    def _fail(self, error: Exception) -> None:
        self._error = str(error).partition(" at ")[0]
        self._say(f"link {self.name}: {self._error}")
        self._ending.wait(1.0)

    def _watch(self, session: zenoh.Session) -> None:
        pinged_s = -math.inf
        self._heard_s = time.monotonic()
        while not self._ending.is_set() and not session.is_closed():
            client = self._config.mode == "client"
            self._is_up(not client or bool(list(session.info.routers_zid())))
            if self.is_up:
                self._look()
                if time.monotonic() - pinged_s >= self._ping_period_s:
                    pinged_s = time.monotonic()
                    self._ping(session)
                if time.monotonic() - self._heard_s > _HUNG_S:
                    self._say(f"link {self.name}: nothing is answered; connecting anew")
                    return
            else:
                self._heard_s = time.monotonic()
            self._ending.wait(_LOOK_S)

    def _ping(self, session: zenoh.Session) -> None:
        """Ask the router for a token that there is not: it answers at once that it has none."""
        began_s = time.monotonic()

        def answered() -> None:
            now_s = time.monotonic()
            self.round_trip_s = now_s - began_s
            if self.round_trip_s < 0.9 * _PING_TIMEOUT_S:
                self._heard_s = now_s

        session.liveliness().get(
            _NOBODY,
            zenoh.handlers.Callback(lambda _: None, answered, indirect=False),
            timeout=_PING_TIMEOUT_S,
        )

    def _is_up(self, up: bool) -> None:
        if up == self.is_up:
            return
        self.is_up, self._since_s = up, time.monotonic()
        self.times_up += up
        self.round_trip_s = math.nan
        self._error = "" if up else "the router does not answer"
        self._say(f"link {self.name}: {'connected' if up else 'lost'}")
        self._changed()
