"""Read a replay store with nothing of USER: SQLite, NumPy, and the rules of docs/reference/store_format.md.

    python examples/read_store.py STORE            # what it holds
    python examples/read_store.py STORE OUT        # each episode as OUT/NUMBER.npz

Compressed images need the package zstandard, those with loss Pillow. It only reads, and may run beside the process that
writes: it sees what was committed when it began.
"""

import argparse
import io
import json
import math
import pathlib
import sqlite3
import struct
import sys
import urllib.parse

import numpy as np

LARGE = 4096  # columns of so many bytes a row have a file of their own
OUTCOMES = ("unfinished", "success", "failure", "timeout", "aborted", "unknown")


def files_of(schema):
    """The column files of a segment: name, and the type of one row, whose fields are columns."""
    size = {name: np.dtype(s["dtype"]).itemsize for name, s in schema.items()}
    nbytes = {name: size[name] * math.prod(s["shape"]) for name, s in schema.items()}
    large = sorted(name for name in schema if nbytes[name] >= LARGE or name == "plan")
    small = sorted((n for n in schema if n not in large), key=lambda n: (-size[n], n))
    return [_file("records", small, schema, size, nbytes)] + [
        _file(name, [name], schema, size, nbytes) for name in large
    ]


def _file(name, columns, schema, size, nbytes):
    formats, offsets, end = [], [], 0
    for column in columns:
        base = np.dtype(schema[column]["dtype"]).newbyteorder("<")
        end += -end % size[column]  # aligned to its element
        formats.append((base, tuple(schema[column]["shape"])))
        offsets.append(end)
        end += nbytes[column]
    stride = max(64, end + -end % 64)
    row = {"names": columns, "formats": formats, "offsets": offsets, "itemsize": stride}
    return urllib.parse.quote(name, safe="") + ".col", np.dtype(row)


def packed_rows(path, start, count):
    """Rows of a compressed column."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 8)
    header = json.loads(data[12 : 12 + length])
    size, found = header["group_rows"], []
    for group in range(start // size, -(-(start + count) // size)):
        offset, nbytes, _ = struct.unpack_from("<QII", data, 12 + length + 16 * group)
        decode = _lossless if header["coding"] == "zstd" else _lossy
        found.append(decode(data[offset : offset + nbytes], header))
    return np.concatenate(found)[start % size :][:count]


def _lossless(group, header):
    import zstandard

    dtype = np.dtype(header["dtype"])
    left = zstandard.ZstdDecompressor().decompress(group[1:])
    rows = np.frombuffer(left, f"<u{dtype.itemsize}").reshape(-1, *header["shape"]).copy()
    prediction, green = group[0] & 7, group[0] & 8
    if prediction and rows.ndim > 2:
        lines = rows if prediction == 1 else rows[:1]  # from the line above
        lines[...] = np.cumsum(lines, axis=1, dtype=rows.dtype)
    if prediction == 2:  # from the row before
        rows = np.cumsum(rows, axis=0, dtype=rows.dtype)
    if green:
        rows[..., 0] += rows[..., 1]
        rows[..., 2] += rows[..., 1]
    return rows.view(dtype.newbyteorder("<"))


def _lossy(group, header):
    from PIL import Image

    found, at = [], 0
    while at < len(group):
        (nbytes,) = struct.unpack_from("<I", group, at)
        image = np.array(Image.open(io.BytesIO(group[at + 4 : at + 4 + nbytes])))
        found.append(image.reshape(image.shape[:2] + tuple(header["shape"][2:])))
        at += 4 + nbytes
    return np.stack(found)


class Store:
    """A store that is open for reading."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        if not (self.path / "index.sqlite").is_file():
            raise SystemExit(
                f"{path} is no replay store: it has no index.sqlite (that of a run is runs/NAME/replay)"
            )
        self.db = sqlite3.connect(f"file:{self.path / 'index.sqlite'}?mode=ro", uri=True)
        self.db.execute("BEGIN")  # one state of it, whatever is committed meanwhile
        self.meta = dict(self.db.execute("SELECT key, value FROM meta"))
        self.schema = json.loads(self.meta["schema"])
        self.files = files_of(self.schema)

    def episodes(self):
        """Each episode: its number in the index, identity, robot, task, and result or None."""
        for number, *key, source, robot, task, result in self.db.execute(
            "SELECT id, producer, incarnation, number, source, robot, task, result"
            " FROM episodes ORDER BY id"
        ):
            yield {
                "id": number, "key": tuple(key), "source": ("online", "demonstration", "evaluation")[source],
                "robot": robot, "task": task, "result": json.loads(result) if result else None,
            }  # fmt: skip

    def rows(self, episode):
        """The rows of an episode by column, in order; those that retention dropped are not there."""
        parts = []
        for segment, start, rows in self.db.execute(
            "SELECT segment, start, rows FROM extents WHERE episode = ? ORDER BY first_row",
            (episode,),
        ):
            folder = self.path / "segments" / f"{segment:08d}"
            part = {}
            for name, dtype in self.files:
                packed = folder / name.replace(".col", ".packed")
                if not (folder / name).exists() and packed.exists():
                    part[dtype.names[0]] = packed_rows(packed, start, rows)
                    continue
                with open(folder / name, "rb") as stream:
                    stream.seek(start * dtype.itemsize)
                    found = np.frombuffer(stream.read(rows * dtype.itemsize), dtype)
                part.update({column: found[column].copy() for column in dtype.names})
            parts.append(part)
        return (
            {name: np.concatenate([p[name] for p in parts]) for name in self.schema}
            if parts
            else {}
        )


def main(arguments):
    """Print what a store holds, or write its episodes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)  # noqa: TID251 - nothing of USER
    parser.add_argument("store", help="folder of the store, for instance runs/NAME/replay")
    parser.add_argument(
        "out", nargs="?", type=pathlib.Path, help="write each episode to OUT/NUMBER.npz"
    )
    given = parser.parse_args(arguments)
    store, out = Store(given.store), given.out
    for number, episode in enumerate(store.episodes()):
        rows = store.rows(episode["id"])
        steps = int((~rows["final"]).sum()) if rows else 0
        result = episode["result"]
        outcome = OUTCOMES[result["outcome"]] if result else "open"
        print(
            f"{number}: {episode['key']} {episode['robot']} {episode['task']} {steps} steps, {outcome}"
        )
        if out is not None and rows:
            out.mkdir(parents=True, exist_ok=True)
            np.savez(out / f"{number}.npz", **rows)


if __name__ == "__main__":
    main(sys.argv[1:])
