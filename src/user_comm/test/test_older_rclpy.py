"""Classes of rclpy take type parameters from Kilted on, and not in Jazzy: in annotations, which nothing evaluates,
only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2]


def evaluated_parameters(text: str) -> list[str]:
    """Classes of rclpy that are given type parameters when a module is run."""
    tree, found = ast.parse(text), []
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {
        alias.asname or alias.name
        for node in imports
        if (node.module or "").split(".")[0] == "rclpy"
        for alias in node.names
    }

    def look(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) in names:
            found.append(ast.unparse(node))
        for field, child in ast.iter_fields(node):
            if field not in ("annotation", "returns"):
                for one in child if isinstance(child, list) else [child]:
                    if isinstance(one, ast.AST):
                        look(one)

    look(tree)
    return found


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("class Mine(Publisher[Any]): ...", True),
        ("Ours = Publisher[Any]", True),
        ("a: Publisher[Any] = None", False),
        ("def a(b: Publisher[Any]) -> Publisher[Any]: ...", False),
        ("if TYPE_CHECKING:\n    Ours = Publisher[Any]", False),
    ],
)
def test_what_is_evaluated_is_found(line: str, is_one: bool) -> None:
    assert bool(evaluated_parameters(f"from rclpy.publisher import Publisher\n{line}")) is is_one


def test_modules_can_be_imported_with_the_rclpy_of_jazzy() -> None:
    found = {}
    for file in SOURCES.glob("user_*/user_*/**/*.py"):
        text = file.read_text(encoding="utf-8")
        if "from rclpy" in text and (names := evaluated_parameters(text)):
            found[str(file.relative_to(SOURCES))] = names
    assert not found
