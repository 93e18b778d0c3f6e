"""How good a classifier of success is: precision and recall of episodes and frames, and its worst mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from user_core.rewards.classifier import ClassifierReward
from user_core.specs import Array, Arrays
from user_core.types import OBSERVATION, EpisodeKey
from user_learner.edits.view import EditedEpisode, EditedEpisodes

#: Mistakes of each kind on the contact sheet, and the side of an image there, pixels.
_MISTAKES, _SIDE = 12, 160
_FRAMES_AT_ONCE = 256


@dataclass(frozen=True)
class Judged:
    """What a classifier says of one labelled episode.

    Attributes:
        key: Which.
        solved: What its label says.
        score: The threshold up to which it would be a success: the highest score that this many frames
            in a row reach.
        at: The last row of those.
        found: Whether the classifier, as it is configured, calls it a success.
    """

    key: EpisodeKey
    solved: bool
    score: float
    at: int
    found: bool


@dataclass(frozen=True)
class Evaluation:
    """Of all labelled episodes.

    Attributes:
        episodes: What was said of each.
        precision: Of the episodes that were called a success, as configured; 1 when there is none.
        recall: Of the episodes that are one.
    """

    episodes: tuple[Judged, ...]
    precision: float
    recall: float

    @classmethod
    def of(cls, episodes: Sequence[Judged]) -> Evaluation:
        """Count."""
        found = np.array([e.found for e in episodes], bool)
        solved = np.array([e.solved for e in episodes], bool)
        return cls(tuple(episodes), *precision_and_recall(found, solved))

    def curve(self) -> tuple[Array, Array, Array]:
        """Thresholds, and precision and recall at each, (N,)."""
        score = np.array([e.score for e in self.episodes])
        solved = np.array([e.solved for e in self.episodes])
        thresholds = np.unique(score)
        precision, recall = [], []
        for threshold in thresholds:
            called = score >= threshold
            precision.append((called & solved).sum() / max(1, called.sum()))
            recall.append((called & solved).sum() / max(1, solved.sum()))
        return thresholds, np.array(precision), np.array(recall)

    def recall_at(self, precision: float) -> float:
        """The highest recall with at least this precision; 0 where there is none."""
        _, of_called, of_there = self.curve()
        fits = of_called >= precision
        return float(of_there[fits].max()) if fits.any() else 0.0


def precision_and_recall(found: Array, solved: Array) -> tuple[float, float]:
    """Of the episodes that were called a success (1 when there is none), and of those that are one (0 then).

    Args:
        found: Which were called one, (E,) bool.
        solved: Which are one, (E,) bool.
    """
    right, called, there = (int(which.sum()) for which in (found & solved, found, solved))
    return right / called if called else 1.0, right / there if there else 0.0


def evaluate(
    view: EditedEpisodes,
    reward: ClassifierReward,
    episodes: Sequence[EditedEpisode],
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Judge labelled episodes. Raises SpecError where the cameras are others."""
    found = []
    for done, episode in enumerate(episodes):
        if progress:
            progress(done, len(episodes))
        scores = scores_of(view, reward.model.cameras, reward.scores, episode)
        score, at = best_run(scores, reward.config.frames, reward.config.hysteresis)
        found.append(
            Judged(episode.key, bool(episode.outcome.success), score, at, _success(reward, scores))
        )
    return Evaluation.of(found)


def scores_of(
    view: EditedEpisodes, cameras: Iterable[str], judge: Callable[[Arrays], Array], episode: EditedEpisode
) -> Array:  # fmt: skip
    """What a judge of frames (B, ...) says of those that follow the steps of an episode, (n,)."""
    columns = view.read(episode)
    arrays = {n: columns[OBSERVATION + n] for n in cameras if OBSERVATION + n in columns}
    rows = len(columns["reward"])
    parts = [
        judge({n: a[start : start + _FRAMES_AT_ONCE] for n, a in arrays.items()})
        for start in range(1, rows, _FRAMES_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def best_run(scores: Array, frames: int, hysteresis: float = 0.0) -> tuple[float, int]:
    """The highest threshold that ``frames`` in a row reach, all but the first of which may lie lower by ``hysteresis``;
    and the row of the last of them."""
    if len(scores) < frames:
        return 0.0, len(scores)
    runs = np.lib.stride_tricks.sliding_window_view(scores, frames)
    lowest = np.minimum(runs[:, 0], runs.min(axis=1) + hysteresis)
    at = int(lowest.argmax())
    return float(lowest[at]), at + frames


def _success(reward: ClassifierReward, scores: Array) -> bool:
    config, run = reward.config, 0
    threshold = config.threshold or reward.model.threshold
    for score in scores.tolist():
        run = run + 1 if score >= threshold - (config.hysteresis if run else 0.0) else 0
        if run >= config.frames:
            return True
    return False


def draw_curve(evaluation: Evaluation, path: Path) -> None:
    """Precision and recall of episodes over the threshold, as a picture."""
    from matplotlib.figure import Figure

    _, precision, recall = evaluation.curve()
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    one, other = figure.subplots(1, 2)
    order = np.argsort(recall)
    one.plot(recall[order], precision[order], marker=".")
    one.plot(evaluation.recall, evaluation.precision, "o", mfc="none", ms=10, label="as configured")
    one.set(xlabel="recall of episodes", ylabel="precision", xlim=(0, 1.03), ylim=(0, 1.03))
    one.grid(alpha=0.3)
    one.legend(loc="lower left")
    bins = np.linspace(0, 1, 31)
    for solved, colour, name in ((True, "tab:green", "success"), (False, "tab:red", "no success")):
        other.hist([e.score for e in evaluation.episodes if e.solved == solved], bins, color=colour,
                   alpha=0.6, label=name)  # fmt: skip
    other.set(xlabel="score of an episode", ylabel="episodes")
    other.legend()
    figure.savefig(path, dpi=110)


def draw_mistakes(
    evaluation: Evaluation, view: EditedEpisodes, cameras: Sequence[str], path: Path
) -> int:
    """Contact sheet: episodes that are nearest to being taken for what they are not, mistakes first.

    Above those without success, at the frames that look most like one; below successes, at their last
    frames. A mistake has a red frame. Returns how many mistakes there are."""
    from PIL import Image, ImageDraw

    by_key = {e.key: e for e in view.episodes(excluded=True)}
    without = sorted((e for e in evaluation.episodes if not e.solved), key=lambda e: -e.score)
    solved = sorted((e for e in evaluation.episodes if e.solved), key=lambda e: e.score)
    chosen = [("no success", e) for e in without[:_MISTAKES]]
    chosen += [("success", e) for e in solved[:_MISTAKES]]
    across, side = 6, _SIDE // max(1, len(cameras))
    high = side + 30
    lines = -(-len(chosen) // across)
    sheet = Image.new("RGB", (across * (_SIDE + 6), max(1, lines) * high), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for n, (what, judged) in enumerate(chosen):
        columns: dict[str, Any] = view.read(by_key[judged.key])
        row = -1 if judged.solved else min(judged.at, len(columns["reward"]) - 1)
        images = [columns[OBSERVATION + name][row] for name in cameras]
        x, y = n % across * (_SIDE + 6), n // across * high
        for k, image in enumerate(images):
            rgb = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]
            sheet.paste(Image.fromarray(rgb).resize((side, side)), (x + 3 + k * side, y + 3))
        wrong = judged.found != judged.solved
        if wrong:
            pen.rectangle((x, y, x + _SIDE + 5, y + side + 5), outline=(220, 0, 0), width=3)
        pen.text((x + 3, y + side + 7), f"{what}, score {judged.score:.2f}", (0, 0, 0))
        pen.text((x + 3, y + side + 17), f"{str(judged.key)[-26:]}", (90, 90, 90))
    sheet.save(path)
    return sum(e.found != e.solved for e in evaluation.episodes)
