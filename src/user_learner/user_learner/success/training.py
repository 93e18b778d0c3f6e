"""Training a classifier of success from labelled episodes.

An episode that was a success shows it in its last frames (where a person pressed the key, or the task
said so), and not in those well before. All frames of a failure show none. Frames in between are left
out: nobody knows.

The threshold is chosen on whole episodes, since what counts is how many of these are called what they are not. There
are few, so each of them is kept out once: the episodes are dealt into parts, and each part is judged by a network that
learned from the others (cross-validation). Of few episodes a share is known badly; so it counts as after one more
mistake (Laplace's rule of succession), for precision and for recall.

These networks are also the judge, by the mean of their logits (a committee of cross-validation: Krogh and Vedelsby
1995, "Neural network ensembles, cross validation, and active learning"; scikit-learn's ``CalibratedClassifierCV`` with
``ensemble=True`` keeps such copies, too). A further network, which learned from all episodes, need not agree with what
was asked of others: where a success comes about within a few frames, one network sees it a frame before another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.rewards.classifier import (
    MOST_NETWORKS,
    ClassifierModel,
    image_input,
    make_network,
    mean_of,
    score_frames,
)
from user_core.specs import Array
from user_core.types import OBSERVATION, EpisodeKey
from user_learner.edits.view import EditedEpisode, EditedEpisodes
from user_learner.success.evaluation import best_run, scores_of

#: Logits of scores are within this on both sides.
_LEAST_LOGIT = -12.0
#: How far a threshold goes from a score of 0.5 to what successes usually have, in logits. With it fifteen trainings had
#: a precision of 0.97 or more and a recall of 0.98 or more, on episodes that they had not seen
#: (docs/measurements/rewards.md).
_TOWARDS_SUCCESSES = 0.4


class TrainConfig(Config):
    """How a classifier is trained."""

    cameras: tuple[str, ...] = setting((), doc="Observations to look at; empty: all images.")
    size: int = setting(64, doc="Side that images are reduced to.", unit="pixels", ge=32, le=256)
    last_frames: int = setting(3, doc="Frames at the end of a success that show it.", ge=1)
    margin: int = setting(5, doc="Frames before them that are left out.", ge=0)
    frames_per_episode: int = setting(40, doc="Frames without success, at most.", ge=1)
    epochs: int = setting(40, doc="Passes over the frames.", ge=1)
    batch: int = setting(64, doc="Frames of an update.", ge=2)
    learning_rate: float = setting(1e-3, doc="Of Adam.", gt=0)
    parts: int = setting(
        4,
        doc="Parts of the episodes, each of which is judged by a network that learned from the others, to choose the threshold. "
        "These networks judge together afterwards: each takes its time in every step.",
        ge=2,
        le=MOST_NETWORKS,
    )
    precision: float = setting(
        0.95, doc="Share of right ones among episodes that are called a success.", gt=0, lt=1
    )
    recall: float = setting(0.9, doc="Share of the successes that are called one.", gt=0, lt=1)
    frames: int = setting(
        2, doc="Frames in a row that make a success, as the reward is configured.", ge=1
    )
    hysteresis: float = setting(
        0.1, doc="How much lower all but the first of them may score, likewise.", ge=0, le=1
    )
    seed: int = setting(0, doc="Of everything random.", ge=0)


@dataclass(frozen=True)
class Frames:
    """Frames of labelled episodes, reduced.

    Attributes:
        images: (N, C, size, size) float32, -1 to 1.
        success: Whether a frame shows a success, (N,) float32.
        episode: Which episode each is from, (N,).
        row: Row in the episode, (N,).
        keys: The episodes.
        solved: Which of them are successes, (E,) bool.
    """

    images: Any
    success: Array
    episode: Array
    row: Array
    keys: tuple[EpisodeKey, ...]
    solved: Array


def labelled(view: EditedEpisodes) -> list[EditedEpisode]:
    """Episodes of which it is known whether they were solved, and that have rows."""
    return [e for e in view.episodes() if e.outcome.success is not None and e.info.extents]


def cameras_of(view: EditedEpisodes, wanted: Sequence[str] = ()) -> dict[str, tuple[int, ...]]:
    """Images that a store has, by name of the observation. Raises ConfigError."""
    columns = view.reader.layout.schema.columns
    found = {
        name[len(OBSERVATION) :]: tuple(spec.shape)
        for name, spec in columns.items()
        if name.startswith(OBSERVATION) and spec.dtype == "uint8" and len(spec.shape) == 3
    }
    if not found:
        seen = sorted(n.removeprefix(OBSERVATION) for n in columns if n.startswith(OBSERVATION))
        raise ConfigError(
            "images of the store", got=f"none, but {seen}", expected="an image of a camera, uint8[h, w, 3]",
            hint="Record episodes with cameras; or learn progress from numbers: user reward train --kind progress",
        )  # fmt: skip
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ConfigError(
            "cameras", got=missing, expected=f"some of {sorted(found)}, which the store has"
        )
    return {name: found[name] for name in wanted or found}


def frames_of(
    view: EditedEpisodes, model: ClassifierModel, config: TrainConfig, episodes: list[EditedEpisode]
) -> Frames:
    """Take frames out of episodes. Raises ConfigError where labels are of one class only."""
    import torch

    solved = np.array([bool(e.outcome.success) for e in episodes])
    if not solved.any() or solved.all():
        raise ConfigError(
            "labels of the episodes",
            got=f"{int(solved.sum())} successes, {int((~solved).sum())} failures",
            expected="some of both",
            hint="Record failures too, or label episodes: user episodes relabel",
        )
    rng = np.random.default_rng(config.seed)
    images, success, which, rows = [], [], [], []
    for number, episode in enumerate(episodes):
        columns = view.read(episode)
        count = len(columns["reward"])
        first = count - config.last_frames if solved[number] else count
        without = np.arange(max(0, first - (config.margin if solved[number] else 0)))
        if len(without) > config.frames_per_episode:
            late = without[-config.frames_per_episode // 4 :]  # what nearly is one teaches the most
            rest = rng.choice(
                without[: -len(late)], config.frames_per_episode - len(late), replace=False
            )
            without = np.sort(np.concatenate([rest, late]))
        chosen = np.concatenate([without, np.arange(max(first, 0), count)])
        arrays = {name: columns[OBSERVATION + name][chosen] for name in model.cameras}
        images.append(image_input(model, arrays))
        success.append((chosen >= first).astype(np.float32))
        which.append(np.full(len(chosen), number))
        rows.append(chosen)
    return Frames(
        torch.cat(images), np.concatenate(success), np.concatenate(which), np.concatenate(rows),
        tuple(e.key for e in episodes), solved,
    )  # fmt: skip


def train(
    view: EditedEpisodes,
    config: TrainConfig,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ClassifierModel, Any, dict[str, Any]]:
    """Train on the labelled episodes of a store; return the model, its network, and how it went.

    Raises ConfigError: no images, too few labelled episodes, or labels of one class only.
    """
    model = ClassifierModel(cameras_of(view, config.cameras), config.size)
    episodes = labelled(view)
    if len(episodes) < 8:
        raise ConfigError("labelled episodes", got=len(episodes), expected="8 or more")
    frames, parts = frames_of(view, model, config, episodes), config.parts
    part_of = _dealt(frames.solved, config)
    networks, scores = list[Any](), np.zeros(len(episodes))

    def told(part: int) -> Callable[[int, int], None] | None:
        if progress is None:
            return None
        return lambda done, of: progress(part * of + done, parts * of)

    for part in range(parts):
        networks.append(fitted(frames, part_of != part, model, config, told(part)))
        judge = partial(score_frames, model, networks[part])
        for number in np.flatnonzero(part_of == part):
            course = scores_of(view, model.cameras, judge, episodes[number])
            scores[number], _ = best_run(course, config.frames, config.hysteresis)
    chosen = choose_threshold(scores, frames.solved, config.precision, config.recall)
    about = {
        "store": str(view.reader.path), "episodes": len(episodes), "successes": int(frames.solved.sum()),
        "frames": len(frames.success), "precision": chosen.precision, "recall": chosen.recall,
        "is_reached": chosen.is_reached,
    }  # fmt: skip
    model = replace(model, threshold=chosen.threshold, trained_on=about, networks=parts)
    return model, mean_of(networks).eval(), about


def fitted(
    frames: Frames, chosen: Array, model: ClassifierModel, config: TrainConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Any:  # fmt: skip
    """A network that learned from the frames of those episodes, (E,) bool."""
    import torch

    learns = chosen[frames.episode]
    generator = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    network = make_network(model)
    images, targets = frames.images[learns], torch.from_numpy(frames.success[learns])
    weight = float((1 - targets).sum() / targets.sum().clamp(min=1))
    loss_of = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(min(weight, 20.0)))

    def loss(batch: Any) -> Any:
        return loss_of(network(augmented(images[batch], generator)), targets[batch])

    fit(network, loss, torch.arange(len(images)), config, generator, progress)
    return network


class Fitting(Protocol):
    """What the configuration of a training says of its updates."""

    @property
    def epochs(self) -> int: ...

    @property
    def batch(self) -> int: ...

    @property
    def learning_rate(self) -> float: ...


def fit(
    network: Any,
    loss_of: Callable[[Any], Any],
    rows: Any,
    config: Fitting,
    generator: Any,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train a network, which is in evaluation mode afterwards.

    Args:
        network: The module.
        loss_of: The loss of a batch, of the numbers of its rows.
        rows: Numbers of all rows to learn from, (N,).
        config: Passes, rows of a batch and learning rate.
        generator: Draws the order of the rows.
        progress: Called with passes done and in all.
    """
    import torch

    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=1e-2)
    network.train()
    for epoch in range(config.epochs):
        if progress:
            progress(epoch, config.epochs)
        order = rows[torch.randperm(len(rows), generator=generator)]
        for batch in order.split(config.batch):
            loss = loss_of(batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    network.eval()


@dataclass(frozen=True)
class Chosen:
    """A threshold, and what is to be expected of it.

    Attributes:
        threshold: Score from which an episode is a success.
        precision: Of the episodes that were judged, as they were called.
        recall: Likewise.
        is_reached: Whether both are what was asked, after one more mistake of each kind.
    """

    threshold: float
    precision: float
    recall: float
    is_reached: bool


def choose_threshold(scores: Array, solved: Array, precision: float, recall: float) -> Chosen:
    """From what a network that did not see them says of episodes, the score from which one is a success.

    It lies a share of the way from what the network is undecided about (a score of 0.5, since the loss weighs both
    classes alike) to what successes usually have, in logits. Of few episodes the worst ones, which decide precision and
    recall, differ much between two networks; what is usual does not. Where these episodes say that a part of the scores
    has the precision and the recall that are wanted, it lies there. Both shares count as after one more mistake
    (Laplace's rule of succession): n episodes of which k are right have (k + 1) / (n + 2).

    Args:
        scores: Of episodes, (E,), 0 to 1.
        solved: Which are successes, (E,) bool; some, and not all.
        precision: That is wanted.
        recall: That is wanted.
    """
    logits, there = _logits(scores), np.sort(_logits(scores[solved]))
    missed = max(0, int(np.floor(len(there) + 1 - recall * (len(there) + 2))))
    highest = there[min(missed, len(there) - 1)]
    without = logits[~solved]

    def precision_at(logit: float) -> float:
        found = (there >= logit).sum() / len(there) * solved.mean()
        wrong = ((without >= logit).sum() + 1) / (len(without) + 2) * (1 - solved.mean())
        return float(found / max(found + wrong, 1e-9))

    above = np.nextafter(np.sort(without), np.inf)  # just what each of those does not reach
    fits = [logit for logit in (_LEAST_LOGIT, *above) if precision_at(logit) >= precision]
    lowest = min(fits, default=float(above[-1]))
    logit = _TOWARDS_SUCCESSES * float(np.median(there))
    if lowest <= highest:
        logit = min(max(logit, lowest), highest)
    called = logits >= logit
    right = float((called & solved).sum())
    of_found = right / called.sum() if called.any() else 1.0
    has_recall = ((there >= logit).sum() + 1) / (len(there) + 2) >= recall
    reached = bool(has_recall and precision_at(logit) >= precision)
    return Chosen(_score(logit), float(of_found), right / len(there), reached)


def _logits(scores: Array) -> Array:
    """Of scores near 0 and 1, too: there networks differ by logits."""
    kept = np.clip(np.asarray(scores, np.float64), _score(_LEAST_LOGIT), _score(-_LEAST_LOGIT))
    found: Array = np.log(kept / (1 - kept))
    return found


def _score(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


def _dealt(solved: Array, config: TrainConfig) -> Array:
    """Which part each episode is in, (E,): of each class as many in each as can be."""
    rng, part_of = np.random.default_rng([config.seed, 1]), np.zeros(len(solved), int)
    for kind in (True, False):
        mine = np.flatnonzero(solved == kind)
        if len(mine) < 2:
            raise ConfigError(
                "labels of the episodes",
                got=f"{len(mine)} of one class",
                expected="2 or more of each",
            )
        part_of[rng.permutation(mine)] = np.arange(len(mine)) % config.parts
    return part_of


def augmented(images: Any, generator: Any) -> Any:
    """Shifted by up to an eighth, brighter or darker."""
    import torch

    pad = images.shape[-1] // 16
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad), mode="replicate")
    x, y = torch.randint(0, 2 * pad + 1, (2,), generator=generator).tolist()
    size = images.shape[-1]
    shifted = padded[..., y : y + size, x : x + size]
    gain = 1 + 0.3 * (torch.rand(len(images), 1, 1, 1, generator=generator) - 0.5)
    offset = 0.3 * (torch.rand(len(images), 1, 1, 1, generator=generator) - 0.5)
    return (shifted * gain + offset).clamp(-1, 1)
