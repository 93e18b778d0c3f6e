"""What every trial is held against, whatever it was done to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from user_bringup.chaos.evidence import Evidence
from user_bringup.chaos.trial import Trial
from user_bringup.chaos.verdict import Check, judge

_SHOWN = 5


def promises(
    trial: Trial, evidence: Evidence, folder: Path, failure: str, hits: str, left: Sequence[str]
) -> list[Check]:
    """Judge a trial that has ended; the first check is whether everything recovered.

    Args:
        trial: What was done.
        evidence: What was heard in the graph.
        folder: Where its outboxes, stores and policies are.
        failure: What ended it early; empty where nothing did.
        hits: What was hit, for people.
        left: Processes that were left over.
    """
    back = all(blow.works_s is not None or blow.overtaken for blow in trial.blows)
    return [
        Check("everything recovered, without a person", not failure and back, failure or hits),
        Check("user up ended in good order", trial.exit_code == 0, f"exit code {trial.exit_code}"),
        Check("no process was left over", not left, "; ".join(left) or "none"),
        *judge(folder, evidence.chunks, evidence.versions),
        Check("what was sent again was the same", not evidence.changed, f"{evidence.changed[:3]}"),
        Check("no policy number was used twice or went back", not evidence.trouble,
              "; ".join(evidence.trouble[:3]) or f"{len(evidence.versions)} announced"),
    ]  # fmt: skip


def lost_blows(trial: Trial) -> list[str]:
    """Faults with a remark, for people; the first of them."""
    return [f"{b.fault.kind} {b.fault.victim}: {b.note}" for b in trial.blows if b.note][:_SHOWN]
