"""Ten failures, and what a person sees of each within ten seconds: made from real runs.

Each command runs as a person types it. Its words are looked for in what it prints, and the time until
they are there is taken: from the start of the command where nothing is begun, and from the moment at
which it happened where something fails while it runs (``testing/user_testing/odd_environments.py``
says when).

    python benchmarks/system/failures.py                 # all ten, some minutes; exit status 1 if words are missing
    python benchmarks/system/failures.py --only 3 7
    python benchmarks/system/failures.py --page          # write them into docs/how_to/when_something_fails.md
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from user_core.command_line import Parser
from user_testing import systems
from user_testing.ports import claim_domain, free_endpoint
from user_testing.systems import words_of_run

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = _ROOT / "docs/how_to/when_something_fails.md"
_BEGIN, _END = "<!-- transcript: begin -->", "<!-- transcript: end -->"
_ODD = "user_testing.odd_environments:"
_WIDTH = 150


@dataclass(frozen=True)
class Failure:
    """One failure.

    Attributes:
        title: What went wrong.
        words: Of the command, behind ``user up gymnasium``.
        cause: What must be printed.
        status: Exit status; None where it is ended as soon as the cause is there.
        before: Words of a command that runs before, in the same folder, until it has learned a little.
    """

    title: str
    words: tuple[str, ...]
    cause: tuple[str, ...]
    status: int | None = 1
    before: tuple[str, ...] = ()


FAILURES = (
    Failure("The name of an environment is misspelt", ("env:=Pendulm-v1",),
            ("Pendulm-v1", "Did you mean")),
    Failure("A parameter is misspelt", ("env:=Pendulum-v1", "learner.training.batch_sise:=64"),
            ("batch_sise", "batch_size")),
    Failure("The package of an environment is not installed", ("env:=ale_py:ALE/Pong-v5",),
            ("ale_py", "No module named")),
    Failure("Actions have no bounds", (f"env:={_ODD}OddEndless-v0",),
            ("OddEndless-v0", "bounds")),
    Failure("The policy looks at an image that the robot does not have",
            ("env:=Pendulum-v1", "algorithm:=rlpd_images"), ("Pendulum-v1", "image_front")),
    Failure("An environment hangs in its reset", (f"env:={_ODD}OddHang-v0",),
            ("first step of its environment", "not ended yet"), None),
    Failure("Success is asked for, of an environment that never tells it",
            ("env:=Pendulum-v1", "--until-success", "0.8"),
            ("Pendulum-v1", "--until-success can never be reached"), None),
    Failure("An observation is not a number, in the third step of every episode",
            (f"env:={_ODD}OddNan-v0",), ("OddNan-v0", "step 3", "not finite")),
    Failure("The simulation crashes its process", (f"env:={_ODD}OddCrash-v0",),
            ("hal", "SIGSEGV")),
    Failure("A run is resumed with another network",
            ("env:=Pendulum-v1", "learner.algorithm.params.critic_hidden:=[32]"),
            ("critic_hidden",), 1, ("env:=Pendulum-v1", "random_steps:=100",
                                    "learner.training.utd.learning_starts:=100")),
)  # fmt: skip


class Running:
    """A command whose lines are noted with the time at which they came."""

    def __init__(self, words: Sequence[str], run: Path, domain: int) -> None:
        endpoint = f"policy_endpoint:={free_endpoint()}"
        command = words_of_run("gymnasium", *words, endpoint, runs=run.parent, run=run.name)
        self.lines: list[tuple[float, str]] = []
        self.began_s = time.time()
        self.process = systems.start(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "ROS_DOMAIN_ID": str(domain), "COLUMNS": "1000"},
            start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.time(), line.rstrip()))

    def seen_s(self, words: Sequence[str]) -> float | None:
        """When all words had been printed in one line; None before."""
        return next((t for t, line in self.lines if all(w in line for w in words)), None)

    def end(self) -> int:
        """Ctrl-C, and wait; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(90)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        self._reader.join(5)
        return self.process.returncode


def show(failure: Failure, folder: Path, limit_s: float) -> dict[str, Any]:
    """Let it fail, and tell what a person sees."""
    run = folder / "r"
    shutil.rmtree(run, ignore_errors=True)
    with claim_domain() as domain:
        if failure.before:
            first = Running(failure.before, run, domain)
            _wait(lambda: (run / "learner/policy.safetensors").exists() and _updates(run), limit_s)
            first.end()
        running = Running(failure.words, run, domain)
        ends = failure.status is not None
        _wait(
            lambda: (
                running.process.poll() is not None
                or (not ends and running.seen_s(failure.cause) is not None)
            ),
            limit_s,
        )
        status = running.end()
    seen_s = running.seen_s(failure.cause)
    happened_s = _happened_s(run) if any("odd" in w for w in failure.words) else None
    if happened_s is None or not run.exists():
        happened_s = running.began_s
    return {
        "title": failure.title,
        "command": " ".join(["user up gymnasium", *(_quoted(w) for w in failure.words)]),
        "seconds": None if seen_s is None else round(seen_s - happened_s, 1),
        "counted from": "the failure" if happened_s != running.began_s else "the command",
        "status": status if ends else None,
        "as wanted": seen_s is not None and (not ends or status == failure.status),
        "lines": [line for _, line in running.lines],
        "cause": list(failure.cause),
    }


def _quoted(word: str) -> str:
    return f"'{word}'" if re.search(r"[\[\]{} ]", word) else word


def _wait(done: Callable[[], bool], limit_s: float) -> None:
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s and not done():
        time.sleep(0.1)


def _updates(run: Path) -> bool:
    file = run / "history.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return any('"update"' in line and json.loads(line).get("update", 0) > 50 for line in lines)


def _happened_s(run: Path) -> float | None:
    for log in run.glob("logs/*.log"):
        if found := re.search(r"odd: \w+ at ([\d.]+)", log.read_text(errors="replace")):
            return float(found[1])
    return None


# --- the page ---


def transcript(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: each command, and the lines that tell the cause."""
    parts = []
    for number, one in enumerate(results, 1):
        shown = [f"  {line}" for line in one["lines"]]
        end = "" if one["status"] is None else f" It ends with status {one['status']}."
        parts.append(
            f"### {number}. {one['title']}\n\n```\n{one['command']}\n```\n\n"
            f"{one['seconds']} s after {one['counted from']}:{end}\n\n```text\n"
            + "\n".join(shown)
            + "\n```"
        )
    return "\n\n".join(parts)


def _telling(lines: Sequence[str]) -> list[str]:
    """Without the figures of a run that goes on, and without what stands there a second time."""
    kept: list[str] = []
    for line in lines:
        figures, _, warning = line.partition("  ! ")
        warning = re.sub(r" \(and \d+ more: user status\)$", "", warning)
        text = f"! {warning}" if warning else line
        if re.match(r"^ *[\d.]+ s +\d+ steps", figures) and not warning:
            continue
        if text.strip() and text not in kept:
            kept.append(text)
    return kept[:8]


def _line(line: str, folder: str) -> str:
    line = (
        line.replace(folder, "runs")
        .replace(sys.prefix, ".venv")
        .replace(str(_ROOT), ".")
        .replace(str(Path.home()), "~")
    )
    line = re.sub(r"\S*/(share|src)/user_bringup/config/", "config/", line)
    return line if len(line) <= 3 * _WIDTH else line[: 3 * _WIDTH - 4] + " ..."


def main() -> int:
    """Run them, and print or write what was seen."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", type=int, nargs="*", default=[], help="numbers, from 1")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds for each to end")
    parser.add_argument(
        "--results", type=Path, default=Path("build/failures.json"), help="what is known of each"
    )
    parser.add_argument("--page", action="store_true", help=f"write {_PAGE.relative_to(_ROOT)}")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    known: dict[str, dict[str, Any]] = {}
    if arguments.results.exists():
        known = json.loads(arguments.results.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="failures-") as folder:
        for number, failure in enumerate(FAILURES, 1):
            if arguments.only and number not in arguments.only:
                continue
            result = show(failure, Path(folder), arguments.limit)
            result["lines"] = [_line(line, folder) for line in _telling(result["lines"])]
            known[str(number)] = result
            print(
                f"{number:2} {'ok  ' if result['as wanted'] else 'FAIL'} {result['seconds']} s after "
                f"{result['counted from']}, status {result['status']}: {failure.title}", flush=True,
            )  # fmt: skip
            if not result["as wanted"]:
                print("\n".join(result["lines"]))
            arguments.results.parent.mkdir(parents=True, exist_ok=True)
            arguments.results.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    results = [known[key] for key in sorted(known, key=int)]
    text = transcript(results)
    if arguments.page:
        before, _, rest = _PAGE.read_text(encoding="utf-8").partition(_BEGIN)
        after = rest.partition(_END)[2]
        _PAGE.write_text(f"{before}{_BEGIN}\n\n{text}\n\n{_END}{after}", encoding="utf-8")
    else:
        print(text)
    return 0 if all(result["as wanted"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
