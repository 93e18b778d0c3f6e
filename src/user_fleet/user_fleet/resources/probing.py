"""Asks drivers and robot files, each in a process of its own with a time limit.

A driver is other people's code: it may hang, raise, end its process, print without end, or say what
is not so. What happens is named, and neither the agent nor any other driver is touched by it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from user_core.plugins import available
from user_core.reasons import HANGS, PROCESS_ENDED, Reason
from user_core.specs import RobotSpec
from user_fleet.resources.model import Problem, Resource, clean_name

MAX_ANSWER_BYTES = 8 * 2**20
_PROGRAM = "user_fleet.resources.probe"
_TAIL = 300
#: How many are asked at the same time.
_TOGETHER = 2


@dataclass
class Answer:
    """What one probe said.

    Attributes:
        subject: The driver or file that was asked.
        found: Name, parameters and detail of each device, in its order.
        specs: Number of the device, to the spec of the robot that it makes.
        refused: Number of the device, to why its driver does not take it.
        simulated: Whether the driver only simulates.
        cameras: Of a robot file, the cameras that it adds.
        error: Why there is no (complete) answer; false when there is.
    """

    subject: str
    found: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    specs: dict[int, RobotSpec] = field(default_factory=dict)
    refused: dict[int, Reason] = field(default_factory=dict)
    simulated: bool = False
    cameras: tuple[str, ...] = ()
    error: Reason = field(default_factory=Reason)


def ask_drivers(
    kind: str, names: Iterable[str] | None = None, limit_s: float = 20.0, together: int = _TOGETHER
) -> list[Answer]:
    """Ask installed drivers of a kind what they find.

    Args:
        kind: ``robots``, ``cameras`` or ``teleops``.
        names: Which; None: all that are installed.
        limit_s: Time for each. What a robot is like that was found by then and not told is unknown.
        together: How many are asked at the same time.
    """
    chosen = sorted(available(kind)) if names is None else list(names)
    return _ask_all([(name, ("driver", kind, name)) for name in chosen], limit_s, together)


def ask_files(paths: Iterable[str], limit_s: float = 20.0) -> list[Answer]:
    """Ask robot files what their robots are like; none is connected."""
    return _ask_all([(path, ("file", path)) for path in paths], limit_s, _TOGETHER)


def robots_of(
    answer: Answer, host: str, site: str = "", tags: Iterable[str] = ()
) -> list[Resource]:
    """The robots that a driver found, as resources."""
    made = []
    marks = (*tags, "simulated") if answer.simulated else tuple(tags)
    for number, (name, params, detail) in enumerate(answer.found):
        item = Resource(
            id=f"{host}/robot/{clean_name(name)}",
            kind="robot",
            site=site,
            model=(detail or name)[:256],
            tags=marks,
            driver=answer.subject,
            params=params,
            source=f"driver {answer.subject}",
        )
        if number in answer.specs:
            item = item.with_spec(answer.specs[number])
        elif number in answer.refused:
            item = item.unwell("faulty", answer.refused[number])
        made.append(item)
    return made


def robot_of_file(
    answer: Answer, name: str, host: str, site: str = "", tags: Iterable[str] = ()
) -> Resource:
    """The robot of a robot file as a resource; not ready where its driver does not take the file."""
    marks = tuple(tags)
    driver, params = "", dict[str, Any]()
    if answer.found:
        driver, params, _ = answer.found[0]
    if answer.simulated:
        marks = (*marks, "simulated")
    item = Resource(
        id=f"{host}/robot/{clean_name(name)}",
        kind="robot",
        site=site,
        model=driver,
        tags=marks,
        cameras=answer.cameras,
        driver=driver,
        params=params,
        source=answer.subject[-512:],
    )
    if 0 in answer.specs:
        item = item.with_spec(answer.specs[0])
        model = str(item.spec["robot"])[:256]
        item = item.replace(model=model, cameras=(*item.cameras, *answer.cameras)[:32])
    elif why := answer.refused.get(0) or answer.error:
        item = item.unwell("faulty", why)
    return item


def problems_of(answers: Iterable[Answer]) -> Iterator[Problem]:
    """What was wrong with them."""
    for answer in answers:
        if answer.error:
            yield Problem.of(answer.subject, answer.error)


def _ask_all(
    tasks: list[tuple[str, tuple[str, ...]]], limit_s: float, together: int
) -> list[Answer]:
    with ThreadPoolExecutor(max_workers=max(1, together)) as pool:
        return list(pool.map(lambda task: _ask(task[0], task[1], limit_s), tasks))


def _ask(subject: str, words: tuple[str, ...], limit_s: float) -> Answer:
    answer = Answer(subject)
    read_end, write_end = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", _PROGRAM, str(write_end), *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            pass_fds=(write_end,), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        os.close(read_end)
        answer.error = Reason.of(error)
        return answer
    finally:
        os.close(write_end)
    assert process.stderr is not None
    try:
        lines, tail, ending = _listen(read_end, process.stderr.fileno(), limit_s)
        if not ending:  # it closed its end: it is about to end
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2.0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and whatever it has started
        process.wait()
        process.stderr.close()
        os.close(read_end)
    _read_lines(answer, lines)
    if ending and not answer.error:
        answer.error = Reason(HANGS, f"{ending}; it was ended")
    elif process.returncode and not answer.error:
        how = (
            f"signal {-process.returncode}"
            if process.returncode < 0
            else f"code {process.returncode}"
        )
        answer.error = Reason(PROCESS_ENDED, f"the driver ended its process: {how}. {tail}".strip())
    elif not answer.found and not answer.error and not lines:
        answer.error = Reason(PROCESS_ENDED, f"the driver ended its process without a word. {tail}")
    return answer


def _listen(answers: int, errors: int, limit_s: float) -> tuple[list[bytes], str, str]:
    """Lines of the answer, the end of what was printed to stderr, and why it was not heard out."""
    deadline_s = time.monotonic() + limit_s
    data, tail = bytearray(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(answers, selectors.EVENT_READ)
        selector.register(errors, selectors.EVENT_READ)
        while answers in selector.get_map():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return _whole(data), _text(tail), f"no complete answer within {limit_s:g} s"
            for key, _ in selector.select(left_s):
                got = os.read(key.fd, 65536)
                if not got:
                    selector.unregister(key.fd)
                elif key.fd == answers:
                    data += got
                    if len(data) > MAX_ANSWER_BYTES:
                        return _whole(data), _text(tail), f"more than {MAX_ANSWER_BYTES} bytes"
                else:
                    tail = (tail + got)[-4 * _TAIL :]
    return _whole(data), _text(tail), ""


def _whole(data: bytearray) -> list[bytes]:
    return bytes(data).split(b"\n")[:-1]


def _text(tail: bytes) -> str:
    lines = [line for line in tail.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:_TAIL] if lines else ""


def _read_lines(answer: Answer, lines: list[bytes]) -> None:
    for line in lines:
        try:
            said = json.loads(line)
            if "error" in said:
                answer.error = Reason(*map(str, said["error"]))
            elif "found" in said:
                answer.found = [(str(n), dict(p), str(d)) for n, p, d in said["found"]]
                answer.simulated = bool(said.get("simulated"))
                answer.cameras = tuple(str(name)[:64] for name in said.get("cameras", ()))[:32]
            elif "spec" in said:
                answer.specs[int(said["spec"][0])] = RobotSpec.from_dict(said["spec"][1])
            elif "refused" in said:
                number, code, text = said["refused"]
                answer.refused[int(number)] = Reason(str(code), str(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # SpecError among them
            answer.error = Reason.of(error)
            return
