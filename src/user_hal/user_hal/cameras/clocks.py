"""What is wrong with the clock of a camera, told from its stamps: which fault, how much, the cure."""

from __future__ import annotations

from dataclasses import dataclass

#: No machine has been on for longer, and no clock since 1970 shows less.
_LONGEST_UPTIME_NS = 10 * 365 * 86_400 * 1_000_000_000
#: Less than this is the way of an image, and clocks as NTP keeps them.
TOLERANCE_NS = 50_000_000


@dataclass(frozen=True)
class ClockFault:
    """Why stamps cannot be trusted; falsy where they can.

    Attributes:
        text: Which fault, and by how much.
        cure: What to do about it.
    """

    text: str = ""
    cure: str = ""

    def __bool__(self) -> bool:
        return bool(self.text)


_BY_ARRIVAL = "configure stamp: arrival, with latency_s for the time from exposure to arrival"


def clock_fault(stamp_ns: int, arrival_ns: int, same_stamps: int = 0) -> ClockFault:
    """Compare a stamp with the moment of arrival, both in nanoseconds.

    Args:
        stamp_ns: What the camera says.
        arrival_ns: When its image came, by the clock of this process.
        same_stamps: How many images before this one had the same stamp.
    """
    ahead_s = (stamp_ns - arrival_ns) / 1e9
    if same_stamps >= 1:
        return ClockFault(
            f"images go on coming, but their stamps stand still: the last {same_stamps + 1} have "
            f"the same, {-ahead_s:.3f} s ago",
            f"Repair the stamps of the camera's driver, or {_BY_ARRIVAL}",
        )
    since_boot, simulated = stamp_ns < _LONGEST_UPTIME_NS, arrival_ns < _LONGEST_UPTIME_NS
    if since_boot and not simulated:
        return ClockFault(
            f"its stamps count from when the machine or the camera was switched on "
            f"({stamp_ns / 1e9:.1f} s), not from 1970",
            f"Let the driver stamp with system time (for RealSense global_time_enabled: true), or "
            f"{_BY_ARRIVAL}",
        )
    if simulated and not since_boot:
        return ClockFault(
            "its stamps are of real time, but this node's clock is simulated",
            "Set use_sim_time for both or for neither",
        )
    if stamp_ns - arrival_ns > TOLERANCE_NS:
        return ClockFault(
            f"its clock is ahead of this machine's: images come {ahead_s:.3f} s before their stamps",
            f"Synchronise the clocks (chrony or PTP), or {_BY_ARRIVAL}",
        )
    if arrival_ns - stamp_ns > TOLERANCE_NS:
        return ClockFault(
            f"images come {-ahead_s:.3f} s after their stamps: the camera's clock is behind, or "
            "its images are under way for so long",
            f"Synchronise the clocks (chrony or PTP). If they are, raise max_age_s and max_skew_s, "
            f"or send less; otherwise {_BY_ARRIVAL}",
        )
    return ClockFault()
