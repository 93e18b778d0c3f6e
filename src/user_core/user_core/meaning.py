"""What the numbers of data mean, and how two meanings differ, in words.

Shapes and dtypes say whether data can be stored side by side
(:attr:`user_core.types.TrajectorySchema.hash`). They do not say whether an action of 0.3 is a
target in radians or a change per period: that is their *meaning*, which a
:class:`~user_core.specs.RobotSpec` holds, and which is compared wherever data meet.

What one side does not say (no unit, no names) is unknown, and differs from nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from user_core.errors import ConfigError, SchemaMismatch
from user_core.specs import ActionKind, Array, ArraySpec, RobotSpec

#: What is compared, by the names under which a difference can be accepted.
MEANINGS: dict[str, str] = {
    "action_kind": "what the numbers of an action do (joint_delta, ee_twist, ...)",
    "choices": "which elements of an action are choices, and of how many",
    "action_groups": "which elements of an action move which part",
    "period": "the control period",
    "bounds": "smallest and largest action",
    "observation_bounds": "bounds of observations of which nobody says the unit: they tell it",
    "grippers": "which elements of an action are grippers",
    "units": "units of actions and observations",
    "frames": "frames of actions and observations",
    "names": "names and order of the elements of actions and observations",
}
#: Periods that differ by less are one: a rate of 30 Hz is written 0.033 or 0.0333.
_SAME_PERIOD = 0.02
_SAME_BOUND = 1e-4
#: Bounds of an observation that differ by this factor are those of another unit: metres and
#: decimetres differ by 10, radians and degrees by 57. Limits of a joint are not set anew by this much.
_OTHER_UNIT = 8.0
#: A larger bound says that there is none.
_NO_BOUND = 1e6


@dataclass(frozen=True)
class MeaningDifference:
    """One difference.

    Attributes:
        key: One of :data:`MEANINGS`.
        got: What the data say, for people.
        expected: What they should say.
    """

    key: str
    got: str
    expected: str


def meaning_differences(data: RobotSpec, wanted: RobotSpec) -> list[MeaningDifference]:
    """How the meaning of data differs from the one that is wanted; empty when it does not."""
    found: list[MeaningDifference] = []

    def note(key: str, got: str, expected: str) -> None:
        found.append(MeaningDifference(key, got, expected))

    unsaid = _choices_unsaid(data) or _choices_unsaid(wanted)
    if data.action_kind is not wanted.action_kind and not unsaid:
        note("action_kind", data.action_kind.value, wanted.action_kind.value)
    if _choices(data.action) != _choices(wanted.action) and not unsaid:
        note("choices", _choices(data.action), _choices(wanted.action))
    groups = [[(g.kind.value, g.size) for g in spec.action_groups] for spec in (data, wanted)]
    if all(groups) and groups[0] != groups[1]:
        note("action_groups", _groups(data), _groups(wanted))
    if abs(data.period_s / wanted.period_s - 1) > _SAME_PERIOD:
        note("period", _rate(data), _rate(wanted))
    if not _same_bounds(data.action, wanted.action):
        note("bounds", _bounds(data.action), _bounds(wanted.action))
    if data.grippers and wanted.grippers and data.grippers != wanted.grippers:
        note("grippers", str(list(data.grippers)), str(list(wanted.grippers)))
    for name, one in data.observation.items():
        other = wanted.observation.get(name)
        if other is not None and not _same_range(one, other):
            where = f"observation.{name}"
            note("observation_bounds", f"{where} {_bounds(one)}", f"{where} {_bounds(other)}")
    pairs = [("action", data.action, wanted.action)]
    pairs += [
        (f"observation.{name}", spec, wanted.observation[name])
        for name, spec in data.observation.items()
        if name in wanted.observation
    ]
    for where, one, other in pairs:
        for key, got, expected in (
            ("units", one.unit, other.unit),
            ("frames", one.frame, other.frame),
            ("names", ", ".join(one.names), ", ".join(other.names)),
        ):
            if got and expected and got != expected:
                note(key, f"{where} {got!r}", f"{where} {expected!r}")
    return found


def require_same_meaning(
    data: RobotSpec, wanted: RobotSpec, what: str, accepted: Collection[str] = (), how: str = ""
) -> list[MeaningDifference]:
    """Compare meanings where data meet.

    Args:
        data: What the data say of themselves.
        wanted: What they are to be used for.
        what: The data, for messages.
        accepted: Differences that a person has accepted, by name.
        how: How to accept one, for the message: a setting or an option that takes names.

    Returns:
        The differences that were accepted.

    Raises:
        SchemaMismatch: There are others.
        ConfigError: ``accepted`` has a name that is none.
    """
    check_accepted(accepted)
    found = meaning_differences(data, wanted)
    refused = [one for one in found if one.key not in accepted]
    if refused:
        keys = ", ".join(dict.fromkeys(one.key for one in refused))
        raise SchemaMismatch(
            f"meaning of {what}",
            got=_words(refused, "got"),
            expected=_words(refused, "expected"),
            hint="Convert the data (`user replay convert`), or say that "
            f"the numbers are right as they are: {how or 'accept_differences: '}[{keys}]",
        )
    return found


def check_accepted(accepted: Iterable[str]) -> None:
    """Raise ConfigError unless all are names of :data:`MEANINGS`."""
    unknown = sorted(set(accepted) - set(MEANINGS))
    if unknown:
        raise ConfigError("accept_differences", got=unknown, expected=f"some of {list(MEANINGS)}")


def describe_meaning(spec: RobotSpec) -> list[tuple[str, str]]:
    """A meaning as names and values, for people."""
    lines = [
        ("action kind", spec.action_kind.value),
        ("control period", _rate(spec)),
        ("action bounds", _bounds(spec.action)),
    ]
    if spec.action.categorical:
        lines.append(("choices", _choices(spec.action)))
    if spec.action_groups:
        lines.append(("action groups", _groups(spec)))
    for name, value in (
        ("action unit", spec.action.unit),
        ("action frame", spec.action.frame),
        ("action names", ", ".join(spec.action.names)),
    ):
        lines.append((name, value or "unknown"))
    return lines


def outside_bounds(action: Array, spec: ArraySpec) -> Array:
    """Which rows of actions (n, A) have an element outside the bounds, (n,) bool."""
    low, high = (bound.astype(np.float64) for bound in (spec.low_array, spec.high_array))
    slack = 1e-3 * np.where(np.isfinite(high - low), np.abs(high - low), 0.0)
    outside = (action < low - slack) | (action > high + slack)
    return np.asarray(outside.reshape(len(action), -1).any(axis=1))


def _words(differences: list[MeaningDifference], side: str) -> str:
    return "; ".join(f"{d.key.replace('_', ' ')} {getattr(d, side)}" for d in differences)


def _choices_unsaid(spec: RobotSpec) -> bool:
    """Whether a spec may be one of integers from before specs said which of them are choices."""
    integers = not spec.action.dtype.startswith("float")
    return integers and not spec.action.categorical and spec.action_kind is ActionKind.GENERIC


def _choices(spec: ArraySpec) -> str:
    pairs = zip(spec.categorical, spec.counts, strict=True)
    return ", ".join(f"element {i}: {n} choices" for i, n in pairs) or "no choices"


def _rate(spec: RobotSpec) -> str:
    return f"{1 / spec.period_s:.3g} Hz"


def _groups(spec: RobotSpec) -> str:
    return ", ".join(f"{g.name}: {g.size} x {g.kind.value}" for g in spec.action_groups)


def _bounds(spec: ArraySpec) -> str:
    if spec.low is None or spec.high is None:
        return "none" if spec.low is None and spec.high is None else f"{spec.low} to {spec.high}"
    low, high = (np.asarray(b, np.float64).ravel() for b in (spec.low, spec.high))
    if len(set(low.tolist())) == 1 and len(set(high.tolist())) == 1:
        return f"{low[0]:.4g} to {high[0]:.4g}"
    return f"{[float(f'{v:.4g}') for v in low]} to {[float(f'{v:.4g}') for v in high]}"


def _same_range(one: ArraySpec, other: ArraySpec) -> bool:
    """Whether the bounds of an observation, where both have some, may be those of one quantity.
    Where units or names are known these decide; a limit that was set anew changes no meaning."""
    if (one.unit and other.unit) or not (_is_bounded(one) and _is_bounded(other)):
        return True
    if one.shape != other.shape:
        return True  # that is another matter
    wide, narrow = (np.maximum(np.abs(s.low_array), np.abs(s.high_array)) for s in (one, other))
    wide, narrow = (np.asarray(w, np.float64).ravel() for w in (wide, narrow))
    ratio = np.maximum(wide, narrow) / np.maximum(np.minimum(wide, narrow), 1e-12)
    return not bool((ratio >= _OTHER_UNIT).any())


def _is_bounded(spec: ArraySpec) -> bool:
    if spec.low is None or spec.high is None:
        return False
    return bool((np.abs([spec.low_array, spec.high_array]) < _NO_BOUND).all())


def _same_bounds(one: ArraySpec, other: ArraySpec) -> bool:
    for mine, yours in ((one.low, other.low), (one.high, other.high)):
        if (mine is None) != (yours is None):
            return False
        if mine is None or yours is None:
            continue
        try:
            a, b = np.broadcast_arrays(np.asarray(mine, float), np.asarray(yours, float))
        except ValueError:
            return False
        if not np.allclose(a, b, rtol=_SAME_BOUND, atol=1e-9):
            return False
    return True
