"""Teleop ``browser``: a person drives from a web page, by keys, a gamepad, a tablet or a headset."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from user_core.config import Config, setting
from user_core.errors import SpecError
from user_core.reasons import DEVICE_SILENT, NO_REASON, Reason
from user_hal.teleops.hand_device import EngagementConfig, HandConfig, HandTeleop

#: What a page may ask for beside moving.
ACTS = ("open", "close", "toggle", "success", "failure", "abort")
_AXES = 6


class BrowserConfig(HandConfig):
    """How a page drives."""

    max_age_s: float = setting(
        0.2,
        doc="When nothing has come from the page for this long, no person drives: the browser may be "
        "gone, or the link be cut.",
        unit="s",
        gt=0,
    )
    press_again_s: float = setting(
        1.0,
        doc="After a silence of this long the switch counts only once it was released: a page that was frozen, "
        "or a link that came back, does not move the robot by itself.",
        unit="s",
        gt=0,
    )
    engagement: EngagementConfig = setting(
        EngagementConfig(deadman=True), doc="A page always has a dead-man switch: it must be held."
    )


@dataclass(frozen=True)
class BrowserInput:
    """One message of a page.

    Attributes:
        number: Counts the messages of one page; a lower one is late and does not count.
        axes: Deflections x y z rx ry rz, -1 to 1 each, in the base frame of the robot (REP-103).
        held: Whether the dead-man switch is held.
        acts: What was asked for since the last message, of :data:`ACTS`.
        sent_ms: When it was sent, by the page's own clock, milliseconds; it is sent back, so that the
            page knows the round trip, and shows which messages were held up; 0: not said.
    """

    number: int
    axes: tuple[float, ...]
    held: bool
    acts: tuple[str, ...] = ()
    sent_ms: float = 0.0

    @classmethod
    def read(cls, data: Any) -> BrowserInput:
        """From what came; raises SpecError where it is no such message."""
        if not isinstance(data, Mapping):
            raise SpecError("message of a page", got=type(data).__name__, expected="an object")
        number, axes, held = data.get("number"), data.get("axes"), data.get("held")
        acts, sent_ms = data.get("acts", ()), data.get("sent_ms", 0.0)
        if type(number) is not int or number < 0:
            raise SpecError("number", got=repr(number)[:80], expected="a whole number from 0")
        if (
            not isinstance(axes, list)
            or len(axes) > _AXES
            or not all(type(a) in (int, float) and math.isfinite(a) for a in axes)
        ):
            raise SpecError("axes", got=repr(axes)[:80], expected=f"up to {_AXES} finite numbers")
        if type(held) is not bool:
            raise SpecError("held", got=repr(held)[:80], expected="true or false")
        if not isinstance(acts, list | tuple) or not all(act in ACTS for act in acts):
            raise SpecError("acts", got=repr(acts)[:80], expected=f"some of {', '.join(ACTS)}")
        if type(sent_ms) not in (int, float) or not math.isfinite(sent_ms):
            raise SpecError("sent_ms", got=repr(sent_ms)[:80], expected="a number")
        clipped = tuple(max(-1.0, min(1.0, float(a))) for a in axes)
        return cls(number, clipped, held, tuple(acts), float(sent_ms))


class _LinkDelay:
    """How much later than usual a message comes, from the sender's clock and ours, which need not agree.

    What is usual is the shortest way of the last half minute, so that clocks that drift apart do not matter.
    """

    _WINDOWS, _WINDOW_S = 3, 10.0

    def __init__(self) -> None:
        self._shortest_s: deque[tuple[float, float]] = deque(maxlen=self._WINDOWS)

    def late_s(self, sent_s: float, now_s: float) -> float:
        """Seconds beyond the usual way of a message that was sent then and is here now."""
        way_s = now_s - sent_s
        if not self._shortest_s or now_s - self._shortest_s[-1][0] > self._WINDOW_S:
            self._shortest_s.append((now_s, way_s))
        else:
            begun_s, shortest_s = self._shortest_s[-1]
            self._shortest_s[-1] = (begun_s, min(shortest_s, way_s))
        return way_s - min(shortest_s for _, shortest_s in self._shortest_s)


class BrowserTeleop(HandTeleop):
    """Driven by what a page sends; :meth:`take` gets it, from whatever thread.

    The console of a running system has one for each robot that a person drives from there. The
    page sends some thirty messages a second while it is open, also when nothing changes, so silence
    means that it is gone. Messages that were held up on the way are no news: a link that was cut
    brings all of them at once when it is back.

    Attributes:
        late: Messages that did not count, as they were overtaken or held up.
        must_release: Whether the switch is held since before a silence: it does not count until it was released.
    """

    Config: ClassVar[type[Config]] = BrowserConfig

    def __init__(self, config: BrowserConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self.config = config
        self.late = 0
        self._forget()

    def open(self) -> None:
        """Nothing to open: the page comes by itself."""
        self._forget()

    def _forget(self) -> None:
        self._newest, self._delay = -1, _LinkDelay()
        self.must_release, self._heard_s = False, math.inf

    def take(self, said: BrowserInput) -> bool:
        """Take a message of the page; whether it counted. One that was overtaken or held up does not."""
        if said.number <= self._newest:
            self.late += 1
            return False
        self._newest = said.number
        now_s = self._clock_s()
        if said.sent_ms and self._delay.late_s(said.sent_ms / 1000, now_s) > self.config.max_age_s:
            self.late += 1
            return False
        for act in said.acts:
            if act == "toggle":
                self.toggle_grip()
            elif act in ("open", "close"):
                self.grip(1.0 if act == "open" else 0.0)
            else:
                self.label(act)
        silent = now_s - self._heard_s > self.config.press_again_s
        self._heard_s = now_s
        self.must_release = said.held and (silent or self.must_release)
        self.moved(said.axes, said.held and not self.must_release)
        return True

    def let_go(self) -> None:
        """The page is gone: nobody holds the switch any more. Another page counts from its own start."""
        self._forget()
        self.moved([0.0] * _AXES, False)

    def trouble(self) -> Reason:
        """Whether no page is heard."""
        state = self.state
        if state is None or not self._counts(self._clock_s() - state.stamp_s):
            return Reason(DEVICE_SILENT, "no page of the console drives this robot")
        return NO_REASON
