"""``user net``: certificates and access control of a network of robots."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path

from user_comm.net import top
from user_comm.net.network import Members, Network, expiry
from user_comm.net.router import RouterConfig, json5
from user_comm.net.sessions import AUTHORITY
from user_core.command_line import Parser
from user_core.errors import ConfigError

_DEFAULT = "net"
_ZENOHD = "zenohd.json5"
#: Of the learner that `init` adds: a namespace on the cloud host.
_LEARNER = "learner"


def main(words: Sequence[str]) -> int:
    """The command ``user net``."""
    if words and words[0] == "top":  # it alone needs ROS
        return top.main(words[1:])
    arguments = _parser().parse_args(words)
    arguments.act(arguments)
    return 0


def _init(arguments: argparse.Namespace) -> None:
    here = ("localhost", "127.0.0.1")  # the learner beside the router
    hosts = (*dict.fromkeys((*arguments.host, *here)),)
    members = Members(
        name=arguments.name, endpoints=tuple(arguments.listen) or Members().endpoints, hosts=hosts
    )
    network = Network.create(arguments.net, members)
    network.add("learner", _LEARNER, days=arguments.days)
    _render(network)
    print(f"{network.folder}: authority, router ({', '.join(hosts)}) and learner {_LEARNER!r}")
    print(f"keep {network.folder / 'ca.key'} secret; next: user net add-robot NAME")


def _add_robot(arguments: argparse.Namespace) -> None:
    network = Network(arguments.net)
    made = network.add("robot", arguments.name, days=arguments.days)
    _added(network, made.folder, f"robot {arguments.name}")


def _add_learner(arguments: argparse.Namespace) -> None:
    network = Network(arguments.net)
    made = network.add("learner", arguments.name, days=arguments.days)
    _added(network, made.folder, f"learner {arguments.name}")


def _add_site(arguments: argparse.Namespace) -> None:
    network = Network(arguments.net)
    robots = tuple(name for name in arguments.robots.split(",") if name)
    made = network.add(
        "site", arguments.name, days=arguments.days, hosts=arguments.host, robots=robots
    )
    _added(network, made.folder, f"site {arguments.name}")


def _add_console(arguments: argparse.Namespace) -> None:
    network = Network(arguments.net)
    made = network.add_console(arguments.host, arguments.days)
    print(
        f"console: `user console --host 0.0.0.0 --net {network.folder}`, or copy {made.folder} to its host"
    )
    print(f"browsers that shall know it take {network.folder / AUTHORITY} as an authority")


def _added(network: Network, folder: Path, what: str) -> None:
    _render(network)
    print(f"{what}: copy {folder} to its host and name it as `credentials`")
    print("a running router takes the new rules within a second or two")


def _show(arguments: argparse.Namespace) -> None:
    network = Network(arguments.net)
    members = network.members
    print(f"network {members.name!r} in {network.folder}")
    print(f"router   {', '.join(members.endpoints)}, known as {', '.join(members.hosts)}")
    now = datetime.datetime.now(datetime.timezone.utc)
    rows = [("router", "router", network.router)]
    rows += [("learner", name, network.credentials("learner", name)) for name in members.learners]
    rows += [("robot", name, network.credentials("robot", name)) for name in members.robots]
    rows += [("site", s.name, network.credentials("site", s.name)) for s in members.sites]
    if network.console.certificate.exists():
        rows.append(("console", "console", network.console))
    for role, name, credentials in rows:
        if credentials.certificate.exists():
            days = (expiry(credentials.certificate) - now).days
            state = f"valid for {days} days" if days >= 0 else "EXPIRED"
        else:
            state = "no certificate here"
        print(f"{role:<8} {name:<16} {state}")


def _render(network: Network) -> None:
    """A ``zenohd.json5`` beside the network, for those who run the stock router."""
    text = json5(RouterConfig(network=str(network.folder)))
    (network.folder / _ZENOHD).write_text(text, encoding="utf-8")


def _parser() -> Parser:
    common = Parser(add_help=False)
    common.add_argument("--net", default=_DEFAULT, help="folder of the network (%(default)s)")
    common.add_argument("--days", type=_days, default=825, help="validity of the certificate")
    parser = Parser(prog="user net", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", parents=[common], help="authority, router and a learner")
    init.add_argument("--name", default="user", help="of the network, for people")
    init.add_argument("--host", action="append", default=[],
                      help="name or address of the router, as robots reach it (repeat)")  # fmt: skip
    init.add_argument("--listen", action="append", default=[],
                      help="where the router listens (tls/0.0.0.0:7457; repeat)")  # fmt: skip
    init.set_defaults(act=_init)

    for name, act, text in (
        ("add-robot", _add_robot, "a robot: writes its own keys, reads policies"),
        ("add-learner", _add_learner, "a learner: reads everything, serves policies"),
    ):
        member = commands.add_parser(name, parents=[common], help=text)
        member.add_argument("name")
        member.set_defaults(act=act)

    site = commands.add_parser("add-site", parents=[common], help="the router of a site")
    site.add_argument("name")
    site.add_argument("--host", action="append", default=[], required=True,
                      help="as its robots reach it (repeat)")  # fmt: skip
    site.add_argument("--robots", default="", help="robots that it may write for: r1,r2")
    site.set_defaults(act=_add_site)

    console = commands.add_parser(
        "add-console", parents=[common], help="the certificate of the operator's page"
    )
    console.add_argument("--host", action="append", default=[], required=True,
                         help="name or address by which browsers call it (repeat)")  # fmt: skip
    console.set_defaults(act=_add_console)

    commands.add_parser("top", help="traffic of a running system, live: see `user net top --help`")
    show = commands.add_parser("show", parents=[common], help="members and their certificates")
    show.set_defaults(act=_show)
    return parser


def _days(text: str) -> int:
    days = int(text)
    if days < 1:
        raise ConfigError("--days", got=days, expected="1 or more")
    return days
