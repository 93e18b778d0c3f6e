"""Training a model of progress on successful episodes, and how well it orders their observations.

Time is the label: the observation of row t of an episode of T rows has made t / (T - 1) of the way (as in learning by
the order of frames: Ma et al., "Vision Language Models are In-Context Value Learners", 2024; Yang et al.,
"Rank2Reward", 2024). Episodes that take detours disagree about it, so that the model learns the mean. What was seen
after a failed attempt has no label.

With ``stages`` time counts within a stage, and each stage has the share of the way that it takes on average (Chen et
al., "SARM: Stage-Aware Reward Modeling for Long Horizon Robot Manipulation", 2025): who hesitates before a grasp has
got no further by it. There people or a language model label where stages begin; here a number says it that jumps there,
as that of a gripper. The threshold of success is chosen on episodes that were kept out of training, so that at most a
given share of observations well before the end would be taken for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.rewards.progress import (
    ProgressModel,
    ProgressReward,
    inputs_of,
    make_progress_network,
)
from user_core.specs import Array
from user_core.types import OBSERVATION
from user_learner.edits.view import EditedEpisode, EditedEpisodes
from user_learner.success.evaluation import best_run, precision_and_recall
from user_learner.success.training import augmented, fit, labelled

#: From where on an observation may look like the end of its episode, when the threshold is chosen.
_NEARLY = 0.85


class ProgressTrainConfig(Config):
    """How a model of progress is trained."""

    observations: tuple[str, ...] = setting(
        (), doc="What it looks at; empty: all images, and where there are none all numbers."
    )
    stages: tuple[str, ...] = setting(
        (),
        doc="Numbers whose jump over the middle of their range begins another stage, as those of a gripper: observations or "
        "the action, with an element in brackets where there are several (action[6]). Empty: an episode is one stage.",
    )
    stage_steps: int = setting(
        3, doc="Steps that such a number stays on the other side before it counts.", ge=1
    )
    size: int = setting(64, doc="Side that images are reduced to.", unit="pixels", ge=32, le=256)
    epochs: int = setting(40, doc="Passes over the observations.", ge=1)
    batch: int = setting(64, doc="Observations of an update.", ge=2)
    learning_rate: float = setting(1e-3, doc="Of Adam.", gt=0)
    held_out: float = setting(
        0.25, doc="Share of episodes that the threshold is chosen on.", gt=0, lt=1
    )
    false_positives: float = setting(
        0.01, doc="Share of observations well before the end that may be taken for it.", ge=0, lt=1
    )
    seed: int = setting(0, doc="Of everything random.", ge=0)


def what_to_see(view: EditedEpisodes, config: ProgressTrainConfig) -> ProgressModel:
    """What a store has to look at. Raises ConfigError."""
    columns = {
        name[len(OBSERVATION) :]: spec
        for name, spec in view.reader.layout.schema.columns.items()
        if name.startswith(OBSERVATION)
    }
    images = {
        name: tuple(spec.shape)
        for name, spec in columns.items()
        if spec.dtype == "uint8" and len(spec.shape) == 3
    }
    numbers = {n: int(np.prod(s.shape, dtype=int)) for n, s in columns.items() if n not in images}
    if missing := [name for name in config.observations if name not in columns]:
        raise ConfigError("observations", got=missing, expected=f"some of {sorted(columns)}")
    wanted = config.observations or tuple(images or numbers)
    return ProgressModel(
        {n: s for n, s in images.items() if n in wanted},
        {n: c for n, c in numbers.items() if n in wanted},
        config.size,
    )


def train_progress(
    view: EditedEpisodes,
    config: ProgressTrainConfig,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ProgressModel, Any, dict[str, Any]]:
    """Train on the successes of a store; return the model, its network, and how it went.

    Raises ConfigError: too few successes, or nothing to look at.
    """
    import torch

    model = what_to_see(view, config)
    episodes, courses, shares, left_out = _courses(view, config)
    images: list[Any] = []
    numbers: list[Any] = []
    targets, which = [], []
    for number, (episode, course) in enumerate(zip(episodes, courses, strict=True)):
        seen, rows = _model_inputs(view, episode, model)
        one, other = inputs_of(model, seen)
        images.append(one)
        numbers.append(other)
        known: Array = np.linspace(0, 1, rows) if course is None else course
        targets.append(known.astype(np.float32))
        which.append(np.full(rows, number))
    target, of = torch.from_numpy(np.concatenate(targets)), np.concatenate(which)
    rng = np.random.default_rng([config.seed, 1])
    held = np.zeros(len(episodes), bool)
    held[rng.permutation(len(episodes))[: max(1, round(config.held_out * len(episodes)))]] = True
    learns = torch.from_numpy(np.flatnonzero(~held[of]))
    generator = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    network = make_progress_network(model)
    all_images = torch.cat(images) if model.cameras else None
    all_numbers = torch.cat(numbers) if model.numbers else None
    if all_numbers is not None:
        mean, spread = all_numbers[learns].mean(0), all_numbers[learns].std(0)
        network.mean.copy_(mean)  # type: ignore[operator]
        network.scale.copy_(spread.clamp_min(1e-3))  # type: ignore[operator]
    loss_of = torch.nn.BCEWithLogitsLoss()

    def logits(part: Any, augment: bool = False) -> Any:
        some_images = None if all_images is None else all_images[part]
        if augment and some_images is not None:
            some_images = augmented(some_images, generator)
        return network(some_images, None if all_numbers is None else all_numbers[part])

    def loss(batch: Any) -> Any:
        return loss_of(logits(batch, augment=True), target[batch])

    fit(network, loss, learns, config, generator, progress)
    with torch.no_grad():
        parts = torch.arange(len(of)).split(256)
        scores = torch.cat([torch.sigmoid(logits(part)) for part in parts]).numpy()
    tried = [scores[of == number] for number in np.flatnonzero(held)]
    early = scores[held[of] & (target.numpy() < _NEARLY)]
    last = np.array([of_one[-1] for of_one in tried])
    threshold = _threshold(early, last, config.false_positives)
    about = {
        "store": str(view.reader.path), "episodes": len(episodes), "held_out": int(held.sum()),
        "observations": len(of), "order": float(np.mean([order_of(of_one) for of_one in tried])),
        "left_out": left_out, "stages": [round(share, 3) for share in shares],
        "recall": float((last >= threshold).mean()),
        "false_positives": float((early >= threshold).mean()) if len(early) else 0.0,
    }  # fmt: skip
    threshold = float(np.clip(threshold, 1e-3, 0.999))
    return replace(model, threshold=threshold, trained_on=about), network, about


def _courses(
    view: EditedEpisodes, config: ProgressTrainConfig
) -> tuple[list[EditedEpisode], list[Array | None], list[float], int]:
    """The successes of a store that are learned from, and their progress; raises ConfigError for too few.

    Returns:
        The episodes; of each its progress, (T,), None where it is in step with time; the share of the way
        of each stage; and how many successes were left out, for they have other stages than most.
    """
    episodes = [e for e in labelled(view) if e.outcome.success]
    courses: list[Array | None] = [None] * len(episodes)
    shares, left_out = [1.0], 0
    if config.stages and episodes:
        signals = [_signals(view, episode, config.stages) for episode in episodes]
        found, shares = progress_by_stages(signals, config.stage_steps)
        episodes = [e for e, course in zip(episodes, found, strict=True) if course is not None]
        courses = [course for course in found if course is not None]
        left_out = len(found) - len(courses)
    if len(episodes) < 4:
        raise ConfigError(
            "successful episodes",
            got=f"{len(episodes)}" + (f", {left_out} more have other stages" if left_out else ""),
            expected="4 or more",
            hint="user demos record; user episodes relabel",
        )  # fmt: skip
    return episodes, courses, shares, left_out


def _threshold(early: Array, last: Array, false_positives: float) -> float:
    """From which score on an observation counts as the end of the task.

    Above all but a share of the scores of observations well before the end, ``early``; and from there half of
    the way to what nine of ten last observations reach, of those in ``last`` that are above at all.
    """
    allowed = int(false_positives * len(early))
    floor = float(np.sort(early)[::-1][allowed]) if len(early) > allowed else 0.0
    reached = last[last > floor]
    if not len(reached):
        return floor + 1e-3
    return (floor + float(np.quantile(reached, 0.1))) / 2


def _signals(view: EditedEpisodes, episode: EditedEpisode, names: Sequence[str]) -> Array:
    """The numbers that tell stages, of every row of an episode, (T, S). Raises ConfigError."""
    columns, found = view.read(episode), []
    for name in names:
        array, _, index = name.partition("[")
        rows = columns.get(array if array == "action" else OBSERVATION + array)
        known = sorted(n.removeprefix(OBSERVATION) for n in columns if n.startswith(OBSERVATION))
        if rows is None or rows.dtype == np.uint8:
            raise ConfigError("stages", got=name, expected=f"numbers: action, or some of {known}")
        flat = rows.reshape(len(rows), -1)
        element = index.rstrip("]") if index else "0"
        if (
            not element.isdigit()
            or int(element) >= flat.shape[1]
            or not (index or flat.shape[1] == 1)
        ):
            raise ConfigError(
                "stages", got=name, expected=f"one element of {flat.shape[1]}, as {array}[0]"
            )
        found.append(flat[:, int(element)].astype(np.float64))
    return np.stack(found, 1)


def progress_by_stages(
    signals: Sequence[Array], steps: int
) -> tuple[list[Array | None], list[float]]:
    """Progress of each row, with time counted within stages.

    Args:
        signals: Numbers that jump where a stage begins, of each episode, (T, S).
        steps: Rows for which one stays on the other side of the middle of its range before it counts.

    Returns:
        Of each episode (T,), 0 to 1; None for one that has more or fewer stages than most. And the share of the way of
        each stage: its mean share of the rows of an episode.
    """
    every = np.concatenate(signals)
    middle = (every.min(0) + every.max(0)) / 2
    begins = [_begins(one > middle, steps) for one in signals]
    counts = [len(one) for one in begins]
    usual = int(np.bincount(counts).argmax())
    kept = [
        (one, len(rows)) for one, rows in zip(begins, signals, strict=True) if len(one) == usual
    ]
    lengths = [np.diff([*one, rows]) / rows for one, rows in kept]
    shares = np.mean(lengths, axis=0)
    before = np.concatenate([[0.0], np.cumsum(shares)])
    courses: list[Array | None] = []
    for one, rows in zip(begins, signals, strict=True):
        if len(one) != usual:
            courses.append(None)
            continue
        # the last row has arrived; all others are on the way to the next stage
        known = [*one, max(len(rows) - 1, one[-1] + 1)]
        courses.append(np.interp(np.arange(len(rows)), known, before).clip(0, 1))
    return courses, shares.tolist()


def _begins(side: Array, steps: int) -> list[int]:
    """The rows at which stages begin, the first of them 0; ``side`` says where each number is, (T, S) bool."""
    found, now = [0], side[0]
    for row in range(1, len(side) - steps + 1):
        turned = (side[row : row + steps] != now).all(0)
        if turned.any():
            now = now ^ turned
            found.append(row)
    return found


def order_of(scores: Array) -> float:
    """How well scores rise over an episode: the rank correlation with time (Spearman), -1 to 1."""
    if len(scores) < 2 or np.ptp(scores) == 0:
        return 0.0
    ranks = np.argsort(np.argsort(scores))
    return float(np.corrcoef(ranks, np.arange(len(scores)))[0, 1])


@dataclass(frozen=True)
class ProgressJudged:
    """What a model says of the labelled episodes of a store.

    Attributes:
        solved: What the label of each episode says, (E,) bool.
        found: Whether the model, as it is configured, calls it a success, (E,) bool.
        order: Rank correlation with time of each, (E,).
        courses: Progress of every observation, by episode.
    """

    solved: Array
    found: Array
    order: Array
    courses: tuple[Array, ...]

    @property
    def precision(self) -> float:
        """Of the episodes that were called a success; 1 when there is none."""
        return precision_and_recall(self.found, self.solved)[0]

    @property
    def recall(self) -> float:
        """Of the episodes that are one."""
        return precision_and_recall(self.found, self.solved)[1]


def judge_progress(
    view: EditedEpisodes,
    reward: ProgressReward,
    episodes: Sequence[EditedEpisode],
    progress: Callable[[int, int], None] | None = None,
) -> ProgressJudged:
    """Try a model on labelled episodes. Raises SpecError where they show other things."""
    courses, found = [], []
    threshold = reward.config.threshold or reward.model.threshold
    for done, episode in enumerate(episodes):
        if progress:
            progress(done, len(episodes))
        seen, rows = _model_inputs(view, episode, reward.model)
        parts = [
            reward.progress({n: a[start : start + 256] for n, a in seen.items()})
            for start in range(0, rows, 256)
        ]
        course = np.concatenate(parts)
        courses.append(course)
        found.append(best_run(course[1:], reward.config.frames)[0] >= threshold)
    return ProgressJudged(
        np.array([bool(e.outcome.success) for e in episodes]), np.array(found, bool),
        np.array([order_of(course) for course in courses]), tuple(courses),
    )  # fmt: skip


def draw_courses(judged: ProgressJudged, threshold: float, path: Path) -> None:
    """Progress over the time of each episode, successes and others apart, as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    kinds = ((True, "tab:green", "successes"), (False, "tab:red", "others"))
    for axis, (solved, colour, name) in zip(figure.subplots(1, 2, sharey=True), kinds, strict=True):
        for course, label in zip(judged.courses, judged.solved, strict=True):
            if label == solved:
                axis.plot(course, color=colour, alpha=0.35, lw=1)
        axis.axhline(threshold, color="black", ls=":", lw=1)
        axis.set(xlabel=f"step ({name})", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
        if solved:
            axis.set_ylabel("progress")
    figure.savefig(path, dpi=110)


def _model_inputs(
    view: EditedEpisodes, episode: EditedEpisode, model: ProgressModel
) -> tuple[Mapping[str, Array], int]:
    """What a model looks at in an episode, the final observation included, and how many rows."""
    columns = view.read(episode)
    names = [*model.cameras, *model.numbers]
    arrays = {n: columns[OBSERVATION + n] for n in names if OBSERVATION + n in columns}
    return arrays, len(columns["reward"])
