"""Environments of other people, learned in through the whole system: what each reaches in a minute.

For every environment: the promises of the driver (``check_robot``), and then ``user up gymnasium`` as
a user starts it. The time counts from the first step that is seen on. Packages that an environment
needs are no requirements of USER. They are looked for in folders of their own, one for each group of
packages that fit each other, which stand before everything else on the path of the processes:

    python benchmarks/learning/environments.py --packages DIR --install     # make the folders (uv, some minutes)
    python benchmarks/learning/environments.py --packages DIR               # all of them, one after the other
    python benchmarks/learning/environments.py --only CartPole HalfCheetah --seconds 30
    python benchmarks/learning/environments.py --table                      # what is known, as a table

Results go to ``--out``, one JSON file each; what is there already is not run again. An environment
whose package is missing, or that is refused, is a row that says so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from user_bringup.monitor.history import read_history
from user_bringup.monitor.shares import success_of
from user_core.command_line import Parser
from user_testing import systems
from user_testing.ports import claim_domain, free_endpoint
from user_testing.systems import started, words_of_run

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = _ROOT / "docs/measurements/environments.md"
_BEGIN, _END = "<!-- table: begin -->", "<!-- table: end -->"
#: What is installed anyway and binds the packages of a group: others of it would not fit our binaries.
_SHARED = ("numpy", "gymnasium", "opencv-python-headless")
#: Seconds until the first step: processes start, and import torch.
_START_S = 180.0
#: Episodes at the beginning and at the end of a run whose means are told.
_FEW = 10

#: Packages by group. Groups exist because the packages' own requirements exclude each other.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "": (),  # what USER brings
    "games": ("gymnasium[box2d]", "minigrid", "ale-py", "highway-env", "panda-gym"),
    "arms": ("gymnasium-robotics", "gym-hil", "gym-aloha", "shimmy[dm-control]", "mujoco<3.9"),
    "pusht": ("gym-pusht", "pymunk<7"),
    "metaworld": ("metaworld",),
}


@dataclass(frozen=True)
class Case:
    """One environment.

    Attributes:
        name: Of the row.
        env: Its registered name.
        group: The packages that it needs, a key of GROUPS.
        params: Settings of the driver.
        algorithm: A file of config/algorithms.
        more: Other words for ``user up``.
    """

    name: str
    env: str
    group: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    algorithm: str = "sac_small"
    more: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """Arguments of ``user up gymnasium``."""
        given = [f"{key}:={json.dumps(value)}" for key, value in self.params.items()]
        return [f"env:={self.env}", f"algorithm:={self.algorithm}", *given, *self.more]


#: Of environments whose actions are choices.
_CHOICES = "sac_choices"
#: Slow simulations begin to learn sooner.
_SOON = ("random_steps:=100", "learner.training.utd.learning_starts:=100")


def _small(name: str, **more: Any) -> dict[str, Any]:
    return {"images": {name: {"resize": [48, 48], **more}}}


CASES = (
    Case("CartPole", "CartPole-v1", algorithm=_CHOICES, params={"success_return": 475}),
    Case("Acrobot", "Acrobot-v1", algorithm=_CHOICES, params={"success_return": -100}),
    Case("FrozenLake", "FrozenLake-v1", algorithm=_CHOICES,
         params={"kwargs": {"is_slippery": False}, "success_reward": 1,
                 "wrappers": [{"target": "FlattenObservation"}]}),
    Case("MountainCarContinuous", "MountainCarContinuous-v0", params={"success_reward": 50}),
    Case("HalfCheetah", "HalfCheetah-v5"),
    Case("Humanoid", "Humanoid-v5"),
    Case("LunarLander", "LunarLander-v3", "games", {"success_return": 200}, _CHOICES),
    Case("LunarLanderContinuous", "LunarLanderContinuous-v3", "games", {"success_return": 200}),
    Case("MiniGrid Empty", "minigrid:MiniGrid-Empty-5x5-v0", "games",
         {"ignore": ["mission"], "success_reward": 1e-6}, _CHOICES),
    Case("Pong, 4 grey images", "ale_py:ALE/Pong-v5", "games",
         _small("image", grey=True, stack=4), _CHOICES, _SOON),
    Case("CarRacing", "CarRacing-v3", "games", _small("image"), more=_SOON),
    Case("PandaReach, hindsight", "panda_gym:PandaReach-v3", "games", algorithm="sac_goals"),
    Case("FetchReach, hindsight", "gymnasium_robotics:FetchReach-v4", "arms",
         algorithm="sac_goals"),
    Case("gym_hil PickCube", "gym_hil:gym_hil/PandaPickCubeBase-v0", "arms"),
    Case("gym_aloha, images", "gym_aloha:gym_aloha/AlohaInsertion-v0", "arms",
         {"kwargs": {"obs_type": "pixels_agent_pos"}, **_small("pixels.top")}, more=_SOON),
    Case("PushT", "gym_pusht:gym_pusht/PushT-v0", "pusht"),
    Case("Ant", "Ant-v5"),
    Case("AdroitHandDoor", "gymnasium_robotics:AdroitHandDoor-v1", "arms"),
    Case("highway", "highway_env:highway-v0", "games", {}, _CHOICES, _SOON),
    Case("parking", "highway_env:parking-v0", "games"),
    Case("dm_control cartpole", "shimmy:dm_control/cartpole-swingup-v0", "arms"),
    Case("Meta-World reach", "metaworld:Meta-World/MT1", "metaworld",
         {"kwargs": {"env_name": "reach-v3"}}),
    Case("FetchPush, hindsight", "gymnasium_robotics:FetchPush-v4", "arms",
         algorithm="sac_goals"),
    Case("PushT, images", "gym_pusht:gym_pusht/PushT-v0", "pusht",
         {"kwargs": {"obs_type": "pixels_agent_pos"}, **_small("pixels")}, more=_SOON),
    Case("Hopper", "Hopper-v5"),
    Case("PointMaze", "gymnasium_robotics:PointMaze_UMaze-v3", "arms"),
    Case("BipedalWalker", "BipedalWalker-v3", "games"),
)  # fmt: skip


# --- packages ---


def install(folder: Path) -> None:
    """Make a virtual environment for each group; those that are there are completed."""
    uv = shutil.which("uv") or str(_ROOT / ".venv/bin/uv")
    from importlib.metadata import version

    folder.mkdir(parents=True, exist_ok=True)
    bound = folder / "constraints.txt"
    bound.write_text("".join(f"{name}=={version(name)}\n" for name in _SHARED))
    for group, packages in GROUPS.items():
        if not packages:
            continue
        print(f"{group}: {', '.join(packages)}", flush=True)
        if not (folder / group).exists():
            systems.run_to_end(
                [uv, "venv", "-q", "--python", sys.executable, folder / group], check=True
            )
        systems.run_to_end(
            [uv, "pip", "install", "-q", "--python", folder / group / "bin/python", "-c", bound, *packages],
            check=False,
        )  # fmt: skip


def environment(folder: Path | None, group: str) -> dict[str, str]:
    """Environment variables of the processes of a case."""
    made = {**os.environ, "OMP_NUM_THREADS": "1", "SDL_VIDEODRIVER": "dummy"}
    if group and folder is not None:
        sites = sorted((folder / group).glob("lib/python3.*/site-packages"))
        made["PYTHONPATH"] = os.pathsep.join([*map(str, sites), made.get("PYTHONPATH", "")])
    return made


# --- what the driver promises, in a process of its own ---


def check(params: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes, and the promises that are kept; or why it cannot be made."""
    from user_core.config import from_mapping
    from user_core.conformance import check_robot
    from user_core.errors import SuiteError
    from user_hal.robots.gymnasium import GymnasiumConfig, GymnasiumRobot

    try:
        robot = GymnasiumRobot(from_mapping(GymnasiumConfig, params))
    except SuiteError as error:
        return {"refused": str(error)}
    spec = robot.spec
    shapes = {name: f"{a.dtype}{list(a.shape)}" for name, a in spec.observation.items()}
    report = check_robot(robot, steps=10)
    return {
        "observation": shapes,
        "action": f"{spec.action.dtype}{list(spec.action.shape)}",
        "kept": sum(one.passed is True for one in report.checks),
        "skipped": sum(one.passed is None for one in report.checks),
        "broken": [f"{c.promise}: {c.detail}" for c in report.checks if c.passed is False],
    }


def checked(case: Case, folder: Path | None) -> dict[str, Any]:
    """The same, of another process: an environment may end it."""
    params = {"env_id": case.env, **case.params}
    try:
        done = systems.run_to_end(
            [sys.executable, __file__, "--check", json.dumps(params)],
            env=environment(folder, case.group), capture_output=True, text=True, timeout=180,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"refused": "the check did not end within 180 s"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith('{"'):
            found: dict[str, Any] = json.loads(line)
            return found
    last = (done.stderr.strip().splitlines() or ["no word"])[-1]
    return {"refused": f"the check ended with status {done.returncode}: {last}"}


# --- learning in it ---

_STEPS = re.compile(r"^ *[\d.]+ s +(\d+) steps")


def learn(case: Case, folder: Path | None, runs: Path, seconds: float) -> dict[str, Any]:
    """Run it through the whole system, and tell what came of it."""
    run = _folder_of(case)
    shutil.rmtree(runs / run, ignore_errors=True)
    command = words_of_run(
        "gymnasium", *case.words(), f"policy_endpoint:={free_endpoint()}", runs=runs, run=run
    )
    said: list[str] = []
    began_s, first_s = time.monotonic(), math.inf
    with started(
        command, env=environment(folder, case.group), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        while process.poll() is None:
            said += [line.rstrip() for line in process.stdout]
            now_s = time.monotonic()
            steps = [int(found[1]) for line in said if (found := _STEPS.match(line))]
            if math.isinf(first_s) and steps and steps[-1] > 0:
                first_s = now_s
            if now_s > min(first_s + seconds, began_s + _START_S + seconds):
                process.send_signal(signal.SIGINT)
                process.wait(timeout=120)
            time.sleep(0.2)
        said += [line.rstrip() for line in process.stdout]
    return {
        "status": process.returncode,
        "start_s": round(first_s - began_s, 1) if math.isfinite(first_s) else None,
        **_reached(runs / run),
        **_inputs(runs / run, folder, case.group),
        "warnings": _warnings(said),
        "last_words": [line for line in said[-5:] if not _STEPS.match(line)],
    }


def _warnings(said: Sequence[str]) -> list[str]:
    """What stood beside the figures, and notes of the start; each once, without numbers twice."""
    ends = next((i for i, line in enumerate(said) if line.startswith("stopping: ")), len(said))
    texts = [line.partition("  ! ")[2] for line in said[:ends] if "  ! " in line]
    texts += [
        line for line in said if line.startswith(("hal: ", "actor: ", "learner: ", "replay: "))
    ]
    unique: dict[str, str] = {}
    for text in texts:
        unique.setdefault(re.sub(r"[\d.]+", "#", text), text)
    return list(unique.values())


def _reached(run: Path) -> dict[str, Any]:
    file = run / "history.jsonl"
    if not file.exists():
        return {}
    lines = read_history(file)
    states = [line for line in lines if line["kind"] == "state"]
    episodes = [line for line in lines if line["kind"] == "episode"]
    online = [e for e in episodes if e["source"] == 0]
    judged = [
        success_of(e["outcome"], e["source"]) for e in online if e["reason_code"] != "stopping"
    ]
    return {
        "steps": max((s.get("environment_steps", 0) for s in states), default=0),
        "updates": max((s.get("update", 0) for s in states), default=0),
        "episodes": len(online),
        "evaluations": len(episodes) - len(online),
        "returns": _ends([e["episode_return"] for e in online]),
        "success": _ends([float(success) for success in judged if success is not None]),
    }


def _ends(values: Sequence[float]) -> list[float] | None:
    """Mean of the first and of the last few; None of none."""
    if not values:
        return None
    few = max(1, min(_FEW, len(values) // 2))
    return [round(sum(part) / len(part), 3) for part in (values[:few], values[-few:])]


def _inputs(run: Path, folder: Path | None, group: str) -> dict[str, Any]:
    """Of ``user run inputs``: how many numbers there are, and those that a policy hardly sees."""
    done = systems.run_to_end(
        ["user", "run", "inputs", str(run), "--json"], env=environment(folder, group),
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    try:
        rows = [row for row in json.loads(done.stdout) if not row["name"].startswith("action")]
    except ValueError:
        return {}
    reward = [row for row in rows if row["name"] == "reward"]
    rows = [row for row in rows if row["name"] != "reward"]
    return {
        "reward_constant": bool(reward and reward[0]["constant"]),
        "inputs": len(rows),
        "constant": sum(bool(row["constant"]) for row in rows),
        "far": sum((row["far"] or 0) > 0.01 for row in rows),
        "outside": sum((row["outside"] or 0) > 0.01 for row in rows),
    }


# --- the table ---


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    head = (
        "environment", "shows", "takes", "promises", "s", "steps", "episodes", "updates",
        "return, first and last", "success", "inputs: all, constant, far out", "said",
    )  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in results:
        told, ran = one["check"], one.get("run", {})
        if "refused" in told:
            lines.append(f"| {one['name']} | " + "- | " * 10 + f"{_short(told['refused'])} |")
            continue
        kept = f"{told['kept']} of {told['kept'] + len(told['broken'])}"
        shows = ", ".join(f"`{k}` {v}" for k, v in told["observation"].items())
        inputs = [str(ran.get(key, "-")) for key in ("inputs", "constant", "far")]
        words = [*told["broken"], *(w for w in ran.get("warnings", []) if not _of_a_start(w))]
        if ran.get("reward_constant"):
            words.append("the reward never changed")
        if ran.get("status"):
            words += [f"status {ran['status']}", *ran["last_words"][-2:]]
        row = (
            one["name"], shows, told["action"], kept, f"{one['seconds']:g}", ran.get("steps", 0), ran.get("episodes", 0),
            ran.get("updates", 0), _pair(ran.get("returns"), "g"), _pair(ran.get("success"), ".0%"),
            ", ".join(inputs), _short("; ".join(words)),
        )  # fmt: skip
        lines.append("| " + " | ".join(str(cell) for cell in row) + " |")
    return "\n".join(lines)


def _of_a_start(warning: str) -> bool:
    """Whether it says that a process is not there yet, or no more."""
    return warning.endswith(("[node_starting]", "[node_silent]", "is silent"))


def _pair(ends: Sequence[float] | None, form: str) -> str:
    return "-" if ends is None else " to ".join(format(value, form) for value in ends)


def _short(text: str) -> str:
    text = " ".join(text.split()).replace("|", "/")
    return text if len(text) <= 240 else text[:237] + "..."


def main() -> int:
    """Run what is not known yet, and print the table."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    if arguments.check:
        print(json.dumps(check(json.loads(arguments.check))), flush=True)
        return 0
    packages = arguments.packages.resolve() if arguments.packages else None
    if arguments.install:
        if packages is None:
            sys.exit("--install needs --packages DIR")
        install(packages)
        return 0
    out: Path = arguments.out.resolve()
    (out / "rows").mkdir(parents=True, exist_ok=True)
    results = []
    for case in CASES:
        if arguments.only and not any(word in case.name for word in arguments.only):
            continue
        file = out / "rows" / f"{re.sub(r'[^A-Za-z0-9]+', '_', case.name)}.json"
        if not file.exists() and not arguments.table:
            print(f"{case.name} ...", flush=True)
            row: dict[str, Any] = {"name": case.name, "check": checked(case, packages)}
            if "refused" not in row["check"]:
                with claim_domain() as domain:  # what else runs on this machine is not heard
                    os.environ["ROS_DOMAIN_ID"] = str(domain)
                    row["run"] = learn(case, packages, out / "runs", arguments.seconds)
            row |= {"load": os.getloadavg()[0], "seconds": arguments.seconds}
            file.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
        if file.exists():
            row = json.loads(file.read_text(encoding="utf-8"))
            if "run" in row:
                row["run"] |= _reached(out / "runs" / _folder_of(case))
            results.append(row)
    print(table(results))
    if arguments.page:
        before, _, rest = _PAGE.read_text(encoding="utf-8").partition(_BEGIN)
        after = rest.partition(_END)[2]
        text = f"{before}{_BEGIN}\n\n{table(results)}\n\n{_END}{after}"
        _PAGE.write_text(text, encoding="utf-8")
    return 0


def _folder_of(case: Case) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", case.name).strip("_")


def _parser() -> Parser:
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--packages", type=Path, help="folder of the packages, one below it a group"
    )
    parser.add_argument("--install", action="store_true", help="install them there, and end")
    parser.add_argument("--out", type=Path, default=Path("build/environments"))
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of each, from its first step on"
    )
    parser.add_argument("--only", nargs="*", default=[], help="rows with one of these words")
    parser.add_argument("--table", action="store_true", help="only print what is known")
    parser.add_argument(
        "--page", action="store_true", help=f"write the table into {_PAGE.relative_to(_ROOT)}"
    )
    parser.add_argument("--check", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
