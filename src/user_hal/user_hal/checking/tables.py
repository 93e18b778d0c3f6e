"""The findings about readings, topics and motion, for people: what is wrong, and the cure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from user_hal.checking.findings import Level, Section
from user_hal.checking.motion import MotionReport, Moved
from user_hal.checking.readings import Readings
from user_hal.checking.streams import Skew, Stream, rounded_up, skew_of

#: Share of failed readings above which something is wrong, 0 to 1.
TOO_MANY = 0.01
_HINTS = {
    "did not move": "Is the controller active and in the right mode (servo: its command type), the "
    "robot enabled, and nothing else driving it?",
    "wrong way": "Correct the sign of scale, of the observation or the command",
    "not measured": "The machine, the robot or its simulator is too busy: check again when it has less to do",
}


def readings_section(
    section: Section,
    readings: Readings,
    streams: Sequence[Stream],
    limit_s: float,
    cameras_limit_s: float,
) -> None:
    """Say how many readings failed, why, and what would help.

    Args:
        section: Where it is said.
        readings: The driver's.
        streams: The topics meanwhile.
        limit_s: Their largest skew that is configured; 0: none.
        cameras_limit_s: That of images.
    """
    percent = f"{100 * readings.failed_share:.2g} % of {readings.count} readings failed"
    if readings.failed_share > TOO_MANY:
        section.add(Level.FAIL, percent)
    elif not readings.count:
        pass
    elif readings.failed:
        section.add(Level.WARN, percent)
    else:
        slowest = f"slowest {readings.slowest_s * 1e3:.1f} ms"
        section.add(Level.OK, f"all {readings.count} readings succeeded", slowest)
    level = Level.FAIL if readings.failed_share > TOO_MANY else Level.WARN
    for what, count in readings.failures.most_common(5):
        section.add(level, f"{count} times {what}", readings.examples[what])
    if readings.ages_s:
        middle, oldest = statistics.median(readings.ages_s), readings.ages_s[-1]
        section.add(
            Level.OK,
            f"age of the observations: {middle * 1e3:.0f} ms, at most {oldest * 1e3:.0f} ms",
        )
    if limit_s and sum(stream.leads and bool(stream.count) for stream in streams) > 1:
        _report_skew(section, skew_of(streams, limit_s), limit_s, readings, "timing.max_skew_s")
    images = skew_of(streams, cameras_limit_s, cameras=True)
    _report_skew(section, images, cameras_limit_s, readings, "cameras.max_skew_s")


def _report_skew(
    section: Section, skew: Skew | None, limit_s: float, readings: Readings, key: str
) -> None:
    if skew is None:
        return
    enough = rounded_up(skew.largest_s)
    what = "images are" if key.startswith("cameras") else "topics are"
    seen = f"{what} up to {skew.largest_s * 1e3:.0f} ms apart ({skew.topic})"
    if skew.largest_s <= limit_s:
        section.add(Level.OK, f"{seen}; {key} is {limit_s:g}")
        return
    section.add(
        Level.WARN if readings.count and readings.failed_share <= TOO_MANY else Level.FAIL,
        f"{seen}, further than {key} ({limit_s:g}) in {100 * skew.share:.2g} % of the time",
        hint=f"{key}: {enough:g} is the smallest that would have done; or let {skew.topic} be "
        "sent more often" + ("" if key.startswith("cameras") else ", or with resample: latest"),
    )


def streams_section(streams: Sequence[Stream], *, simulated_clock: bool = False) -> Section:
    """The table of topics, and what is wrong with their rates and clocks.

    Args:
        streams: What was recorded.
        simulated_clock: Whether somebody publishes /clock.
    """
    section = Section(
        "Topics", columns=("observation", "topic", "Hz", "age ms", "at most", "longest gap ms")
    )
    for stream in streams:
        if not stream.names and not stream.count:
            continue  # the driver can do without it
        ages = sorted(stream.ages_s)
        middle, oldest = (ages[len(ages) // 2], ages[-1]) if ages else (0.0, 0.0)
        stamped = stream.stamped and not stream.by_arrival
        section.rows.append(
            (
                ", ".join(stream.names),
                stream.topic,
                f"{stream.rate_hz:.1f}" if stream.count > 1 else f"{stream.count} msg",
                f"{middle * 1e3:.1f}" if stamped else "by arrival" if stream.count else "",
                f"{oldest * 1e3:.1f}" if stamped else "",
                f"{stream.largest_gap_s * 1e3:.0f}" if stream.count > 1 else "",
            )
        )
        fault, cure = stream.clock_fault(simulated_clock=simulated_clock)
        if fault:
            section.add(Level.FAIL, f"{stream.topic}: {fault}", hint=cure)
        if stream.count and not stream.latched and 0 < stream.max_age_s < stream.largest_gap_s:
            section.add(
                Level.WARN,
                f"{stream.topic} was silent for {stream.largest_gap_s:.2f} s",
                f"max_age_s is {stream.max_age_s:g}",
            )
    return section


def motion_section(report: MotionReport) -> Section:
    """What moved as told, and what did not."""
    section = Section(
        "Moves when told", columns=("element", "", "told", "went", "back to", "verdict")
    )
    for moved in report.moved:
        tried = moved.verdict != "not tried"
        section.rows.append(
            (
                moved.name,
                moved.unit,
                f"{moved.told:+.4f}" if tried else "",
                f"{moved.went:+.4f}" if tried else "",
                f"{moved.back:+.4f}" if tried and moved.verdict != "stopped" else "",
                moved.verdict,
            )
        )
    good = [moved for moved in report.moved if moved.good]
    if good:
        section.add(Level.OK, f"{len(good)} of {len(report.moved)} moved as told, there and back")
    for verdict in dict.fromkeys(m.verdict for m in report.moved if not m.good):
        _report_verdict(section, verdict, [m for m in report.moved if m.verdict == verdict])
    for moved in good:
        if moved.detail:
            section.add(Level.WARN, f"{moved.name}: {moved.detail}")
    if again := [moved.name for moved in report.moved if moved.interrupted]:
        why = "a reading or a command came late, for instance"
        section.add(Level.WARN, f"stopped meanwhile, and tried again: {', '.join(again)}", why)
    if report.trouble and not any(moved.verdict == "stopped" for moved in report.moved):
        section.add(Level.FAIL, "the robot could not be moved", report.trouble)
    return section


def _report_verdict(section: Section, verdict: str, those: Sequence[Moved]) -> None:
    level = {"not tried": Level.SKIP, "not measured": Level.WARN}.get(verdict, Level.FAIL)
    by_detail: dict[str, list[str]] = {}
    for moved in those:
        by_detail.setdefault(moved.detail, []).append(moved.name)
    for detail, names in by_detail.items():
        section.add(level, f"{verdict}: {', '.join(names)}", detail, _HINTS.get(verdict, ""))
