"""The report of ``user data check``: a page with pictures, and the same as JSON. Nothing is changed."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from user_core.command_line import many
from user_core.errors import SuiteError
from user_core.runtime.files import write_atomically
from user_core.specs import Array
from user_core.types import OBSERVATION, EpisodeKey
from user_learner.edits.listing import Listed
from user_learner.quality.findings import KINDS, Finding, judge
from user_learner.quality.statistics import EpisodeStatistics, numbers_of, rows_of
from user_learner.replay.reader import EpisodeInfo, StoreReader

#: Findings of a kind that are shown with a picture, the largest first.
_PICTURES = 3
_LISTED = 200
_WIDTH, _HEIGHT, _FRAMES = 720, 150, 6
_INK, _PAPER, _GRID, _MARK = (40, 40, 40), (255, 255, 255), (225, 225, 225), (200, 40, 40)
_LINES = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (148, 103, 189),
    (140, 86, 75),
    (23, 190, 207),
)


@dataclass
class QualityReport:
    """What was found in a store.

    Attributes:
        store: Its directory.
        episodes: Episodes that were looked at.
        findings: What a person should look at.
        skipped: Episodes that could not be read, and why.
        numbers: Number of each episode, as `user episodes` shows it.
    """

    store: str
    episodes: int
    findings: list[Finding]
    skipped: list[str] = field(default_factory=list)
    numbers: dict[EpisodeKey, int] = field(default_factory=dict)

    @property
    def counts(self) -> Counter[str]:
        """Findings by kind."""
        return Counter(finding.kind for finding in self.findings)

    def of_kind(self, kind: str) -> list[Finding]:
        """Those of a kind, the largest first."""
        return sorted((f for f in self.findings if f.kind == kind), key=lambda f: -f.size)


def examine(
    listed: Sequence[Listed],
    statistics: dict[EpisodeKey, EpisodeStatistics],
    store: str | Path,
    skipped: Sequence[str] = (),
) -> QualityReport:
    """Judge episodes from what was measured of them."""
    outcomes = {item.episode.key: item.episode.outcome for item in listed}
    mine = {key: one for key, one in statistics.items() if key in outcomes}
    numbers = {item.episode.key: item.number for item in listed}
    return QualityReport(str(store), len(mine), judge(mine, outcomes), list(skipped), numbers)


def write_json(report: QualityReport, path: Path) -> None:
    """The findings for programs."""
    found = [
        {
            "kind": f.kind, "episode": str(f.episode), "number": report.numbers.get(f.episode),
            "text": f.text, "size": f.size, "step": f.step, "other": str(f.other) if f.other else None,
        }
        for f in report.findings
    ]  # fmt: skip
    data = {"store": report.store, "episodes": report.episodes, "findings": found}
    write_atomically(path, json.dumps(data, indent=1), durable=False)


def write_page(
    report: QualityReport, reader: StoreReader, listed: Sequence[Listed], folder: Path
) -> Path:
    """Write ``index.html`` and its pictures into a folder; return the page. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    infos = {item.episode.key: item.episode.info for item in listed}
    parts = [
        "<!doctype html><meta charset=utf-8><title>Data check</title><style>body{font:15px/1.5 "
        "sans-serif;max-width:60em;margin:2em auto;padding:0 1em}img{max-width:100%;border:1px solid "
        "#ccc}td,th{padding:.1em 1em .1em 0;text-align:left}code{background:#eee}</style>",
        f"<h1>{html.escape(report.store)}</h1><p>{many(report.episodes, 'episode')} looked at, "
        f"{many(len(report.findings), 'finding')}. Nothing was changed.</p><table>",
    ]
    counts = report.counts
    for kind, meaning in KINDS.items():
        if counts[kind]:
            parts.append(
                f"<tr><td><a href='#{kind}'>{kind}</a><td>{counts[kind]:,}<td>{html.escape(meaning)}"
            )
    parts.append("</table>")
    for kind, meaning in KINDS.items():
        found = report.of_kind(kind)
        if not found:
            continue
        numbers = [str(report.numbers.get(f.episode, "?")) for f in found]
        parts.append(f"<h2 id='{kind}'>{kind}: {html.escape(meaning)}</h2>")
        for n, finding in enumerate(found[:_PICTURES]):
            about = f"episode {numbers[n]} ({finding.episode}): {finding.text}"
            parts.append(f"<p>{html.escape(about)}</p>")
            info = infos.get(finding.episode)
            try:
                if info is not None:
                    name = f"{kind}_{n}.png"
                    draw(reader, info, finding).save(folder / name, compress_level=1)
                    parts.append(f"<img src='{name}' alt='{html.escape(about)}'>")
            except (SuiteError, KeyError) as error:
                parts.append(f"<p>(no picture: {html.escape(str(error))})</p>")
        parts.append("<details><summary>all</summary><table>")
        for number, finding in list(zip(numbers, found))[:_LISTED]:
            parts.append(
                f"<tr><td>{number}<td>{html.escape(str(finding.episode))}<td>{html.escape(finding.text)}"
            )
        parts.append("</table></details>")
        words = " ".join(dict.fromkeys(numbers[:20]))
        command = f"user episodes exclude {report.store} {words} --reason {kind}"
        parts.append(f"<p>To leave them out: <code>{html.escape(command)}</code></p>")
    page = folder / "index.html"
    write_atomically(page, "\n".join(parts), durable=False)
    return page


def draw(reader: StoreReader, episode: EpisodeInfo, finding: Finding) -> Image.Image:
    """An episode: images along it, numbers that were observed, actions, and the time between rows."""
    columns = numbers_of(reader, episode)
    step = ~columns["final"]
    observed = [
        array.reshape(len(array), -1).astype(np.float64)
        for name, array in columns.items()
        if name.startswith(OBSERVATION) and array.dtype.kind in "fiu"
    ]
    panels: list[Image.Image] = [_strip(images) for images in _images(reader, episode)]
    if observed:
        panels.append(
            _plot(
                "observations, each in its own range",
                _scaled(np.concatenate(observed, 1)),
                finding.step,
            )
        )
    action = columns["action"][step].reshape(int(step.sum()), -1).astype(np.float64)
    panels.append(_plot("actions", action, finding.step))
    between = np.diff(columns["stamp_ns"].astype(np.int64)) * 1e-6
    panels.append(_plot("ms between observations", between[:, None], finding.step))
    sheet = Image.new("RGB", (_WIDTH, sum(p.height for p in panels) + 4 * len(panels)), _PAPER)
    at = 0
    for panel in panels:
        sheet.paste(panel, (0, at))
        at += panel.height + 4
    return sheet


def _scaled(values: Array) -> Array:
    low, span = values.min(0), np.ptp(values, axis=0)
    return np.where(span > 1e-9, (values - low) / np.maximum(span, 1e-9), 0.5)


def _images(reader: StoreReader, episode: EpisodeInfo) -> list[list[Array]]:
    """Images along the episode, of each camera."""
    found = []
    for file in reader.layout.files:
        spec = reader.layout.schema.columns.get(file.name)
        if spec is None or spec.dtype != "uint8" or len(spec.shape) != 3:
            continue
        images = []
        for first in np.linspace(0, episode.rows - 1, _FRAMES).astype(int):
            images += [
                reader.layout.view(file, raw)[file.name]
                for raw in rows_of(reader, episode, file.name, int(first), 1)
            ]
        if images:
            found.append(images)
    return found


def _strip(images: list[Array]) -> Image.Image:
    width = _WIDTH // _FRAMES
    strip = Image.new("RGB", (_WIDTH, width), _PAPER)
    for n, image in enumerate(images):
        rgb = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
        strip.paste(Image.fromarray(rgb).resize((width - 2, width - 2)), (n * width, 0))
    return strip


def _plot(title: str, values: Array, mark: int) -> Image.Image:
    """Lines (n, k) over steps."""
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    pen = ImageDraw.Draw(picture)
    left, top, right, bottom = 60, 18, _WIDTH - 6, _HEIGHT - 6
    pen.text((4, 2), title, _INK)
    if not values.size:
        return picture
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    span = high - low or 1.0
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        pen.line((left, y, right, y), _GRID)
        pen.text((4, y - 6), f"{low + share * span:.3g}", _INK)
    x = left + np.arange(len(values)) * (right - left) / max(1, len(values) - 1)
    if mark >= 0:
        at = left + mark * (right - left) / max(1, len(values) - 1)
        pen.line((at, top, at, bottom), _MARK, 2)
    for n in range(min(values.shape[1], 24)):
        height = bottom - (values[:, n] - low) / span * (bottom - top)
        pen.line([(float(a), float(b)) for a, b in zip(x, height)], _LINES[n % len(_LINES)], 1)
    return picture
