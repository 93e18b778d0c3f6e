"""A run, what is done to it, and what its processes use meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from user_bringup.chaos.evidence import Evidence, producers_behind, works_since
from user_bringup.chaos.faults import LINK, Fault, Link, inflict, relieve
from user_bringup.chaos.links import FarLink
from user_core.errors import SuiteError
from user_fleet.deployment import Deployment, ProcessSpec, load_record
from user_fleet.processes import find_processes, session_members, state_of


class ResourceRecorder:
    """Appends a JSON line a process and look, and one with the sizes of the run's folders.

    Args:
        file: Where to.
        run_dir: Folder of the run.
    """

    def __init__(self, file: Path, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._stream = file.open("a", encoding="utf-8")
        self._processes: dict[int, psutil.Process] = {}

    def look(self, pids: Mapping[str, int]) -> None:
        """Write what these processes use now, by name."""
        now = round(time.time(), 3)
        for name, pid in pids.items():
            try:
                process = self._processes.setdefault(pid, psutil.Process(pid))
                with process.oneshot():
                    memory = process.memory_full_info()
                    self._write(
                        t=now, kind="process", name=name, pid=pid,
                        rss=memory.rss, uss=memory.uss, threads=process.num_threads(),
                        fds=process.num_fds(), cpu=process.cpu_percent(),
                    )  # fmt: skip
            except (psutil.Error, OSError):  # it has just ended
                self._processes.pop(pid, None)
        folders = {
            entry.name: size_of(Path(entry.path)) for entry in os.scandir(self._run_dir)
            if entry.is_dir()
        }  # fmt: skip
        self._write(t=now, kind="disk", **folders)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _write(self, **values: Any) -> None:
        self._stream.write(json.dumps(values) + "\n")
        self._stream.flush()


def size_of(folder: Path) -> int:
    """Bytes on the disk of all files below a folder."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except OSError:
                continue
    return total


_LOOK_S = 0.05


@dataclass
class Blow:
    """A fault as it really happened. Times are seconds after everything worked first.

    Attributes:
        fault: What was planned.
        pid: The process it hit.
        hit_s: When it hit; None when it did not.
        over_s: When it was over: for a kill the same.
        works_s: When the victim was first seen at work afterwards; None if never.
        alone: Whether no other fault fell into the recovery.
        overtaken: Whether the victim was hit again before it worked.
        note: Why it did not happen.
    """

    fault: Fault
    pid: int = 0
    hit_s: float | None = None
    over_s: float | None = None
    works_s: float | None = None
    alone: bool = True
    overtaken: bool = False
    note: str = ""

    @property
    def recovery_s(self) -> float | None:
        """From the end of the fault until the victim worked again."""
        if self.works_s is None or self.over_s is None:
            return None
        return self.works_s - self.over_s

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "recovery_s": self.recovery_s}


class Trial:
    """Starts `user up` in a process of its own, follows a plan, and ends it.

    Args:
        words: What comes after ``user up``.
        folder: Folder of the run.
        evidence: What a graph recorder sees of it.
        tell: Called with a line whenever something happens.
        resource_period_s: How often to record what the processes use; 0: never.
        link: What can be cut between its hosts.
    """

    #: Longest time until everything works first, and until a victim works again.
    START_S = 180.0
    RECOVERY_S = 180.0
    #: How long a process may take to be there again when a fault is due for it.
    ABSENT_S = 30.0

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        evidence: Evidence,
        tell: Callable[[str], None],
        resource_period_s: float = 0.0,
        link: Link | None = None,
    ) -> None:
        self.words, self.folder, self.evidence, self.tell = words, folder, evidence, tell
        self._link = link
        self.blows: list[Blow] = []
        self.sessions: set[int] = set()
        self.exit_code: int | None = None
        self._resource_period_s = resource_period_s
        self._next_resources_s = 0.0
        self._next_pids_s = 0.0
        self._resources: ResourceRecorder | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._zero_s = 0.0
        self._files: dict[str, str] = {}
        self.pids: dict[str, int] = {}
        self.deployment: Deployment | None = None

    def start(self) -> None:
        """Start the run, and wait until every process works.

        Raises:
            SuiteError: It ended, or does not work in time.
        """
        begun_s = self._begin()
        assert self.deployment is not None
        self._wait_for_all(begun_s, begun_s)

    def _begin(self) -> float:
        """Start `user up`, and read what runs; returns when it was started, monotonic seconds."""
        with contextlib.suppress(
            OSError
        ):  # where we may: who carries and records must not be late itself
            Path("/proc/self/autogroup").write_text("-10", encoding="ascii")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        output = (self.folder.parent / f"{self.folder.name}.out").open("ab")
        with output:
            self._process = subprocess.Popen(
                ["user", "up", *self.words, "--no-table"],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        begun_s = time.monotonic()
        file = self.folder / "deployment.yaml"
        while not file.exists() or file.stat().st_mtime < time.time() - 3600:
            self._must_go_on(begun_s, "it has written its folder")
        time.sleep(0.2)
        self.deployment = load_record(file)
        specs = self.deployment.processes
        self._files = {word_of(spec, specs, self.folder): spec.name for spec in specs}
        return begun_s

    def _wait_for_all(self, begun_s: float, since_s: float) -> None:
        """Until every process works that is known; from then on the time of the plan runs."""
        assert self.deployment is not None
        specs = self.deployment.processes
        waiting = {spec.name for spec in specs}
        while waiting:
            self._must_go_on(begun_s, f"{', '.join(sorted(waiting))} work")
            self._look()
            waiting = {s.name for s in specs if self._works_since(s, since_s) is None}
        self._zero_s = time.monotonic()
        self.tell(f"everything works after {self._zero_s - begun_s:.1f} s")

    def follow(self, plan: Sequence[Fault], seconds: float) -> None:
        """Let the plan happen, and go on until its time is over and all have recovered."""
        self.blows = [Blow(fault) for fault in plan]
        waiting = list(self.blows)
        open_blows: list[Blow] = []
        while True:
            self._must_go_on(None, "the plan is over")
            self._look()
            while waiting and waiting[0].fault.at_s <= self._now_s():
                blow = waiting.pop(0)
                if self._hit(blow):
                    for other in open_blows:
                        other.alone = False
                        other.overtaken |= other.fault.victim == blow.fault.victim
                    blow.alone = not open_blows
                    open_blows.append(blow)
                elif self._now_s() - blow.fault.at_s < self.ABSENT_S and not blow.note:
                    waiting.insert(0, blow)  # it is not there just now: at once when it is
                    break
                else:
                    blow.note = blow.note or "the process did not come back"
            open_blows = [blow for blow in open_blows if not self._is_over(blow)]
            if not waiting and not open_blows and self._now_s() > seconds:
                return

    def end(self, timeout_s: float = 90.0) -> list[str]:
        """End the run as Ctrl-C does; returns what was left over of it, for people."""
        if self._process is None:
            return []
        self._note_sessions()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        left = []
        try:
            self.exit_code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            left.append(f"user up did not end within {timeout_s:g} s")
        time.sleep(0.2)
        members = session_members(self.sessions)
        left += [f"process {pid} of the run" for pid in members]
        left += [f"process {pid}, {name}" for name, pid in self._find().items()]
        for pid in {*members, *self._find().values()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._resources is not None:
            self._resources.close()
        return left

    def _now_s(self) -> float:
        return time.monotonic() - self._zero_s

    def _find(self) -> dict[str, int]:
        return {self._files[word]: pid for word, pid in find_processes(self._files).items()}

    def _look(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_pids_s:
            self._next_pids_s = now_s + 0.5
            self.pids = self._find()
            self._note_sessions()
        if self._resource_period_s and now_s >= self._next_resources_s and self._zero_s:
            self._next_resources_s = now_s + self._resource_period_s
            if self._resources is None:
                self._resources = ResourceRecorder(self.folder / "resources.jsonl", self.folder)
            self._resources.look(self.pids)

    def _note_sessions(self) -> None:
        for pid in self.pids.values():
            with contextlib.suppress(OSError):
                self.sessions.add(os.getsid(pid))

    def _hit(self, blow: Blow) -> bool:
        """Do the fault; False when the victim is not there now."""
        fault = blow.fault
        if fault.kind == "network":
            return self._cut(blow)
        pid = self._find().get(fault.victim, 0)
        try:
            if not pid or state_of(pid) in "ZXT":
                return False
            inflict(fault.kind, pid)
        except (OSError, ProcessLookupError):
            return False
        except (ValueError, PermissionError) as error:
            blow.note = str(error)
            return False
        blow.pid, blow.hit_s = pid, self._now_s()
        if fault.kind == "kill":
            blow.over_s = blow.hit_s
        self._tell_hit(blow, f" (process {pid})")
        return True

    def _links_of(self, victim: str) -> Sequence[Link | FarLink]:
        """What is cut with it."""
        return [] if self._link is None else [self._link]

    def _cut(self, blow: Blow) -> bool:
        links = self._links_of(blow.fault.victim)
        if not links:
            blow.note = "there is no link that could be cut"
        if not links or any(link.is_cut for link in links):
            return False
        for link in links:
            link.cut()
        blow.hit_s = self._now_s()
        self._tell_hit(blow)
        return True

    def _tell_hit(self, blow: Blow, where: str = "") -> None:
        fault = blow.fault
        lasts = f" for {fault.duration_s:.1f} s" if fault.duration_s else ""
        self.tell(f"{blow.hit_s:7.1f} s  {fault.kind} {fault.victim}{lasts}{where}")

    def _is_over(self, blow: Blow) -> bool:
        now_s = self._now_s()
        assert blow.hit_s is not None
        if blow.over_s is None:
            if now_s < blow.hit_s + blow.fault.duration_s:
                return False
            if blow.fault.kind == "network":
                for link in self._links_of(blow.fault.victim):
                    link.restore()
            else:
                relieve(blow.fault.kind, blow.pid)
            blow.over_s = self._now_s()
        spec = self._spec(blow.fault.victim)
        seen_s = self._works_since(spec, self._zero_s + blow.over_s)
        if seen_s is not None:
            blow.works_s = seen_s - self._zero_s
            self.tell(f"{blow.works_s:7.1f} s  {spec.name} works again, {blow.recovery_s:.1f} s")
            return True
        if blow.overtaken:
            return True
        if now_s > blow.over_s + self.RECOVERY_S:
            blow.note = f"did not work again within {self.RECOVERY_S:g} s"
            self.tell(f"{now_s:7.1f} s  {spec.name} {blow.note}")
            return True
        return False

    def _spec(self, victim: str) -> ProcessSpec:
        assert self.deployment is not None
        if victim == LINK:
            return ProcessSpec(name=LINK, package="user_bringup", executable=LINK)
        return self.deployment.process(victim)

    def _works_since(self, spec: ProcessSpec, since_s: float) -> float | None:
        assert self.deployment is not None
        behind = producers_behind(spec, self.deployment.processes)
        return works_since(spec, self.evidence, since_s, behind)

    def _must_go_on(self, since_s: float | None, what: str) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise SuiteError(
                "user up", got=f"it ended with {self._process.returncode}",
                expected=f"it to run until {what}",
                hint=f"Look at {self.folder.parent / self.folder.name}.out",
            )  # fmt: skip
        if since_s is not None and time.monotonic() > since_s + self.START_S:
            raise SuiteError("user up", got=f"not within {self.START_S:g} s", expected=what)
        time.sleep(_LOOK_S)


def word_of(spec: ProcessSpec, all_specs: Sequence[ProcessSpec], folder: Path) -> str:
    """The word of its command line that a process has for itself."""
    if spec.ros:
        return str(folder / "config" / f"{spec.name}.yaml")
    others = {word for other in all_specs if other is not spec for word in other.arguments}
    own = [word for word in spec.arguments if word not in others]
    return max(own, key=len, default=spec.executable)
