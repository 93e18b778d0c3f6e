"""The reference of codes: `python -m user_core.error_reference > docs/reference/errors.md`."""

from __future__ import annotations

from user_core.errors import SuiteError
from user_core.reasons import CODES

_HEAD = """# Codes of errors and reasons

Made by `python -m user_core.error_reference`. Every error that USER raises on purpose, and every reason
why something waits, stops or is refused, has a code that stays the same when its text is worded anew. Codes
stand in status messages, diagnostics, answers of services, the table of `user up`, and the report of a run.

What **may pass** is tried again for ever: a cable, a disk or a peer may come back. All else would fail in the same
way again: after a few equal failures (drivers 8 within seconds, episodes 6, transitions and processes 5) the process ends
with exit code 3 and its reason, it is not started again, and where no other of its kind works, the run ends with status 1.
"""


def errors() -> list[type[SuiteError]]:
    """All errors of the tree in this package, those above first."""
    found: list[type[SuiteError]] = []
    waiting: list[type[SuiteError]] = [SuiteError]
    while waiting:
        kind = waiting.pop(0)
        if kind.__module__.startswith("user_core."):
            found.append(kind)
            waiting += sorted(kind.__subclasses__(), key=lambda one: one.__name__)
    unique = {kind.code: kind for kind in reversed(found)}
    return [kind for kind in found if unique[kind.code] is kind]


def reference() -> str:
    """The page, in Markdown."""
    lines = [
        _HEAD,
        "## Errors",
        "",
        "| code | exception | may pass | meaning |",
        "|---|---|---|---|",
    ]
    for kind in errors():
        meaning = " ".join((kind.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")
        passes = "yes" if kind.may_pass else "no"
        lines.append(f"| `{kind.code}` | `{kind.__name__}` | {passes} | {meaning} |")
    lines += ["", "## Reasons", "", "| code | meaning |", "|---|---|"]
    lines += [f"| `{code}` | {meaning} |" for code, meaning in CODES.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
