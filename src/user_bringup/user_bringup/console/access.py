"""Who may see and do what from a browser: roles, tokens, origins, rates, and one driver for a robot."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from user_core.errors import ConfigError
from user_core.runtime.files import write_atomically

COOKIE = "user_console"
#: Hosts by which a browser on this machine may call us. Any other name that leads here (a foreign page's
#: name that was made to mean this machine, DNS rebinding) is refused.
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_LOCAL_ADDRESSES = ("127.0.0.1", "::1", "localhost")


class Role(IntEnum):
    """What a person may do; each may do what those before may."""

    LOOK = 0
    LABEL = 1
    DRIVE = 2


@dataclass(frozen=True)
class Visitor:
    """Who looks at a page.

    Attributes:
        name: For the log: the name of the token, or ``local``.
        role: What he may do.
    """

    name: str
    role: Role


LOCAL = Visitor("local", Role.DRIVE)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Tokens:
    """The tokens that were given out, by name; a file holds their hashes, never themselves.

    Args:
        file: The file; None: in memory only.

    Raises:
        ConfigError: The file is no such file.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._entries: dict[str, tuple[Role, str]] = {}
        self._stamp: tuple[int, int] = (0, 0)
        self._load()

    def add(self, name: str, role: Role) -> str:
        """A new token for a name, in place of an earlier one; it cannot be shown a second time."""
        token = secrets.token_urlsafe(24)
        self._load()
        self._entries[name] = (role, _digest(token))
        self._save()
        return token

    def remove(self, name: str) -> bool:
        """Take a token back; whether there was one. It counts no more from now on."""
        self._load()
        found = self._entries.pop(name, None) is not None
        self._save()
        return found

    def names(self) -> Mapping[str, Role]:
        """Who has one, with the role."""
        self._load()
        return {name: role for name, (role, _) in self._entries.items()}

    def visitor(self, token: str) -> Visitor | None:
        """Whose token it is; None for one that is unknown or was taken back."""
        self._load()
        digest = _digest(token)
        for name, (role, known) in self._entries.items():
            if hmac.compare_digest(known, digest):
                return Visitor(name, role)
        return None

    def _load(self) -> None:
        if self._file is None or not self._file.exists():
            return
        status = self._file.stat()
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp == self._stamp:
            return
        try:
            data = json.loads(self._file.read_text(encoding="utf-8"))
            self._entries = {str(n): (Role[e["role"]], str(e["sha256"])) for n, e in data.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"tokens of the console, {self._file}",
                got=repr(error),
                expected="what `user console --add-token` writes",
            ) from error
        self._stamp = stamp

    def _save(self) -> None:
        if self._file is None:
            return
        data = {name: {"role": role.name, "sha256": d} for name, (role, d) in self._entries.items()}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, json.dumps(data, indent=1) + "\n")
        self._file.chmod(0o600)


class Access:
    """Decides about every request, before any page sees it.

    Args:
        address: What the server listens at. On this machine alone everybody is let in; elsewhere a
            token is needed.
        tokens: Those that were given out.
        names: Further names by which browsers may call us.
        proxied: Whether a proxy brings people, who need a token then: it brings them from anywhere.

    Attributes:
        is_here: Whether the server listens to this machine alone.
        local: Whether all who come are on this machine, too, and need no token.
    """

    def __init__(
        self, address: str, tokens: Tokens, names: tuple[str, ...] = (), proxied: bool = False
    ) -> None:
        self.is_here = address in _LOCAL_ADDRESSES
        self.local = self.is_here and not proxied
        self.tokens = tokens
        self._names = (*_LOCAL_NAMES, *names) if self.local else ()

    def refusal(self, scope: Mapping[str, Any]) -> str:
        """Why a request or websocket of ASGI is refused whoever sends it; empty when it is not.

        A page of another origin can make a browser send requests here, with our cookie; they carry
        that origin.
        """
        headers = _headers(scope)
        host = headers.get("host", "")
        if self._names and _hostname(host) not in self._names:
            return f"the console is called {self._names[0]}, not {_hostname(host)!r}"
        origin = headers.get("origin")
        asks_only = scope["type"] == "http" and scope.get("method") in ("GET", "HEAD")
        if origin is None or (asks_only and headers.get("sec-fetch-site") != "cross-site"):
            return ""
        if urlsplit(origin).netloc != host:
            return f"requests from pages of {origin} are not taken"
        return ""

    def visitor(self, scope: Mapping[str, Any]) -> Visitor | None:
        """Who it is; None for nobody who is known."""
        if self.local:
            return LOCAL
        try:
            morsel = SimpleCookie(_headers(scope).get("cookie", "")).get(COOKIE)
        except CookieError:
            return None
        return self.tokens.visitor(morsel.value) if morsel is not None else None


def _headers(scope: Mapping[str, Any]) -> dict[str, str]:
    return {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}


def _hostname(host: str) -> str:
    return urlsplit(f"//{host}").hostname or ""


class RateLimit:
    """A bucket of tokens: this many a second, at most that many at once.

    Args:
        per_s: Messages a second.
        burst: At once.
        clock_s: Monotonic seconds.
    """

    def __init__(
        self, per_s: float, burst: float, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s, self._burst, self._clock_s = per_s, burst, clock_s
        self._left, self._at_s = burst, clock_s()

    def take(self) -> bool:
        """Whether one more may pass."""
        self._fill()
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def charge(self, many: float) -> None:
        """Take this many more, whether they are there or not."""
        self._fill()
        self._left -= many

    def _fill(self) -> None:
        now_s = self._clock_s()
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s


class DriverSeats:
    """One driver for a robot at a time: who sits down keeps the seat until he leaves it, gives it to who
    asks for it, or his page goes. Who has asked first gets a seat that becomes free.

    Any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[str, tuple[str, object]] = {}
        self._asking: dict[str, list[tuple[str, object]]] = {}

    def sit(self, robot: str, name: str, page: object) -> str:
        """Take a seat; empty when it worked, or who has it."""
        with self._lock:
            holder = self._taken.setdefault(robot, (name, page))
            return "" if holder[1] is page else holder[0]

    def leave(self, robot: str, page: object) -> None:
        """Leave it, or ask no more; nothing happens to another one's seat."""
        with self._lock:
            if self._has(robot, page):
                self._pass_on(robot)
            self._keep_asking(
                robot, [one for one in self._asking.get(robot, ()) if one[1] is not page]
            )

    def driver(self, robot: str) -> str:
        """Who has it; empty for nobody."""
        with self._lock:
            return self._taken.get(robot, ("", None))[0]

    def any_taken(self) -> bool:
        """Whether anybody drives anything."""
        with self._lock:
            return bool(self._taken)

    def has(self, robot: str, page: object) -> bool:
        """Whether it is this page's."""
        with self._lock:
            return self._has(robot, page)

    def ask(self, robot: str, name: str, page: object) -> None:
        """Ask for a seat that another one has; one that has become free meanwhile is taken at once."""
        with self._lock:
            if self._taken.setdefault(robot, (name, page))[1] is not page:
                self._asking.setdefault(robot, []).append((name, page))

    def asks(self, robot: str, page: object) -> bool:
        """Whether a page waits for it still."""
        with self._lock:
            return any(one[1] is page for one in self._asking.get(robot, ()))

    def asked_by(self, robot: str) -> str:
        """Who has asked for it first; empty for nobody."""
        with self._lock:
            asking = self._asking.get(robot)
            return asking[0][0] if asking else ""

    def refuse(self, robot: str, page: object) -> None:
        """Keep the seat: who has asked first asks no more."""
        with self._lock:
            if self._has(robot, page):
                self._keep_asking(robot, self._asking.get(robot, [])[1:])

    def _has(self, robot: str, page: object) -> bool:
        return self._taken.get(robot, ("", None))[1] is page

    def _pass_on(self, robot: str) -> None:
        asking = self._asking.get(robot)
        if asking:
            self._taken[robot] = asking[0]
            self._keep_asking(robot, asking[1:])
        else:
            self._taken.pop(robot, None)

    def _keep_asking(self, robot: str, asking: list[tuple[str, object]]) -> None:
        """These ask still; of a robot that nobody asks for nothing is kept: pages name what they like."""
        if asking:
            self._asking[robot] = asking
        else:
            self._asking.pop(robot, None)
