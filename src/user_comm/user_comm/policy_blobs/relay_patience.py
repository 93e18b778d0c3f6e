"""How long a relay that does not answer is waited for, over all versions."""

from __future__ import annotations

#: A relay that was silent is not asked for so long, and then with less patience.
REST_S = 10.0
_PROBE_S = 1.0


class RelayPatience:
    """Adds up a relay's silence. Versions may come faster than patience ends: each by itself
    would wait for a dead relay until the next one takes its place, and none would ever arrive.

    Args:
        patience_s: A relay that is silent for so long is passed by, seconds.
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
