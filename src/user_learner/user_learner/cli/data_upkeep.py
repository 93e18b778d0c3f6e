"""``user data backup``, ``restore``, ``retain``, ``compress`` and ``tier``: what keeps a store for weeks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from user_core.command_line import many
from user_core.errors import SuiteError
from user_learner.cli.running import list_lines, progress
from user_learner.replay.config import CompressionConfig, RetentionConfig, StoreConfig
from user_learner.replay.segments import SEGMENTS
from user_learner.replay.writer import StoreWriter
from user_learner.upkeep.backup import backup, restore
from user_learner.upkeep.compression import compress, decompress
from user_learner.upkeep.retention import retain
from user_learner.upkeep.tiering import bring_back, move_old

_MB = 2**20


def add_upkeep(commands: Any) -> None:
    """Add the commands."""
    save = commands.add_parser(
        "backup", help="copy a store, or what came since, while it is in use"
    )
    save.add_argument("store", help="directory of the store")
    save.add_argument("to", help="directory of the backup, which is a store itself")
    save.set_defaults(run=_backup)

    load = commands.add_parser("restore", help="make a store of a backup, and verify it")
    load.add_argument("backup", help="directory of the backup")
    load.add_argument("store", help="directory that is not there")
    load.set_defaults(run=_restore)

    keep = commands.add_parser(
        "retain", help="drop old episodes by a rule, of a store that nobody writes to"
    )
    keep.add_argument("store", help="directory of the store")
    keep.add_argument("--max-mb", type=float, default=0.0, help="megabytes of rows to keep")
    keep.add_argument("--max-rows", type=int, default=0, help="rows to keep")
    names = get_args(get_args(RetentionConfig.model_fields["keep"].annotation)[0])
    keep.add_argument(
        "--keep", action="append", default=[], choices=names,
        help="old episodes that stay, beside demonstrations",
    )  # fmt: skip
    keep.add_argument(
        "--thin",
        type=int,
        default=0,
        help="of the others one in this many stays, always the same ones",
    )
    keep.set_defaults(run=_retain)

    small = commands.add_parser(
        "compress", help="compress images of full segments, while the store is in use"
    )
    small.add_argument("store", help="directory of the store")
    small.add_argument(
        "--images", default="zstd",
        help="zstd (without loss, the default), or jpegQ or webpQ with the loss of quality Q",
    )  # fmt: skip
    small.add_argument(
        "--camera", action="append", default=[], metavar="NAME=CODING",
        help="another coding for one observation, raw for none; again for each",
    )  # fmt: skip
    small.add_argument(
        "--raw-mb",
        type=float,
        default=0.0,
        help="megabytes of the newest rows that stay as they are",
    )
    small.add_argument("--undo", action="store_true", help="make all plain again")
    small.set_defaults(run=_compress)

    move = commands.add_parser("tier", help="move old segments to a slower disk, or to a bucket")
    move.add_argument("store", help="directory of the store")
    move.add_argument(
        "to", nargs="?", default="", help="directory on the slower disk, or s3://BUCKET/PREFIX"
    )
    move.add_argument("--keep-mb", type=float, default=10240.0, help="megabytes that stay here")
    move.add_argument(
        "--fetched-mb", type=float, default=4096.0,
        help="megabytes of segments in a bucket that may be here as well",
    )  # fmt: skip
    move.add_argument("--back", action="store_true", help="bring all segments back")
    move.set_defaults(run=_tier)


def _backup(options: argparse.Namespace, console: Console) -> int:
    with progress(console, "copying") as update:
        report = backup(options.store, options.to, update)
    console.print(
        f"{many(report.steps, 'row')} in {report.segments:,} segments are at {options.to}: "
        f"{report.nbytes / _MB:,.1f} MB of {report.copied:,} segments were copied, "
        f"{report.removed:,} removed"
    )
    return 0


def _restore(options: argparse.Namespace, console: Console) -> int:
    with progress(console, "copying") as update:
        report = restore(options.backup, options.store, update)
    console.print(
        f"{many(report.rows, 'row')}, {many(report.episodes, 'episode')} are at {options.store}"
    )
    list_lines(console, "broken", report.errors, "red")
    list_lines(console, "note", report.warnings, "yellow")
    return 0 if report.ok else 1


def _retain(options: argparse.Namespace, console: Console) -> int:
    policy = RetentionConfig(
        max_bytes=round(options.max_mb * _MB), max_rows=options.max_rows,
        keep=tuple(options.keep), thin=options.thin,
    )  # fmt: skip
    if policy.keeps_all:
        raise SuiteError(
            "retention", got="no limit", expected="--max-mb or --max-rows",
            hint="--keep and --thin say which episodes stay, not how many",
        )  # fmt: skip
    if not (Path(options.store) / SEGMENTS).is_dir():  # to open one for writing would make it
        raise SuiteError(f"store {options.store}", got="none", expected="the directory of a store")
    with StoreWriter(options.store, config=StoreConfig()) as writer:
        gone = retain(writer, policy)
    rows = sum(one.rows for one in gone)
    console.print(f"{many(rows, 'row')} of {len(gone):,} segments were dropped")
    return 0


def _compress(options: argparse.Namespace, console: Console) -> int:
    cameras = dict(text.partition("=")[::2] for text in options.camera)
    with progress(console, "making plain" if options.undo else "compressing") as update:
        if options.undo:
            report = decompress(options.store, update)
        else:
            config = CompressionConfig(
                images=options.images, cameras=cameras, raw_bytes=round(options.raw_mb * _MB)
            )
            report = compress(options.store, config, progress=update)
    if not report.raw_nbytes:
        console.print("nothing to do: no full segment has a plain column that may be compressed"
                      if not options.undo else "nothing is compressed")  # fmt: skip
    else:
        share = report.nbytes / report.raw_nbytes
        console.print(
            f"{report.segments:,} segments: {report.raw_nbytes / _MB:,.1f} MB plain, "
            f"{report.nbytes / _MB:,.1f} MB compressed ({share:.3f})"
        )
    for name, worst_db in report.psnr_db.items():
        console.print(f"{name}: PSNR of the worst image {worst_db} dB")
    list_lines(console, "note", report.notes, "yellow")
    return 0


def _tier(options: argparse.Namespace, console: Console) -> int:
    if options.back:
        report = bring_back(options.store)
    elif options.to:
        report = move_old(
            options.store, options.to, round(options.keep_mb * _MB),
            fetched_bytes=round(options.fetched_mb * _MB),
        )  # fmt: skip
    else:
        raise SuiteError(
            "tier",
            got="no directory",
            expected="one on another disk, s3://BUCKET/PREFIX, or --back",
        )
    console.print(
        f"{report.moved:,} segments, {report.nbytes / _MB:,.1f} MB moved; {report.here:,} are here, "
        f"{report.there:,} elsewhere"
    )
    return 0
