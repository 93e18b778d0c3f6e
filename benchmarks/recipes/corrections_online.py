"""What corrections add while a policy acts: arms that see and are corrected, beside as long a cloning without corrections.

    python benchmarks/recipes/corrections_online.py --device cuda --minutes 4 --out online.jsonl --picture docs/pictures/corrections_online.png

From some demonstrations a policy is cloned. From there it goes on in two ways, equally long: in the deployment `shared_gpu`
(simulated arms, one inference host and the learner on one GPU, scripts that correct), and as plain `user train` on the same
demonstrations with the processor and the GPU for itself, which so makes more updates. Both leave copies of their policy
every `--every` seconds; at the end each of these is evaluated on the same starts, with nobody helping.

    python benchmarks/recipes/corrections_online.py --tiny        # on a CPU in minutes, to see that it runs; the figures say nothing
    python benchmarks/recipes/corrections_online.py --draw seed0.jsonl seed1.jsonl --picture corrections_online.png
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from user_bringup.monitor.history import read_history
from user_bringup.monitor.shares import Share
from user_core.command_line import Parser
from user_testing.systems import run_to_end, started

CORRECTED, CLONED = "with corrections", "cloning alone"
_POLICY, _HISTORY = "learner/policy.safetensors", "history.jsonl"
_LOOK_S, _LONGEST_START_S = 0.2, 240.0


def main() -> None:
    """Run it, or draw what an earlier run gave."""
    parser = Parser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4.0, help="how long both learn")
    parser.add_argument(
        "--every", type=float, default=30.0, help="seconds between two copies of a policy"
    )
    parser.add_argument("--starts", type=int, default=40, help="episodes of an evaluation")
    parser.add_argument("--demonstrations", type=int, default=5)
    parser.add_argument(
        "--updates", type=int, default=500, help="of the cloning that both begin with"
    )
    parser.add_argument("--arms", type=int, default=4)
    parser.add_argument("--task", default="peg_insertion")
    parser.add_argument(
        "--algorithm", default="hg_dagger_images", help="a file of config/algorithms, or a path"
    )
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--max-steps", type=int, default=80, help="of an episode")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the demonstrations' starts and of the learner"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--control-gpu",
        help="number of a GPU for the control, beside the arms; by default it has theirs, afterwards",
    )
    parser.add_argument("--processes", type=int, default=12, help="evaluations at once")
    parser.add_argument(
        "--folder", type=Path, help="for runs and logs; by default one that is removed"
    )
    parser.add_argument("--out", type=Path, help="write lines of JSON")
    parser.add_argument("--picture", type=Path)
    parser.add_argument(
        "--draw",
        type=Path,
        nargs="+",
        metavar="LINES",
        help="only the table and the picture of such files, together",
    )
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("extra", nargs="*", metavar="process.key:=value", help="for the deployment")
    arguments = parser.parse_intermixed_args()
    if arguments.draw is not None:
        lines = [
            json.loads(line) for file in arguments.draw for line in file.read_text().splitlines()
        ]
    else:
        if arguments.tiny:
            shrink(arguments)
        with tempfile.TemporaryDirectory(prefix="corrections-") as made:
            folder = arguments.folder or Path(made)
            folder.mkdir(parents=True, exist_ok=True)
            lines = Experiment(arguments, folder.resolve()).run()
    print(table(lines))
    if arguments.picture is not None:
        draw(lines, arguments.picture)


def shrink(arguments: Any) -> None:
    """So small that two cores do it in minutes."""
    arguments.device, arguments.image_size, arguments.arms = "cpu", 32, 1
    arguments.minutes, arguments.every, arguments.starts = 0.5, 10.0, 2
    arguments.demonstrations, arguments.updates, arguments.processes = 2, 5, 2
    arguments.extra = ["learner.training.batch_size:=8", *arguments.extra]


class Experiment:
    """The whole of it in one folder.

    Args:
        arguments: Of the command line.
        folder: For runs, copies of policies and what processes said.
    """

    def __init__(self, arguments: Any, folder: Path) -> None:
        self._arguments, self._folder = arguments, folder
        self._began_s = time.monotonic()
        self._lines: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        """Everything, in order; the lines of what was measured."""
        arguments = self._arguments
        robot = [
            f"hal.robot.params.{key}:={value}"
            for key, value in {
                "task": arguments.task, "real_time": "false", "cameras": "[front,wrist]",
                "image_height": arguments.image_size, "image_width": arguments.image_size,
            }.items()
        ]  # fmt: skip
        demos, cloned = self._folder / "demos", self._folder / "cloned"
        self._say("demonstrations")
        self._done(["demos", "record", "panda_sim", *robot, "--out", demos,
                    "--episodes", arguments.demonstrations, "--noise", 0.3,
                    "--seed", 1000 * arguments.seed], "demos.txt")  # fmt: skip
        self._say("cloning")
        self._done(
            [*self._train(demos, cloned), "--updates", arguments.updates],
            "cloned.txt",
        )
        with ThreadPoolExecutor(1) as pool:
            beside = arguments.control_gpu is not None
            control = pool.submit(self._control, demos, cloned) if beside else None
            copies = self._corrected(demos, cloned)
            copies += control.result() if control else self._control(demos, cloned)
        copies.insert(
            0, (cloned / _POLICY, {"way": "start", "seconds": 0.0, "updates": arguments.updates})
        )
        self._say(f"{len(copies)} evaluations of {arguments.starts} starts")
        with ThreadPoolExecutor(arguments.processes) as threads:
            self._lines = list(threads.map(self._evaluated, copies))
        if arguments.out is not None:
            arguments.out.write_text("".join(json.dumps(line) + "\n" for line in self._lines))
        return self._lines

    def _train(self, demos: Path, out: Path) -> list[Any]:
        sizes = [
            word for word in self._arguments.extra if word.startswith("learner.training.batch_size")
        ]
        return ["train", demos, "--algorithm", self._arguments.algorithm, "--out", out,
                f"learner.algorithm.params.device:={self._arguments.device}",
                f"learner.algorithm.params.seed:={self._arguments.seed}", *sizes]  # fmt: skip

    def _corrected(self, demos: Path, cloned: Path) -> list[tuple[Path, dict[str, Any]]]:
        arguments = self._arguments
        names = ",".join(f"robot{i}" for i in range(arguments.arms))
        run = self._folder / "runs" / "arms"
        words = [
            "up", "shared_gpu", f"algorithm:={arguments.algorithm}", f"robots:={arguments.arms}",
            f"inference_for:=[{names}]", f"device:={arguments.device}", f"task:={arguments.task}",
            f"image_size:={arguments.image_size}", f"max_episode_steps:={arguments.max_steps}",
            f"start_from:={cloned}", f"demonstrations:={demos}", "--runs", run.parent, "--run", run.name, "--no-table",
            f"learner.algorithm.params.seed:={arguments.seed}", *arguments.extra,
        ]  # fmt: skip
        self._say("arms that are corrected")
        return self._copied(words, run, CORRECTED, "up.txt")

    def _control(self, demos: Path, cloned: Path) -> list[tuple[Path, dict[str, Any]]]:
        out = self._folder / "control"
        shutil.copytree(cloned, out)
        words = [*self._train(demos, out), "--updates", 10_000_000]
        self._say("as long a cloning without corrections")
        gpu = self._arguments.control_gpu
        where = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        return self._copied(words, out, CLONED, "control.txt", where)

    def _copied(
        self, words: list[Any], run: Path, way: str, log: str, where: dict[str, str] | None = None
    ) -> list[tuple[Path, dict[str, Any]]]:
        """Run a command until it has learned for the time that it has; copies of its policy, with when they were made."""
        arguments, copies = self._arguments, []
        first = _update(run) if run.exists() else arguments.updates
        with (
            (self._folder / log).open("w") as said,
            started(
                self._user(words),
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={**os.environ, **(where or {})},
            ) as process,
        ):
            began_s = self._learns(process, run, first, way, log)
            for number in range(1, 1 + round(60 * arguments.minutes / arguments.every)):
                while time.monotonic() < began_s + number * arguments.every:
                    if process.poll() is not None:
                        raise RuntimeError(f"{way}: it ended; see {self._folder / log}")
                    time.sleep(_LOOK_S)
                copy = self._folder / f"{way.split()[0]}_{number}.safetensors"
                shutil.copy(run / _POLICY, copy)
                seconds = round(time.monotonic() - began_s, 1)
                copies.append((copy, {"way": way, "seconds": seconds, "updates": _update(run)}))
        self._say(
            f"{way}: it learned for {arguments.minutes:g} minutes, to update {copies[-1][1]['updates']}"
        )
        return copies

    def _learns(self, process: Any, run: Path, first: int, way: str, log: str) -> float:
        """When it went on learning, by the monotonic clock."""
        end_s = time.monotonic() + _LONGEST_START_S
        while time.monotonic() < end_s and process.poll() is None:
            if _update(run) > first:
                return time.monotonic()
            time.sleep(_LOOK_S)
        raise RuntimeError(f"{way}: it did not begin to learn; see {self._folder / log}")

    def _evaluated(self, copy: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
        policy, line = copy
        log = f"evaluated_{policy.stem}_{line['way'].split()[0]}.txt"
        self._done(
            ["evaluate", self._folder / "runs" / "arms", "--policy", policy, "--episodes", self._arguments.starts,
             "--no-film", "--state-dir", self._folder / f"state_{log}", "hal.robot.params.real_time:=false"],
            log, {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        text = (self._folder / log).read_text()
        found = re.search(r"(\d+) of (\d+) episodes succeed", text)
        if found is None:
            raise RuntimeError(f"no verdict in {self._folder / log}: {text[-300:]}")
        counted = {"successes": int(found[1]), "episodes": int(found[2])}
        return {**line, "seed": self._arguments.seed, **counted}

    def _user(self, words: list[Any]) -> list[str]:
        return ["user", *map(str, words)]

    def _done(self, words: list[Any], log: str, environment: dict[str, str] | None = None) -> None:
        with (self._folder / log).open("w") as said:
            ended = run_to_end(
                self._user(words), stdout=said, stderr=subprocess.STDOUT, cwd=self._folder,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
        if ended.returncode:
            text = (self._folder / log).read_text()
            raise RuntimeError(f"user {words[0]} ended with {ended.returncode}: {text[-600:]}")

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began_s:6.1f} s  {text}", file=sys.stderr, flush=True)


def _update(run: Path) -> int:
    """Update of the newest state that a run has noted; 0 before there is one."""
    file = run / _HISTORY
    states = [line for line in read_history(file) if "update" in line] if file.exists() else []
    return int(states[-1]["update"]) if states else 0


def table(lines: list[dict[str, Any]]) -> str:
    """As Markdown; of several runs together, with the success of each."""
    rows = ["| learned for | | updates | success | of each run |", "|---|---|---|---|---|"]
    for (seconds, way), some in sorted(together(lines).items()):
        share = Share(sum(o["successes"] for o in some), sum(o["episodes"] for o in some))
        each = ", ".join(f"{100 * o['successes'] / o['episodes']:.0f}" for o in some)
        updates = round(sum(o["updates"] for o in some) / len(some))
        rows.append(f"| {seconds} s | {way} | {updates} | {share} | {each} |")
    return "\n".join(rows)


def together(lines: list[dict[str, Any]]) -> dict[tuple[int, str], list[dict[str, Any]]]:
    """What was measured of all runs, by the second and the way."""
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for line in lines:
        found.setdefault((round(line["seconds"]), line["way"]), []).append(line)
    return found


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Success over time and over updates: of all runs with its 95 % interval, and of each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    starts = [line for line in lines if line["way"] == "start"]
    runs = sorted({line.get("seed", 0) for line in lines})
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.0), sharey=True, layout="constrained")
    for axis, key, label in zip(
        axes, ("seconds", "updates"), ("seconds of learning", "gradient updates"), strict=True
    ):
        for way, colour in ((CORRECTED, "tab:blue"), (CLONED, "tab:orange")):
            mine = starts + [one for one in lines if one["way"] == way]
            for run in runs if len(runs) > 1 else []:
                some = sorted((o for o in mine if o.get("seed", 0) == run), key=lambda o: o[key])
                rates = [one["successes"] / one["episodes"] for one in some]
                axis.plot([one[key] for one in some], rates, lw=0.7, alpha=0.6, color=colour)
            at, low, high, rate = [], [], [], []
            for _, some in sorted(together(mine).items()):
                share = Share(sum(o["successes"] for o in some), sum(o["episodes"] for o in some))
                at.append(sum(one[key] for one in some) / len(some))
                low.append(share.interval[0])
                high.append(share.interval[1])
                rate.append(share.rate)
            axis.plot(at, rate, "o-", ms=4, color=colour, label=way)
            axis.fill_between(at, low, high, color=colour, alpha=0.13, lw=0)
        axis.set_xlabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.grid(alpha=0.3)
        axis.set_ylim(-0.03, 1.03)
    of = f"{lines[0]['episodes']} starts" + (f", {len(runs)} seeds" if len(runs) > 1 else "")
    axes[0].set_ylabel(f"success of {of}")
    axes[0].legend(loc="center right")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
