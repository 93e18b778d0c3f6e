"""Print the topics and services: name, type, direction, quality of service.

``python -m user_comm.topic_docs > docs/reference/topics.md`` writes the reference page; a test
sees to it that table and page agree.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from user_comm.topics import SERVICES, TOPICS

_TITLE = """\
# Topics and services

<!-- Written by `python -m user_comm.topic_docs`; change src/user_comm/user_comm/topics.py. -->

Names are relative to the namespace of a robot or learner; `~/` stands for the name of the node
that offers a service. A reader may ask for less than what is offered: what is reliable here can
also be read with best effort.
"""


def markdown() -> str:
    """The reference page."""
    lines = [_TITLE, "## Topics", ""]
    lines += _table(
        ("topic", "type", "from", "to", "quality of service", "why"),
        [(f"`{t.name}`", f"`{t.type}`", t.source, t.target, str(t.quality), t.why) for t in TOPICS],
    )
    lines += ["", "## Services", ""]
    lines += _table(
        ("service", "type", "offered by", "called by", "why"),
        [(f"`{s.name}`", f"`{s.type}`", s.server, s.client, s.why) for s in SERVICES],
    )
    return "\n".join(lines) + "\n"


def terminal() -> str:
    """Topics and services in columns, without the reasons: what ``user topics`` prints."""
    rows = [("TOPIC", "TYPE", "FROM", "TO", "QUALITY OF SERVICE")]
    rows += [(t.name, t.type, t.source, t.target, str(t.quality)) for t in TOPICS]
    services = [("SERVICE", "TYPE", "OFFERED BY", "CALLED BY")]
    services += [(s.name, s.type, s.server, s.client) for s in SERVICES]
    return "\n".join((*_columns(rows), "", *_columns(services)))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(head)
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def main(words: Sequence[str]) -> int:
    """The command ``user topics``."""
    parser = argparse.ArgumentParser(prog="user topics", description=main.__doc__)
    parser.add_argument("--markdown", action="store_true", help="with the reasons, as Markdown")
    print(markdown() if parser.parse_args(words).markdown else terminal())
    return 0


if __name__ == "__main__":
    print(markdown(), end="")
