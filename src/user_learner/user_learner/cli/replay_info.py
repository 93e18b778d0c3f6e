"""``user replay info``: what a store holds, for people."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from user_core.types import EpisodeSource, Outcome
from user_learner.replay.reader import EpisodeInfo, StoreReader


def show(store: str | Path, last_episodes: int, console: Console) -> None:
    """Print what a store holds. Raises StoreError when there is none."""
    reader = StoreReader(store)
    try:
        _show_store(reader, console)
        episodes = list(reader.episodes())
        _show_sources(reader, episodes, console)
        _show_producers(reader, console)
        _show_columns(reader, console)
        if last_episodes:
            _show_episodes(episodes[-last_episodes:], console)
        for damage in reader.tables.damages:
            text = escape(f"segment {damage.segment}: {damage.reason}")
            console.print(f"[yellow]set aside:[/] {text}", soft_wrap=True)
    finally:
        reader.close()


def _show_store(reader: StoreReader, console: Console) -> None:
    used = sum(p.stat().st_blocks * 512 for p in reader.path.rglob("*") if p.is_file())
    retired = reader.connection.execute(
        "SELECT count(*), coalesce(sum(rows), 0) FROM retired"
    ).fetchone()
    table = Table(show_header=False, title=str(reader.path))
    table.add_row("identity", reader.meta.store)
    table.add_row("schema", reader.schema.hash if reader.schema else "none yet")
    table.add_row("on disk", f"{used / 2**20:,.1f} MiB")
    table.add_row(
        "segments", f"{len(reader.tables.segments):,}, of {reader.meta.segment_rows:,} rows"
    )
    table.add_row("commits", f"{reader.meta.commit_id:,}")
    table.add_row("retired", f"{retired[0]:,} segments, {retired[1]:,} rows")
    console.print(table)


def _show_sources(reader: StoreReader, episodes: list[EpisodeInfo], console: Console) -> None:
    rows: Counter[int] = Counter()
    for _, source, count in reader.tables.segments.tolist():
        rows[source] += count
    table = Table("source", "episodes", "rows", "steps ever", "success", "interventions")
    for source in EpisodeSource:
        mine = [episode for episode in episodes if episode.source == source]
        results = [episode.result for episode in mine if episode.result is not None]
        solved = sum(result.outcome == Outcome.SUCCESS for result in results)
        table.add_row(
            source.name.lower(),
            f"{len(mine):,}",
            f"{rows[source]:,}",
            f"{reader.meta.steps.get(int(source), 0):,}",
            f"{solved:,} of {len(results):,}",
            f"{sum(result.interventions for result in results):,}",
        )
    console.print(table)


def _show_producers(reader: StoreReader, console: Console) -> None:
    table = Table("producer", "incarnation", "chunks up to", "left out")
    for row in reader.connection.execute(
        "SELECT producer, incarnation, sequence, skipped FROM producers"
    ):
        table.add_row(row[0], str(row[1]), f"{row[2]:,}", f"{row[3]:,}")
    if table.row_count:
        console.print(table)


def _show_columns(reader: StoreReader, console: Console) -> None:
    if reader.schema is None:
        return
    table = Table("column", "type", "bytes a row", "unit", "frame")
    for name, spec in reader.schema.columns.items():
        kind = f"{spec.dtype}{list(spec.shape)}"
        table.add_row(name, kind, f"{spec.nbytes:,}", spec.unit, spec.frame)
    console.print(table)


def _show_episodes(episodes: list[EpisodeInfo], console: Console) -> None:
    table = Table("episode", "source", "robot", "task", "rows", "outcome", "return")
    for episode in episodes:
        result = episode.result
        table.add_row(
            str(episode.key),
            episode.source.name.lower(),
            episode.robot,
            episode.task,
            f"{episode.rows - episode.gaps:,}",
            result.outcome.name.lower() if result else "",
            f"{result.episode_return:.3f}" if result else "",
        )
    console.print(table)
