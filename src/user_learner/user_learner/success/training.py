"""Training a classifier of success from labelled episodes.

An episode that was a success shows it in its last frames (where a person pressed the key, or the task
said so), and not in those well before. All frames of a failure show none. Frames in between are left
out: nobody knows. The threshold is chosen on episodes that were kept out of training, so that at most
a given share of frames without success would be taken for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from user_core.config import Config, setting
from user_core.errors import ConfigError
from user_core.rewards.classifier import ClassifierModel, image_input, make_network
from user_core.specs import Array
from user_core.types import OBSERVATION, EpisodeKey
from user_learner.edits.view import EditedEpisode, EditedEpisodes


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
    held_out: float = setting(
        0.25, doc="Share of episodes that the threshold is chosen on.", gt=0, lt=1
    )
    false_positives: float = setting(
        0.005, doc="Share of frames without success that may be taken for one.", ge=0, lt=1
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
    import torch

    model = ClassifierModel(cameras_of(view, config.cameras), config.size)
    episodes = labelled(view)
    if len(episodes) < 8:
        raise ConfigError("labelled episodes", got=len(episodes), expected="8 or more")
    frames = frames_of(view, model, config, episodes)
    held = _held_out(frames.solved, config)
    learns = ~held[frames.episode]
    generator = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    network = make_network(model)
    images, targets = frames.images[learns], torch.from_numpy(frames.success[learns])
    weight = float((1 - targets).sum() / targets.sum().clamp(min=1))
    loss_of = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(min(weight, 20.0)))

    def loss(batch: Any) -> Any:
        return loss_of(network(augmented(images[batch], generator)), targets[batch])

    fit(network, loss, torch.arange(len(images)), config, generator, progress)
    with torch.no_grad():
        scores = torch.cat(
            [torch.sigmoid(network(part)) for part in frames.images.split(256)]
        ).numpy()
    threshold = choose_threshold(
        scores[~learns & (frames.success == 0)], scores[~learns & (frames.success == 1)],
        config.false_positives,
    )  # fmt: skip
    about = {
        "store": str(view.reader.path), "episodes": len(episodes), "successes": int(frames.solved.sum()),
        "held_out": int(held.sum()), "frames": len(frames.success),
        "recall_of_frames": float((scores[~learns & (frames.success == 1)] >= threshold).mean()),
        "false_positives_of_frames": float((scores[~learns & (frames.success == 0)] >= threshold).mean()),
    }  # fmt: skip
    return replace(model, threshold=threshold, trained_on=about), network, about


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


def choose_threshold(without: Array, with_success: Array, false_positives: float) -> float:
    """The score that at most a share of frames without success reach, and that is in the middle
    between those and the successes above it where there is room."""
    allowed = int(false_positives * len(without))
    highest = float(np.sort(without)[::-1][allowed]) if len(without) > allowed else 0.0
    above = with_success[with_success > highest]
    if not len(above):
        return min(highest + 1e-3, 1.0)
    # most successes may lie far above: a low one of them, not the lowest, says where they begin
    begin = float(np.quantile(above, 0.05))
    return float(np.clip((highest + begin) / 2, highest + 1e-6, 0.999))


def _held_out(solved: Array, config: TrainConfig) -> Array:
    """Which episodes the threshold is chosen on: a share of each class, at least one."""
    rng, held = np.random.default_rng([config.seed, 1]), np.zeros(len(solved), bool)
    for kind in (True, False):
        mine = np.flatnonzero(solved == kind)
        if len(mine) < 2:
            raise ConfigError(
                "labels of the episodes",
                got=f"{len(mine)} of one class",
                expected="2 or more of each",
            )
        held[rng.permutation(mine)[: max(1, round(config.held_out * len(mine)))]] = True
    return held


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
