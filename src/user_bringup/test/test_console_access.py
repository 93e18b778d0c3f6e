"""Who may see and do what at the console."""

from __future__ import annotations

import asyncio

import pytest

from user_bringup.console import guard as guard_module
from user_bringup.console.access import (
    COOKIE,
    Access,
    DriverSeats,
    RateLimit,
    Role,
    Tokens,
)
from user_bringup.console.config import ConsoleConfig
from user_bringup.console.guard import MESSAGES_AT_ONCE, REFUSED, STOP_PATH, Gate, Guard
from user_core.errors import ConfigError


def scope(kind="http", path="/", method="GET", **headers):
    pairs = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return {"type": kind, "path": path, "method": method, "headers": pairs, "query_string": b""}


async def answer(guard, scope, body=b"", messages=()):
    """What a guard sends, for a request or for a websocket that brings messages."""
    sent, incoming = [], list(messages)

    async def receive():
        if scope["type"] == "http":
            return {"type": "http.request", "body": body}
        return incoming.pop(0) if incoming else {"type": "websocket.disconnect"}

    async def send(event):
        sent.append(event)

    await guard(scope, receive, send)
    return sent


async def behind(scope, receive, send):
    """The pages: answer with who came; a websocket is read to its end."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["visitor"].name.encode()})
        return
    count = 0
    while (event := await receive())["type"] == "websocket.receive":
        count += 1
    await send({"type": "ended", "count": count, "code": event.get("code")})


@pytest.fixture
def far(tmp_path):
    """A console that the network reaches, with one token for each role."""
    tokens = Tokens(tmp_path / "tokens.json")
    given = {role: tokens.add(role.name.lower(), role) for role in Role}
    return Guard(behind, Access("0.0.0.0", tokens), secure=True), given  # noqa: S104


def run(guard, scope, **options):
    return asyncio.run(answer(guard, scope, **options))


def test_a_token_is_kept_as_its_hash_only_and_others_cannot_read_the_file(tmp_path):
    file = tmp_path / "tokens.json"
    token = Tokens(file).add("anna", Role.DRIVE)
    assert token not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    visitor = Tokens(file).visitor(token)
    assert (visitor.name, visitor.role) == ("anna", Role.DRIVE)


def test_a_token_that_was_taken_back_by_another_process_counts_no_more(tmp_path):
    file = tmp_path / "tokens.json"
    tokens = Tokens(file)
    token = tokens.add("anna", Role.LOOK)
    assert Tokens(file).remove("anna")
    assert tokens.visitor(token) is None


def test_a_damaged_file_of_tokens_lets_nobody_in(tmp_path):
    file = tmp_path / "tokens.json"
    file.write_text("[]")
    with pytest.raises(ConfigError, match="tokens of the console"):
        Tokens(file)


def test_without_a_token_nobody_sees_anything(far):
    guard, _ = far
    assert run(guard, scope(host="lab:1"))[0]["status"] == 401
    assert run(guard, scope("websocket", host="lab:1"))[0] == {
        "type": "websocket.close", "code": REFUSED, "reason": "",
    }  # fmt: skip


def test_a_token_lets_in_by_a_cookie_that_scripts_and_other_sites_do_not_get(far):
    guard, given = far
    sent = run(guard, scope(path="/enter", method="POST", host="lab:1", origin="https://lab:1"),
               body=f"token={given[Role.LOOK]}".encode())  # fmt: skip
    headers = dict(sent[0]["headers"])
    assert sent[0]["status"] == 303
    for word in (b"HttpOnly", b"SameSite=Strict", b"Secure"):
        assert word in headers[b"set-cookie"]
    cookie = f"{COOKIE}={given[Role.LOOK]}"
    assert run(guard, scope(host="lab:1", cookie=cookie))[1]["body"] == b"look"


def test_guessing_tokens_is_slowed_down_and_keeps_nobody_out(far):
    guard, given = far
    form = {**scope(path="/enter", method="POST", host="lab:1"), "client": ("10.0.0.9", 5)}
    answers = [run(guard, form, body=b"token=wrong")[0] for _ in range(30)]
    assert answers[0]["status"] == 401
    assert answers[-1]["status"] == 429
    assert (b"connection", b"close") in answers[-1]["headers"]
    elsewhere = {**form, "client": ("10.0.0.10", 5)}
    assert run(guard, elsewhere, body=b"token=wrong")[0]["status"] == 401
    # Behind the same address (a proxy, a laboratory's router) a token that counts gets in all the same.
    assert run(guard, form, body=f"token={given[Role.LOOK]}".encode())[0]["status"] == 303


@pytest.mark.parametrize("role", list(Role))
def test_only_who_may_drive_gets_the_websocket_for_it(far, role):
    guard, given = far
    came = scope("websocket", "/drive", host="lab:1", origin="https://lab:1",
                 cookie=f"{COOKIE}={given[role]}")  # fmt: skip
    assert (run(guard, came)[-1]["type"] == "ended") == (role is Role.DRIVE)


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_pages_of_other_origins_are_refused(tmp_path, kind):
    guard = Guard(behind, Access("127.0.0.1", Tokens(None)), secure=False)
    ours = scope(kind, method="POST", host="localhost:7460", origin="http://localhost:7460")
    theirs = scope(kind, method="POST", host="localhost:7460", origin="https://evil.example")
    assert run(guard, ours)[0].get("status", 0) in (0, 200)
    first = run(guard, theirs)[0]
    assert first.get("status") == 403 or first.get("code") == REFUSED
    assert guard.refused == 1


def test_a_foreign_name_that_leads_to_this_machine_is_refused():
    guard = Guard(behind, Access("127.0.0.1", Tokens(None)), secure=False)
    assert run(guard, scope(host="evil.example:7460"))[0]["status"] == 403
    assert run(guard, scope(host="127.0.0.1:7460"))[1]["body"] == b"local"
    assert run(guard, scope(host="[::1]:7460"))[0]["status"] == 200


def test_ten_thousand_messages_at_once_end_the_websocket_not_the_console():
    guard = Guard(behind, Access("127.0.0.1", Tokens(None)), secure=False)
    flood = [{"type": "websocket.receive", "text": "{}"}] * 10_000
    ended = run(guard, scope("websocket", host="localhost"), messages=flood)[-1]
    assert ended["code"] == REFUSED
    assert ended["count"] <= 2 * MESSAGES_AT_ONCE
    assert guard.flooded == 1


class Held:
    """Websockets that stay open at a console for the network, each with who opened it."""

    def __init__(self, far):
        self.guard, self.given = far
        self.sockets, self.over = [], asyncio.Event()

    async def open(self, role, path):
        """One more; whether it was let in."""
        let_in = asyncio.Event()

        async def receive():
            let_in.set()
            await self.over.wait()
            return {"type": "websocket.disconnect"}

        async def send(event):
            pass

        came = scope("websocket", path, cookie=f"{COOKIE}={self.given[role]}")
        self.sockets.append(asyncio.create_task(self.guard(came, receive, send)))
        await asyncio.sleep(0)
        return let_in.is_set()

    async def close(self):
        self.over.set()
        await asyncio.gather(*self.sockets)


@pytest.mark.parametrize("path", ["/cameras", "/drive", "/_nicegui_ws/socket.io/"])
def test_a_thousand_websockets_of_one_visitor_leave_room_for_others_and_for_him_later(far, path):
    async def crowd():
        held = Held(far)
        mine = [await held.open(Role.DRIVE, path) for _ in range(1000)]
        assert 0 < sum(mine) <= 64
        assert held.guard.crowded == 1000 - sum(mine)
        if path != "/drive":
            assert await held.open(Role.LOOK, path), "another visitor was shut out"
        other = "/cameras" if path == "/drive" else "/drive"
        assert await held.open(Role.DRIVE, other), "he can do nothing else any more"
        await held.close()
        assert not any(held.guard._crowd._open.values())

    asyncio.run(crowd())


def test_whoever_floods_does_not_come_back_at_once_without_end(far):
    guard, given = far
    came = scope("websocket", "/cameras", cookie=f"{COOKIE}={given[Role.LOOK]}")
    flood = [{"type": "websocket.receive", "text": "{}"}] * 1000
    taken = sum(run(guard, came, messages=flood)[-1].get("count", 0) for _ in range(50))
    assert guard.flooded < 5
    assert taken <= 5 * MESSAGES_AT_ONCE * 1.5


def test_too_many_pages_are_refused_and_the_emergency_stop_never(far):
    guard, given = far
    cookie = f"{COOKIE}={given[Role.LOOK]}"
    answers = [run(guard, scope(path="/", cookie=cookie))[0]["status"] for _ in range(100)]
    assert {200, 429} == set(answers)
    for _ in range(500):
        stop = scope(path=STOP_PATH, method="POST", cookie=cookie)
        assert run(guard, stop)[0]["status"] == 200
    assert run(guard, scope(path="/picture", cookie=cookie))[0]["status"] == 200
    other = f"{COOKIE}={given[Role.LABEL]}"
    assert run(guard, scope(path="/", cookie=other))[0]["status"] == 200


def test_a_browser_that_does_not_read_its_page_does_not_shut_out_the_same_person(far):
    guard, given = far
    came = scope(path="/", cookie=f"{COOKIE}={given[Role.LOOK]}")

    async def pages():
        stuck = asyncio.Event()

        async def send(event):
            stuck.set()
            await asyncio.Event().wait()

        first = asyncio.create_task(guard(came, None, send))
        await asyncio.wait_for(stuck.wait(), 60)
        sent = await asyncio.wait_for(answer(guard, came), 60)
        first.cancel()
        return sent[0]["status"]

    assert asyncio.run(pages()) == 200


def test_pages_of_one_person_are_made_one_after_the_other(tmp_path):
    made, most = [0], [0]

    async def page(scope, receive, send):
        made[0] += 1
        most[0] = max(most[0], made[0])
        await asyncio.sleep(0)
        made[0] -= 1
        if scope["path"] == "/fails":
            raise ZeroDivisionError
        await behind(scope, receive, send)

    guard = Guard(page, Access("127.0.0.1", Tokens(None)), secure=False)

    async def several():
        paths = ("/", "/fails", "/", "/fails", "/")
        wanted = (answer(guard, scope(path=path, host="localhost")) for path in paths)
        return await asyncio.gather(*wanted, return_exceptions=True)

    failed = [isinstance(one, ZeroDivisionError) for one in asyncio.run(several())]
    assert failed == [False, True, False, True, False]
    assert most[0] == 1


class Connection:
    """A transport."""

    def __init__(self, peer):
        self.peer, self.closed = peer, False

    def get_extra_info(self, name):
        return (self.peer, 1) if name == "peername" else None

    def is_closing(self):
        return self.closed


def test_an_address_that_connects_without_end_is_cut_off_and_others_are_let_in(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(guard_module, "RateLimit", lambda *rate: RateLimit(*rate, lambda: now[0]))
    gate, mine = Gate(), []
    for _ in range(100):
        now[0] += 1.0
        mine += [one for one in (Connection("a") for _ in range(50)) if gate.lets_in(one)]
    assert 100 < len(mine) < 1000, "as many as stay open"
    assert gate.lets_in(Connection("b"))
    for one in mine[:10]:
        one.closed = True
    assert gate.lets_in(Connection("a"))


def test_who_comes_by_a_proxy_on_this_machine_needs_a_token(tmp_path):
    tokens = Tokens(None)
    given = tokens.add("anna", Role.DRIVE)
    guard = Guard(behind, Access("127.0.0.1", tokens, proxied=True), secure=False)
    assert run(guard, scope(host="127.0.0.1:7460"))[0]["status"] == 401
    assert run(guard, scope(host="lab", cookie=f"{COOKIE}={given}"))[1]["body"] == b"anna"


def test_many_people_behind_a_proxy_share_its_address(monkeypatch):
    monkeypatch.setattr(guard_module, "RateLimit", lambda *rate: RateLimit(*rate, lambda: 0.0))
    direct, proxied = (
        sum(gate.lets_in(Connection("a")) for _ in range(300)) for gate in (Gate(), Gate(True))
    )
    assert direct < 100
    assert proxied == 300


def test_connections_that_were_closed_are_not_kept(monkeypatch):
    monkeypatch.setattr(guard_module, "_FORGET_S", 0.0)
    gate = Gate()
    for peer in ("a", "b"):
        gone, there = Connection(peer), Connection(peer)
        assert gate.lets_in(gone) and gate.lets_in(there)
        gone.closed, there.closed = True, peer == "a"
    assert gate.lets_in(Connection("c"))
    assert {peer: len(of) for peer, of in gate._open.items()} == {"b": 1, "c": 1}


def test_a_rate_is_kept_over_time():
    now = [0.0]
    limit = RateLimit(10.0, 5.0, lambda: now[0])
    assert sum(limit.take() for _ in range(20)) == 5
    now[0] = 1.0
    assert sum(limit.take() for _ in range(20)) == 5
    now[0] = 1.25
    assert sum(limit.take() for _ in range(20)) == 2


def test_one_driver_for_a_robot_and_only_he_leaves_the_seat():
    seats, one, other = DriverSeats(), object(), object()
    assert seats.sit("/robot0", "anna", one) == ""
    assert seats.sit("/robot0", "ben", other) == "anna"
    seats.leave("/robot0", other)
    assert seats.driver("/robot0") == "anna"
    assert seats.sit("/robot1", "ben", other) == ""
    seats.leave("/robot0", one)
    assert seats.sit("/robot0", "ben", other) == ""


def test_who_asks_first_gets_the_seat_when_it_is_given_up_and_not_before():
    seats, anna, ben, carl = DriverSeats(), object(), object(), object()
    seats.sit("/robot0", "anna", anna)
    seats.ask("/robot0", "ben", ben)
    seats.ask("/robot0", "carl", carl)
    assert seats.asked_by("/robot0") == "ben"
    seats.refuse("/robot0", ben)  # only who has the seat refuses
    assert seats.asks("/robot0", ben)
    assert seats.has("/robot0", anna)
    seats.leave("/robot0", anna)
    assert seats.has("/robot0", ben)
    assert not seats.asks("/robot0", ben)
    assert seats.asked_by("/robot0") == "carl"
    seats.refuse("/robot0", ben)
    assert not seats.asks("/robot0", carl)
    assert seats.asked_by("/robot0") == ""


def test_who_asked_and_went_does_not_get_the_seat():
    seats, anna, ben = DriverSeats(), object(), object()
    seats.sit("/robot0", "anna", anna)
    seats.ask("/robot0", "ben", ben)
    seats.leave("/robot0", ben)
    seats.leave("/robot0", anna)
    assert seats.driver("/robot0") == ""


def test_who_asks_for_a_seat_that_has_become_free_has_it():
    seats, anna, ben = DriverSeats(), object(), object()
    seats.sit("/robot0", "anna", anna)
    seats.leave("/robot0", anna)
    seats.ask("/robot0", "ben", ben)
    assert seats.has("/robot0", ben)
    assert not seats.asks("/robot0", ben)


def test_nothing_is_kept_of_robots_that_nobody_drives_or_asks_for():
    seats, anna, ben = DriverSeats(), object(), object()
    for number in range(20):  # a page names what it likes
        robot = f"/no{number}"
        seats.sit(robot, "anna", anna)
        seats.ask(robot, "ben", ben)
        if number % 2:
            seats.refuse(robot, anna)
        seats.leave(robot, ben)
        seats.leave(robot, anna)
        seats.leave(robot, ben)
    assert not seats.any_taken()
    assert not seats._taken
    assert not seats._asking


def test_beyond_this_machine_it_takes_tls_or_somebodys_word():
    with pytest.raises(ConfigError, match="without TLS"):
        ConsoleConfig(host="0.0.0.0")  # noqa: S104
    assert ConsoleConfig(host="0.0.0.0", plain=True).port == 7460  # noqa: S104


def test_who_may_and_asks_for_a_page_is_noticed_before_it_is_made(far):
    _, given = far
    asked, tokens = [], far[0]._access
    guard = Guard(behind, tokens, secure=True, on_page=lambda: asked.append(1))
    run(guard, scope(path="/", host="lab:1"))
    assert not asked
    cookie = f"{COOKIE}={given[Role.LOOK]}"
    for path in ("/", "/_nicegui/a.js", STOP_PATH):
        run(guard, scope(path=path, host="lab:1", cookie=cookie))
    assert asked == [1]
