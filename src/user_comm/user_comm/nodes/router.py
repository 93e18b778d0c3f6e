"""The program ``router``: a Zenoh router that robots, sites and learners connect to.

It takes no ROS arguments, because it does not use ROS. When a member is added to its network
it opens anew with the new rules, which costs everybody half a second.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import zenoh

from user_comm.net.network import FILE
from user_comm.net.router import RefusalLog, RouterConfig, json5
from user_comm.net.sessions import not_opened, prepare_runtime, to_zenoh
from user_core.command_line import Parser
from user_core.config import from_mapping, load_yaml
from user_core.errors import SuiteError
from user_core.runtime.processes.stop_signals import StopSignals

_log = logging.getLogger("router")
_LOOK_S = 1.0
_REPORT_S = 300.0


def main(words: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM."""
    arguments = _parser().parse_args(words)
    try:
        config = _config(arguments)
        if arguments.zenohd:
            print(json5(config), end="")
            return 0
        logging.basicConfig(format="router: %(message)s", level=logging.INFO, stream=sys.stderr)
        _run(config)
    except SuiteError as error:
        print(f"router: {error}", file=sys.stderr)
        return 1
    return 0


def _run(config: RouterConfig) -> None:
    refusals = RefusalLog(_log.warning)
    ending = threading.Event()
    with StopSignals(lambda _: ending.set(), final=True):
        while not ending.is_set():
            known = _version(config)
            with _open(config) as session:
                _log.info("listening on %s", ", ".join(config.options()["listen/endpoints"]))
                _watch(config, known, session, refusals, ending)


def _watch(
    config: RouterConfig,
    known: float,
    session: zenoh.Session,
    refusals: RefusalLog,
    ending: threading.Event,
) -> None:
    """Wait until the end, or until the network has changed."""
    peers = -1
    looks = 0
    while not ending.wait(_LOOK_S):
        if _version(config) != known:
            try:
                config.options()
            except SuiteError as error:  # half edited by hand: go on as before
                _log.error("the network has changed, but: %s", error)
                known = _version(config)
            else:
                _log.info("the network has changed: opening anew")
                return
        now = len(list(session.info.transports()))
        if now != peers:
            _log.info("%d sessions are connected", now)
            peers = now
        looks += 1
        if looks % int(_REPORT_S / _LOOK_S) == 0:
            for (who, what, key), count in sorted(refusals.counts().items()):
                _log.info("refused so far: %s, %s %s: %d", who, what, key, count)


def _open(config: RouterConfig) -> zenoh.Session:
    try:
        prepare_runtime(listens=True)
        return zenoh.open(to_zenoh(config.options()))
    except zenoh.ZError as error:
        listen = config.options()["listen/endpoints"]
        raise not_opened(
            "cannot start the router", error, f"to listen on {listen}", listen
        ) from error


def _version(config: RouterConfig) -> float:
    """Changes with the network's members."""
    if not config.network:
        return 0.0
    try:
        return (Path(config.network).expanduser() / FILE).stat().st_mtime
    except OSError:
        return 0.0


def _config(arguments: argparse.Namespace) -> RouterConfig:
    data = load_yaml(arguments.config) if arguments.config else {}
    config = from_mapping(RouterConfig, data, arguments.config or "")
    given = {
        "network": arguments.network,
        "listen": tuple(filter(None, arguments.listen)),
        "connect": tuple(filter(None, arguments.connect)),
        "credentials": arguments.credentials,
    }
    return config.replace(**{name: value for name, value in given.items() if value})


def _parser() -> Parser:
    parser = Parser(prog="router", description=__doc__)
    parser.add_argument("--config", default="", help="YAML with the settings of RouterConfig")
    parser.add_argument("--network", default="", help="folder made by `user net init`")
    parser.add_argument("--credentials", default="", help="folder, if not the network's router's")
    parser.add_argument("--listen", action="append", default=[], help="for instance tls/[::]:7457")
    parser.add_argument("--connect", action="append", default=[], help="another router")
    parser.add_argument("--zenohd", action="store_true", help="print it for a stock zenohd; end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
