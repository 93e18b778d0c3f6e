"""Sphinx extension: links of Markdown pages to files and folders of the repository work on the site.

A link to a page becomes a link to the built page (MyST does that). A link to any other file, a
module or a deployment, say, leads to a page that shows the file; one to a folder leads to a list of
its files. A link to what does not exist is a warning, and so an error of `make docs`.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform

_FOLDER = "source"
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".sh": "bash", ".bash": "bash"}
_SHOWN = {".py", ".yaml", ".md", ".msg", ".srv", ".toml", ".sh", ".bash", ".txt", ".xml"}
_LARGEST_BYTES = 300_000


class LinkToFiles(SphinxTransform):
    """Turns what MyST makes of a link to a file (a download) into a link to a page that shows it."""

    default_priority = 5  # before files for download are collected

    def apply(self, **_: Any) -> None:
        links = [*self.document.findall(addnodes.download_reference)]
        links += [node for node in self.document.findall(addnodes.pending_xref)
                  if node.get("reftype") == "myst"]  # fmt: skip
        for node in links:
            path = self._path(node["reftarget"])
            if path is None:
                continue
            _links(self.env).setdefault(self.env.docname, set()).add(path)
            uri = self.app.builder.get_relative_uri(self.env.docname, f"{_FOLDER}/{path}")
            link = nodes.reference("", "", *node.children, refuri=uri, internal=True)
            node.replace_self(link)

    def _path(self, target: str) -> str | None:
        """The path of an existing file or folder, relative to the repository; else None."""
        root = Path(self.env.srcdir).resolve()
        if target.startswith("/"):
            path = root / target.lstrip("/")
        else:
            path = Path(self.env.doc2path(self.env.docname)).parent / target
        path = path.resolve()
        if not target or "#" in target or not path.exists() or not path.is_relative_to(root):
            return None
        return path.relative_to(root).as_posix()


def _links(env: BuildEnvironment) -> dict[str, set[str]]:
    """The files and folders that each page links to; kept with the environment."""
    if not hasattr(env, "links_to_files"):
        env.links_to_files = {}  # type: ignore[attr-defined]
    return env.links_to_files  # type: ignore[attr-defined, no-any-return]


def _forget(_: Sphinx, env: BuildEnvironment, docname: str) -> None:
    _links(env).pop(docname, None)


def _pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """One page for each file and folder that is linked to, and for the files of such folders."""
    root = Path(app.srcdir)
    wanted = sorted({path for paths in _links(app.env).values() for path in paths})
    done = set()
    while wanted:
        path = wanted.pop()
        if path in done:
            continue
        done.add(path)
        if (root / path).is_dir():
            files = sorted(
                file for file in (root / path).rglob("*") if file.is_file() and file.suffix in _SHOWN
                and "__pycache__" not in file.parts
            )  # fmt: skip
            names = [file.relative_to(root).as_posix() for file in files]
            wanted += names
            body = _listing(app, path, names)
        else:
            body = _contents(app, root / path)
        title = html.escape(path)
        yield f"{_FOLDER}/{path}", {"title": title, "body": f"<h1>{title}</h1>{body}"}, "page.html"


def _listing(app: Sphinx, path: str, names: list[str]) -> str:
    lines = []
    for name in names:
        uri = app.builder.get_relative_uri(f"{_FOLDER}/{path}", f"{_FOLDER}/{name}")
        text = html.escape(name.removeprefix(path).lstrip("/"))
        lines.append(f'<li><a href="{uri}"><code>{text}</code></a></li>')
    return f"<ul>{''.join(lines)}</ul>"


def _contents(app: Sphinx, file: Path) -> str:
    data = file.read_bytes()
    if b"\0" in data[:4096] or len(data) > _LARGEST_BYTES:
        return f"<p>{len(data):,} bytes that are not shown here.</p>"
    language = _LANGUAGES.get(file.suffix, "text")
    return str(app.builder.highlighter.highlight_block(data.decode(errors="replace"), language))  # type: ignore[attr-defined]


def _redirect(app: Sphinx, error: Exception | None) -> None:
    """Write index.html, which leads to the first page."""
    if error is None and app.builder.format == "html":
        first = app.builder.get_target_uri(app.config.root_doc)
        (Path(app.outdir) / "index.html").write_text(
            f'<!doctype html><meta charset="utf-8"><title>{app.config.project}</title>'
            f'<meta http-equiv="refresh" content="0; url={first}"><a href="{first}">USER</a>\n'
        )


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_transform(LinkToFiles)
    app.connect("env-purge-doc", _forget)
    app.connect("html-collect-pages", _pages)
    app.connect("build-finished", _redirect)
    return {"version": "1", "env_version": 1, "parallel_read_safe": False}
