"""What is wrong with a clock, told from the stamps of messages: which fault, how much, the cure."""

from __future__ import annotations

from dataclasses import dataclass

#: No machine has been on for longer, and no clock since 1970 shows less.
_LONGEST_UPTIME_NS = 10 * 365 * 86_400 * 1_000_000_000
#: Less than this is the way of a message, and clocks as NTP keeps them.
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


@dataclass(frozen=True)
class Wording:
    """What is spoken of.

    Attributes:
        messages: What is stamped.
        device: What stamps it.
        by_arrival: The way to do without the stamps.
        since_boot: The cure of stamps that count from the start.
        late: The cure where nothing is wrong with the clock.
    """

    messages: str = "images"
    device: str = "camera"
    by_arrival: str = (
        "configure stamp: arrival, with latency_s for the time from exposure to arrival"
    )
    since_boot: str = (
        "Let the driver stamp with system time (for RealSense global_time_enabled: true)"
    )
    late: str = "raise max_age_s and max_skew_s, or send less"


CAMERA = Wording()
ROBOT = Wording(
    messages="messages",
    device="robot",
    by_arrival="set stamp: arrival",
    since_boot="Let the driver stamp with system time",
    late="raise max_age_s",
)


def clock_fault(
    stamp_ns: int,
    arrival_ns: int,
    same_stamps: int = 0,
    of: Wording = CAMERA,
    simulated_clock: bool = False,
    tolerance_ns: int = TOLERANCE_NS,
) -> ClockFault:
    """Compare a stamp with the moment of arrival, both in nanoseconds.

    Args:
        stamp_ns: What the device says.
        arrival_ns: When the message came, by the clock of this node.
        same_stamps: How many messages before this one had the same stamp.
        of: What is spoken of.
        simulated_clock: Whether somebody publishes /clock.
        tolerance_ns: Differences up to this are none.
    """
    ahead_s = (stamp_ns - arrival_ns) / 1e9
    since_boot, simulated = stamp_ns < _LONGEST_UPTIME_NS, arrival_ns < _LONGEST_UPTIME_NS
    if arrival_ns <= 0 < stamp_ns:
        return ClockFault(
            "this node's clock stands at 0: it follows simulated time (use_sim_time), and nobody "
            "publishes /clock",
            "Start what publishes /clock, or set use_sim_time: false for this node",
        )
    if since_boot and not simulated and simulated_clock:
        return ClockFault(
            f"its stamps are of simulated time ({stamp_ns / 1e9:.1f} s; /clock is published), but "
            "this node's clock is real",
            f"Set use_sim_time: true for this node as well, or {of.by_arrival}",
        )
    if since_boot and not simulated:
        return ClockFault(
            f"its stamps count from when the machine or the {of.device} was switched on "
            f"({stamp_ns / 1e9:.1f} s), not from 1970; or they are of simulated time (use_sim_time)",
            f"{of.since_boot}, or {of.by_arrival}",
        )
    if same_stamps >= 1:
        return ClockFault(
            f"{of.messages} go on coming, but their stamps stand still: the last {same_stamps + 1} "
            f"have the same, {-ahead_s:.3f} s ago",
            f"Repair the stamps of the {of.device}'s driver, or {of.by_arrival}",
        )
    if simulated and not since_boot:
        return ClockFault(
            "its stamps are of real time, but this node's clock is simulated",
            "Set use_sim_time for both or for neither",
        )
    if stamp_ns - arrival_ns > tolerance_ns:
        return ClockFault(
            f"its clock is ahead of this machine's: {of.messages} come {ahead_s:.3f} s before "
            "their stamps",
            f"Synchronise the clocks (chrony or PTP), or {of.by_arrival}",
        )
    if arrival_ns - stamp_ns > tolerance_ns:
        return ClockFault(
            f"{of.messages} come {-ahead_s:.3f} s after their stamps: the {of.device}'s clock is "
            f"behind, or its {of.messages} are under way for so long",
            f"Synchronise the clocks (chrony or PTP). If they are, {of.late}; otherwise "
            f"{of.by_arrival}",
        )
    return ClockFault()
