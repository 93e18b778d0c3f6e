"""The operator's page: ``user console [RUN | STORE ...]``."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from user_bringup.console.access import Role, Tokens
from user_bringup.console.config import ConsoleConfig, TlsConfig, default_tokens
from user_bringup.console.precedence import give_way
from user_comm.net.network import Network
from user_core.command_line import Parser
from user_core.errors import ConfigError


def main(argv: Sequence[str]) -> int:
    """Watch, label and drive a running system from a browser, or look at a finished run.

    Without a folder it listens to what runs in this ROS domain. With one, the folder of a run or of a
    replay store, it shows its episodes and curves, too; ``--finished``: those alone.
    """
    parser = Parser(prog="user console", description=main.__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", help="folder of a run (runs/NAME) or of a store"
    )
    parser.add_argument("--finished", action="store_true", help="do not listen to what runs")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; default: this machine alone"
    )
    parser.add_argument("--port", type=int, default=7460, help="0: any that is free")
    parser.add_argument(
        "--net", metavar="FOLDER", help="of `user net`: its certificate for consoles, for TLS"
    )
    parser.add_argument("--certificate", default="", help="PEM file, for TLS")
    parser.add_argument("--key", default="", help="PEM file of its private key")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="beyond this machine without TLS, behind a proxy that has it",
    )
    parser.add_argument(
        "--add-token", metavar="NAME", help="give NAME a token, print it once, and end"
    )
    parser.add_argument("--remove-token", metavar="NAME", help="take it back, and end")
    parser.add_argument(
        "--role",
        choices=[r.name.lower() for r in Role],
        default="look",
        help="what the token lets one do",
    )
    parser.add_argument("--tokens", type=Path, default=default_tokens(), help="file of tokens")
    parser.add_argument(
        "--fleet",
        default="",
        metavar="FILE",
        help="file of the scheduler; default: that of this user",
    )
    arguments = parser.parse_args(argv)
    if arguments.add_token or arguments.remove_token:
        return _tokens(arguments)
    run, store = _folders(arguments.folder)
    config = ConsoleConfig(
        host=arguments.host,
        port=arguments.port,
        plain=arguments.plain,
        tls=_tls(arguments),
        fleet=arguments.fleet,
        tokens_file=str(arguments.tokens),
        run_dir=str(run or ""),
        store=str(store or ""),
    )
    from user_bringup.nodes.console import serve  # rclpy and NiceGUI take seconds to import

    with serve(config, live=not arguments.finished) as server:
        give_way()
        print(f"console: {server.url}", flush=True)
        if not server.console.access.local:
            names = ", ".join(
                f"{n} ({r.name.lower()})" for n, r in server.console.access.tokens.names().items()
            )
            print(
                f"tokens: {names or 'none yet: user console --add-token NAME --role drive'}",
                flush=True,
            )
        threading.Event().wait()
    return 0


def _tls(arguments: argparse.Namespace) -> TlsConfig:
    if not arguments.net:
        return TlsConfig(certificate=arguments.certificate, key=arguments.key)
    found = Network(arguments.net).console
    if not found.certificate.is_file():
        raise ConfigError(
            f"certificate of the console in {arguments.net}", got="none",
            expected="one that `user net add-console --host NAME` made",
        )  # fmt: skip
    return TlsConfig(certificate=str(found.certificate), key=str(found.key))


def _tokens(arguments: argparse.Namespace) -> int:
    tokens = Tokens(arguments.tokens)
    if arguments.add_token:
        token = tokens.add(arguments.add_token, Role[arguments.role.upper()])
        print(token)
        print(f"/enter?token={token} lets a browser in as {arguments.add_token}", file=sys.stderr)
        return 0
    if not tokens.remove(arguments.remove_token):
        print(
            f"no token of {arguments.remove_token!r}; there are {sorted(tokens.names())}",
            file=sys.stderr,
        )
        return 1
    return 0


def _folders(folder: Path | None) -> tuple[Path | None, Path | None]:
    """The run and the store that a folder means."""
    if folder is None:
        return None, None
    if (folder / "index.sqlite").is_file():
        return None, folder
    if not folder.is_dir():
        raise ConfigError(
            "folder", got=str(folder), expected="the folder of a run or of a replay store"
        )
    stores = sorted({file.parent for file in folder.glob("**/index.sqlite")})
    if not stores and not (folder / "history.jsonl").is_file():
        raise ConfigError(
            "folder", got=str(folder), expected="the folder of a run or of a replay store"
        )
    own = folder / "replay"  # what the run itself collects; the others are demonstrations
    return folder, own if own in stores else (stores[0] if stores else None)
