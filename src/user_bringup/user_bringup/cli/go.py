"""Say go to robots that wait for a person's word before they move: `user go [ROBOT ...]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from user_core.command_line import Parser


def main(argv: Sequence[str]) -> int:
    """Say go to the robots that are named, or to the only one there is.

    Exit code 0 when all of them move now, 1 when one refuses or is not there, 2 when it is not
    clear which robot is meant.
    """
    parser = Parser(prog="user go", description=__doc__)
    parser.add_argument(
        "robots", nargs="*", metavar="ROBOT", help="namespace or actor, as robot0 or /robot0/actor"
    )
    parser.add_argument("--all", action="store_true", help="all robots of this ROS domain")
    parser.add_argument("--wait", type=float, default=3.0, help="seconds to look for them")
    arguments = parser.parse_args(argv)
    from user_bringup.nodes.go_caller import GoCaller, chosen  # rclpy

    with GoCaller() as caller:
        heard = caller.actors(arguments.wait)
        if not heard:
            print("user go: no actor is heard; is ROS_DOMAIN_ID the one in which it runs?",
                  file=sys.stderr)  # fmt: skip
            return 1
        if len(heard) > 1 and not arguments.robots and not arguments.all:
            print(f"user go: which one? {', '.join(heard)}; or --all", file=sys.stderr)
            return 2
        unknown = [word for word in arguments.robots if not chosen(heard, [word])]
        if unknown:
            print(f"user go: no actor of {', '.join(unknown)}; heard {', '.join(heard)}",
                  file=sys.stderr)  # fmt: skip
            return 1
        answers = [caller.say_go(actor) for actor in chosen(heard, arguments.robots)]
    for answer in answers:
        print(f"{answer.actor}: {answer.text}")
    return 0 if all(answer.accepted for answer in answers) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
