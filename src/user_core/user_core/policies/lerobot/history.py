"""How many observations a policy of LeRobot sees at once, without importing LeRobot here.

A process that acts by an inference server needs nothing else of it, and would keep nearly a gigabyte of memory for this
number. So another process imports it, says the number, and ends. The answer is kept on this host: of ten actors that
begin at once one looks it up, and the others wait for what it finds, an error too; those that begin later read the
number. After an error they look it up anew, since what it told of may have been mended.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from user_core.config import from_mapping, to_mapping
from user_core.errors import (
    ConfigError,
    PluginError,
    PolicyError,
    SpecError,
    StoreError,
    SuiteError,
)
from user_core.policies.lerobot.config import LeRobotConfig
from user_core.runtime.files import cache_home, write_atomically
from user_core.runtime.lerobot import installed_others
from user_core.runtime.locks import FileLock
from user_core.runtime.processes.parents import end_with_parent
from user_core.specs import RobotSpec

_log = logging.getLogger(__name__)
#: The import takes seconds, and a minute where several processes begin on few cores. Who waits for another to find it
#: out waits no longer than that in all.
_LIMIT_S = 300.0
_LOOK_S = 0.1
#: What lies on a hub may be another tomorrow: for this long an answer counts, seconds.
_OF_HUB_S = 600.0
#: This many questions are kept, the newest.
_MOST = 64
_ERRORS = {kind.code: kind for kind in (ConfigError, SpecError, PluginError, PolicyError)}
#: What stands for its code where LeRobot could not be asked.
_UNANSWERED = "unanswered"
#: Changes when the same question has another answer.
_FORM = 1
#: Settings that say nothing of what it sees; of robots that do other tasks they differ.
_NO_MATTER = (
    "checkpoint",
    "instruction",
    "instructions",
    "seed",
    "device",
    "adapter",
    "processors",
)


def history_of(config: LeRobotConfig, spec: RobotSpec) -> int:
    """What LeRobot's configuration says, see :meth:`~user_core.interfaces.Policy.history_of`; where LeRobot or the
    checkpoint is not on this host, ``n_obs_steps`` of the parameters.

    Raises:
        ConfigError: A setting that LeRobot does not have.
        SpecError: The robot lacks what the policy wants to see.
        PluginError: LeRobot is here, could not be asked, and the parameters do not say it either.
    """
    steps = config.config.get("n_obs_steps")
    try:
        return _here(config, spec) if "lerobot.policies" in sys.modules else _known(config, spec)
    except (ImportError, PluginError, PolicyError):
        return int(steps or 1)
    except _Unanswered as error:
        name = f"how many observations policy {config.type or config.checkpoint} sees at once"
        if steps is None:
            raise PluginError(
                name, got=str(error), expected="LeRobot, which says it",
                hint="Begin again; or say it: config: {n_obs_steps: N} in the parameters of the policy",
            ) from error  # fmt: skip
        _log.warning("%s could not be found out (%s): taken to be %s, as n_obs_steps in the config of its parameters says",
                     name, error, steps)  # fmt: skip
        return int(steps)


class _Unanswered(Exception):
    """LeRobot is here, and could not be asked."""


def _here(config: LeRobotConfig, spec: RobotSpec) -> int:
    from user_core.policies.lerobot.opening import lags_of, their_config

    return max(lags_of(their_config(config, spec))) + 1


def _known(config: LeRobotConfig, spec: RobotSpec) -> int:
    """What was found out on this host already; else this process finds it out, or waits for one that does."""
    if find_spec("lerobot") is None:
        raise PluginError("observations of a policy of LeRobot", got="no LeRobot")
    until_s, began_s = time.monotonic() + _LIMIT_S, time.time()
    try:
        file = cache_home() / "histories" / _question(config, spec)
        file.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, ValueError):
        # no home, a disk that is read only, a module that names no code
        return _apart(config, spec, until_s)
    while True:
        if said := _kept(file, config, began_s):
            return _history_in(said)
        try:
            lock = FileLock(file.with_suffix(".lock"), f"the search for {file.name}")
        except StoreError as error:
            if time.monotonic() > until_s:
                raise _Unanswered(
                    f"another process has not found it out in {_LIMIT_S:.0f} s: {error.got}"
                ) from error
            time.sleep(_LOOK_S)
            continue
        except OSError:  # a folder of somebody else
            return _apart(config, spec, until_s)
        try:
            said = _kept(file, config, began_s)
            if not said:
                said = _said_by_another(config, spec, until_s)
                with suppress(OSError):  # no room: the next one asks again
                    write_atomically(file, json.dumps(said), durable=False)
                    _forget_oldest(file.parent)
            return _history_in(said)
        finally:
            lock.release()


def _said_by_another(config: LeRobotConfig, spec: RobotSpec, until_s: float) -> dict[str, Any]:
    """What :func:`_apart` gives or raises, in a form that can be kept; an error with the time at which it was found."""
    try:
        return {"history": _apart(config, spec, until_s)}
    except _Unanswered as error:
        return {"code": _UNANSWERED, "got": str(error), "at": time.time()}
    except tuple(_ERRORS.values()) as error:
        return {**_in_words(error), "at": time.time()}


def _history_in(said: dict[str, Any]) -> int:
    """The number. Raises what was said instead."""
    if "history" in said:
        return int(said["history"])
    if said["code"] == _UNANSWERED:
        raise _Unanswered(said["got"])
    kind = _ERRORS.get(said["code"], PluginError)
    raise kind(said["what"], got=said["got"], expected=said["expected"], hint=said["hint"])


def _in_words(error: SuiteError) -> dict[str, Any]:
    told = {name: getattr(error, name) for name in ("got", "expected")}
    said = {name: None if one is None else str(one) for name, one in told.items()}
    return said | {"code": error.code, "what": error.what, "hint": error.hint}


def _forget_oldest(folder: Path) -> None:
    """Keep the newest questions: remove answers, locks, and what processes have left there that were killed, of all
    others that nobody looks up now. Raises OSError."""
    of: dict[str, list[tuple[float, Path]]] = {}
    for file in folder.iterdir():
        with suppress(OSError):  # another has removed it
            question = file.name.lstrip(".").partition(".")[0]
            of.setdefault(question, []).append((file.stat().st_mtime, file))
    for question in sorted(of, key=lambda one: max(of[one]))[:-_MOST]:
        place = folder / f"{question}.lock"
        try:
            lock = FileLock(place)
        except StoreError:
            continue
        try:
            # Who has opened the lock meanwhile, and gets it, looks it up beside another at worst.
            for file in {place, *(file for _, file in of[question])}:
                file.unlink(missing_ok=True)
        finally:
            lock.release()


def _question(config: LeRobotConfig, spec: RobotSpec) -> str:
    """A name of all that the answer depends on: what is configured, the checkpoint's configuration, what the robot
    shows, and the code that answers. Of files of code size and time count, and whether they are there."""
    asked = {name: one for name, one in to_mapping(config).items() if name not in _NO_MATTER}
    shown = {name: one for name, one in spec.to_dict().items() if name != "robot"}
    digest = hashlib.sha256(json.dumps([_FORM, asked, shown], sort_keys=True).encode())
    place = Path(config.checkpoint).expanduser()
    inside = place / "config.json"
    digest.update(inside.read_bytes() if inside.is_file() else config.checkpoint.encode())
    others = [module for _, module in installed_others()]
    for package in sorted({name.partition(".")[0] for name in (*others, *config.modules)}):
        digest.update(_code_of(package))
    digest.update(_code_of("lerobot"))
    return digest.hexdigest()


def _code_of(package: str) -> bytes:
    """What stands for the code of a package that is not imported for it."""
    found = find_spec(package)
    places = [] if found is None else found.submodule_search_locations or [found.origin or ""]
    files = []
    for place in map(Path, places):
        files += sorted(place.rglob("*.py")) if place.is_dir() else [place]
    stats = [(str(file), file.stat()) for file in files if file.is_file()]
    return repr([package, *((name, s.st_size, s.st_mtime_ns) for name, s in stats)]).encode()


def _kept(file: Path, config: LeRobotConfig, began_s: float) -> dict[str, Any]:
    """What is kept of an answer; an error only where it was found since then. Empty: nothing that counts."""
    try:
        of_hub = config.checkpoint and not Path(config.checkpoint).expanduser().is_dir()
        if of_hub and time.time() - file.stat().st_mtime > _OF_HUB_S:
            return {}
        said: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if "history" in said:
            return said if type(said["history"]) is int and said["history"] > 0 else {}
        whole = {"got", "code"} if said["code"] == _UNANSWERED else {"what", "got", "expected", "hint"}  # fmt: skip
        return said if whole <= said.keys() and said["at"] >= began_s else {}
    except (OSError, ValueError, TypeError, KeyError):  # after a power cut it may be anything
        return {}


def _apart(config: LeRobotConfig, spec: RobotSpec, until_s: float) -> int:
    """Asked of another process. Raises what :func:`_here` raises, and _Unanswered."""
    question = json.dumps({"config": to_mapping(config), "spec": spec.to_dict()})
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__], input=question, capture_output=True, text=True,
            timeout=max(1.0, until_s - time.monotonic()),
            preexec_fn=partial(end_with_parent, signal.SIGKILL, os.getpid()),
        )  # fmt: skip
        if done.returncode or not done.stdout:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise OSError(f"the process that looks it up ended with {done.returncode}: {last}")
        said: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise _Unanswered(f"no answer within {_LIMIT_S:.0f} s of the process that looks it up") from error  # fmt: skip
    except (OSError, ValueError) as error:
        raise _Unanswered(str(error)) from error
    return _history_in(said)


def main() -> None:
    """The other process: the question on its standard input, the answer on its standard output."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    question = json.loads(sys.stdin.read())
    said: dict[str, Any]
    try:
        config = from_mapping(LeRobotConfig, question["config"])
        said = {"history": _here(config, RobotSpec.from_dict(question["spec"]))}
    except SuiteError as error:
        said = _in_words(error)
    answer.write(json.dumps(said))
    answer.flush()
    os._exit(0)  # threads of libraries keep nobody waiting


if __name__ == "__main__":
    main()
