"""Networks, their certificates, and what their members may do, with real sessions over mTLS."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zenoh

from user_comm.net import cli
from user_comm.net.network import Authority, Members, Network
from user_comm.net.router import RouterConfig, json5
from user_comm.net.sessions import PORT, Credentials, ZenohConfig, open_session
from user_core.errors import ConfigError, TransportError
from user_testing.ports import free_port
from user_testing.waiting import wait_until

POLICY = "user/policy/7/abcd/0"


class World:
    """A network, its router as a process, and sessions of its members."""

    def __init__(self, folder: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
        self.endpoint = f"tls/127.0.0.1:{free_port()}"
        self.network = Network.create(folder / "net", Members(endpoints=(self.endpoint,)))
        self.network.add("learner", "learner")
        for robot in ("r0", "r1"):
            self.network.add("robot", robot)
        self._start = start
        self.said: list[str] = []
        self.sessions: list[zenoh.Session] = []
        self.start_router()

    def start_router(self) -> None:
        words = [sys.executable, "-m", "user_comm.nodes.router"]
        self.router = self._start(
            [*words, "--network", str(self.network.folder)], stderr=subprocess.PIPE
        )
        assert self.router.stderr is not None
        threading.Thread(target=self._read, args=(self.router.stderr,), daemon=True).start()
        wait_until(lambda: any("listening" in line for line in self.said), "the router listens")

    def _read(self, stream: Any) -> None:
        for line in stream:
            self.said.append(line)

    def open(self, credentials: Credentials, endpoint: str = "") -> zenoh.Session:
        session = open_session(
            ZenohConfig(
                connect=(endpoint or self.endpoint,),
                credentials=str(credentials.folder),
                shared_memory=False,
            )
        )
        self.sessions.append(session)
        return session

    def member(self, role: Any, name: str) -> zenoh.Session:
        return self.open(self.network.credentials(role, name))

    def close(self) -> None:
        for session in self.sessions:
            session.close()


@pytest.fixture
def world(tmp_path: Path, start_process: Callable[..., Any]) -> Iterator[World]:
    world = World(tmp_path, start_process)
    yield world
    world.close()


def test_a_robot_writes_its_own_keys_and_nothing_else_and_refusals_are_named(world: World) -> None:
    learner, r0 = world.member("learner", "learner"), world.member("robot", "r0")
    r1 = world.member("robot", "r1")
    came: list[tuple[str, bytes]] = []
    heard: list[bytes] = []
    spied: list[bytes] = []
    subscribers = [
        learner.declare_subscriber(
            "*/trajectory", lambda s: came.append((str(s.key_expr), s.payload.to_bytes()))
        ),
        r0.declare_subscriber("learner/ack", lambda s: heard.append(s.payload.to_bytes())),
        r1.declare_subscriber(
            "r0/trajectory", lambda s: spied.append(s.payload.to_bytes()),
            allowed_origin=zenoh.Locality.REMOTE,
        ),
    ]  # fmt: skip
    true = learner.declare_queryable("user/policy/**", lambda q: q.reply(POLICY, b"weights"))
    false = r1.declare_queryable("user/policy/**", lambda q: q.reply(POLICY, b"poison"))

    def everybody_hears() -> bool:
        r0.put("r0/trajectory", b"mine")
        r1.put("r0/trajectory", b"forged")
        r1.put("r1/trajectory", b"also mine")
        r1.put("learner/ack", b"forged")
        learner.put("learner/ack", b"true")
        time.sleep(0.05)
        return bool(heard) and {key for key, _ in came} == {"r0/trajectory", "r1/trajectory"}

    wait_until(everybody_hears, "the true ones arrive")
    for _ in range(5):
        everybody_hears()
        answers = [reply.ok.payload.to_bytes() for reply in r0.get(POLICY) if reply.ok]
        assert answers == [b"weights"]
    assert set(came) == {("r0/trajectory", b"mine"), ("r1/trajectory", b"also mine")}
    assert set(heard) == {b"true"}
    assert spied == []
    for refusal in (
        "r1 may not put r0/trajectory",
        "r1 may not declare queryable user/policy/**",
        "r1 may not declare subscriber r0/trajectory",
    ):
        wait_until(lambda text=refusal: any(text in line for line in world.said), refusal)
    assert not any("r0 may not" in line or "learner may not" in line for line in world.said)
    for part in (*subscribers, true, false):
        part.undeclare()  # type: ignore[attr-defined]


def test_strangers_do_not_get_in(world: World, tmp_path: Path) -> None:
    foreign = Network.create(tmp_path / "foreign", Members()).add("robot", "r0")
    mixed = Credentials(tmp_path / "mixed")  # believes our router, shows another's certificate
    mixed.folder.mkdir()
    for file, source in (("ca.pem", world.network.folder), ("certificate.pem", foreign.folder),
                         ("key.pem", foreign.folder)):  # fmt: skip
        (mixed.folder / file).write_bytes((source / file).read_bytes())
    console = world.network.add_console(["localhost"])  # browsers see it; it opens no way in
    for credentials in (foreign, mixed, console):
        with contextlib.suppress(TransportError):
            session = world.open(credentials)
            # TLS 1.3: a client may believe for a moment that it has been let in.
            wait_until(
                lambda s=session: not list(s.info.routers_zid()), "it is shown the door", 5.0
            )
    options = ZenohConfig(
        connect=(world.endpoint,), credentials=str(world.network.credentials("robot", "r0").folder)
    ).options()
    tls = options["transport/link/tls"]
    for name in ("connect_private_key", "connect_certificate"):
        tls[name] = None
    tls["enable_mtls"] = False
    config = zenoh.Config()
    for key, value in options.items():
        config.insert_json5(key, json.dumps(value))
    with pytest.raises(zenoh.ZError):
        zenoh.open(config)
    # Nobody else is affected.
    r0, learner = world.member("robot", "r0"), world.member("learner", "learner")
    came: list[bytes] = []
    subscriber = learner.declare_subscriber("r0/x", lambda s: came.append(s.payload.to_bytes()))
    wait_until(lambda: r0.put("r0/x", b"still here") or came, "the others go on")
    subscriber.undeclare()  # type: ignore[no-untyped-call]


def test_a_robot_cannot_pass_for_the_router(world: World) -> None:
    port = free_port()
    impostor = ZenohConfig(
        mode="router",
        listen=(f"tls/127.0.0.1:{port}",),
        credentials=str(world.network.credentials("robot", "r1").folder),
    )
    with open_session(impostor), pytest.raises(TransportError):
        world.open(world.network.credentials("robot", "r0"), f"tls/127.0.0.1:{port}")


def test_a_robot_is_added_while_the_router_runs_and_the_router_may_die(world: World) -> None:
    learner = world.member("learner", "learner")
    came: set[bytes] = set()
    subscriber = learner.declare_subscriber("*/x", lambda s: came.add(s.payload.to_bytes()))
    cli.main(["add-robot", "r2", "--net", str(world.network.folder)])
    r2 = world.member("robot", "r2")
    wait_until(lambda: r2.put("r2/x", b"new") or came == {b"new"}, "the new one is heard")
    world.router.kill()
    world.router.wait()
    world.said.clear()
    world.start_router()
    wait_until(lambda: r2.put("r2/x", b"back") or b"back" in came, "both are back by themselves")
    subscriber.undeclare()  # type: ignore[no-untyped-call]


def test_a_site_has_a_router_of_its_own(
    world: World, tmp_path: Path, start_process: Callable[..., Any]
) -> None:
    """Robot, the site's router, the network's router, learner; the site holds no authority."""
    endpoint = f"tls/127.0.0.1:{free_port()}"
    made = world.network.add("site", "hall", hosts=["127.0.0.1"], robots=["r0"])
    site = tmp_path / "site"
    shutil.copytree(made.folder, site / "credentials")
    shutil.copy(world.network.folder / "network.yaml", site)
    words = [sys.executable, "-m", "user_comm.nodes.router", "--network", str(site)]
    words += ["--credentials", str(site / "credentials")]
    start_process([*words, "--listen", endpoint, "--connect", world.endpoint])
    learner = world.member("learner", "learner")
    came: set[bytes] = set()
    heard: set[bytes] = set()
    subscriber = learner.declare_subscriber("*/x", lambda s: came.add(s.payload.to_bytes()))
    policy = learner.declare_queryable("user/policy/**", lambda q: q.reply(POLICY, b"weights"))
    wait_until(lambda: _accepts(endpoint), "the site's router listens")
    robots = [
        world.open(world.network.credentials("robot", name), endpoint) for name in ("r0", "r1")
    ]
    listener = robots[0].declare_subscriber(
        "learner/ack", lambda s: heard.add(s.payload.to_bytes())
    )

    def through() -> bool:
        for session, name in zip(robots, ("r0", "r1")):
            session.put(f"{name}/x", name.encode())
        learner.put("learner/ack", b"ack")
        time.sleep(0.05)
        return bool(came and heard)

    wait_until(through, "messages pass both routers, both ways")
    answers = [reply.ok.payload.to_bytes() for reply in robots[0].get(POLICY) if reply.ok]
    assert answers == [b"weights"]
    for _ in range(5):
        through()
    assert came == {b"r0"}  # the site does not speak for r1
    assert any("hall may not put r1/x" in line for line in world.said)
    for part in (subscriber, policy, listener):
        part.undeclare()  # type: ignore[attr-defined]


def _accepts(endpoint: str) -> bool:
    host, port = endpoint.removeprefix("tls/").split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1.0):
        return True
    return False


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = str(tmp_path / "net")
    cli.main(["init", "--net", net, "--host", "lab.example.org", "--host", "10.0.0.7"])
    cli.main(["add-robot", "arm0", "--net", net])
    cli.main(["add-site", "hall", "--net", net, "--host", "hall.local", "--robots", "arm0"])
    cli.main(["add-console", "--net", net, "--host", "lab.local", "--host", "10.0.0.8"])
    assert "user console --host" in capsys.readouterr().out
    cli.main(["show", "--net", net])
    shown = capsys.readouterr().out
    assert re.search(r"console +console +valid for 82\d days", shown)
    assert re.search(r"robot +arm0 +valid for 82\d days", shown)
    assert "lab.example.org" in shown
    rendered = (tmp_path / "net" / "zenohd.json5").read_text(encoding="utf-8")
    zenoh.Config.from_json5(rendered)  # a stock zenohd reads it
    assert rendered == json5(RouterConfig(network=net))
    for secret in ("ca.key", "robots/arm0/key.pem", "router/key.pem"):
        assert os.stat(tmp_path / "net" / secret).st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="there already"):
        cli.main(["init", "--net", net])
    for wrong in ("user", "router", "arm/0", "0", "", "learner"):
        with pytest.raises(ConfigError):
            cli.main(["add-robot", wrong, "--net", net])
    with pytest.raises(ConfigError, match="user net init"):
        Authority(tmp_path)
    with pytest.raises(ConfigError, match="user net"):
        ZenohConfig(connect=("tls/10.0.0.7:7457",))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_an_address_in_use_names_its_holder(host: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        endpoint = f"tcp/{host}:{other.getsockname()[1]}"
        with pytest.raises(TransportError) as caught:
            open_session(ZenohConfig(mode="router", listen=(endpoint,)))
        assert f"{endpoint} is in use by process {os.getpid()} (" in str(caught.value)
        router = subprocess.run(
            [sys.executable, "-m", "user_comm.nodes.router", "--listen", endpoint],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert router.returncode == 1
        assert f"{endpoint} is in use by process {os.getpid()} (" in router.stderr


def test_our_port_is_not_the_middlewares() -> None:
    """The router of rmw_zenoh listens on 7447, also where robots and learners run."""
    assert PORT != 7447
    config = Path(__file__).parents[3] / "user_bringup/config"
    files = [*config.glob("fragments/*.yaml"), *config.glob("deployments/*.yaml")]
    ports = {
        (file.name, int(port))
        for file in files
        for port in re.findall(r"t(?:cp|ls)/[^\s,}:]+:(\d+)", file.read_text(encoding="utf-8"))
    }
    assert {PORT} < {port for _, port in ports}
    assert 7447 not in {port for _, port in ports}
