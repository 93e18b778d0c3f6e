"""Sphinx extension: what docstrings refer to must exist; it is a link where it has a place here.

Autodoc refers to much that has no page on this site: types of other libraries in signatures, modules
inside a package. Such a reference becomes plain text where the object can be imported, and stays a
warning where it cannot, for then the docstring is wrong.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def _resolve(
    _: Sphinx, __: BuildEnvironment, node: addnodes.pending_xref, text: nodes.TextElement
) -> nodes.Node | None:
    if node.get("refdomain") != "py":
        return None
    if _is_type_of_signature(node) or _exists(node):
        return text
    return None


def _is_type_of_signature(node: nodes.Node) -> bool:
    """Whether autodoc made the reference itself: for a type in a signature, or for a base class."""
    parent = node.parent
    while parent is not None and not isinstance(parent, nodes.paragraph):
        if isinstance(parent, addnodes.desc_signature):
            return True
        parent = parent.parent
    return parent is not None and parent.astext().startswith("Bases: ")


def _exists(node: addnodes.pending_xref) -> bool:
    """Whether the object can be found from the place of the docstring that refers to it."""
    target = node["reftarget"].lstrip(".")
    module, owner = node.get("py:module") or "", node.get("py:class") or ""
    candidates = [target, f"{module}.{target}", f"{module}.{owner}.{target}", f"builtins.{target}"]
    return any(_can_import(name) for name in candidates)


def _can_import(name: str) -> bool:
    parts = [part for part in name.split(".") if part]
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            fields = getattr(found, "__dataclass_fields__", {}) | getattr(found, "model_fields", {})
            annotations = getattr(found, "__annotations__", {})
            if part in fields or part in annotations:
                return True
            if not hasattr(found, part):
                return _sets(found, part)
            found = getattr(found, part)
        return True
    return False


def _sets(owner: Any, name: str) -> bool:
    """Whether a class sets an attribute of this name on its instances."""
    if not isinstance(owner, type):
        return False
    return re.search(rf"self\.{name}\b", inspect.getsource(owner)) is not None


def _keep(_: Sphinx, what: str, name: str, __: Any, ___: Any, lines: list[str]) -> None:
    """Remember a docstring as it is, before napoleon reads it."""
    if what in _PLAIN:
        _kept[name] = [*lines]


def _restore(_: Sphinx, what: str, name: str, __: Any, ___: Any, lines: list[str]) -> None:
    """Undo what napoleon makes of a value's docstring: of a colon it would make a type."""
    if name in _kept:
        lines[:] = _kept.pop(name)


_PLAIN = {"attribute", "data", "property"}
_kept: dict[str, list[str]] = {}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-process-docstring", _keep, priority=100)
    app.connect("autodoc-process-docstring", _restore, priority=900)
    return {"version": "1", "parallel_read_safe": True}
