"""Check that a robot, a policy, an algorithm ... keeps its promises: `user check KIND ...`.

Each kind of check is a function of a package's own, registered in the group ``user.checks`` as
commands are in ``user.commands``. It returns 0 when all is well, 1 when something is not, 2 when
it could not be tried.
"""

from __future__ import annotations

from collections.abc import Sequence

from user_bringup.cli.main import dispatch

GROUP = "user.checks"


def main(argv: Sequence[str]) -> int:
    """Run one check; without one, list those there are."""
    return dispatch(GROUP, "user check", argv)
