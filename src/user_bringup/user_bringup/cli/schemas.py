"""Writing JSON Schemas for editors: `user schemas`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from user_bringup.schemas import write_schemas
from user_core.command_line import Parser


def main(argv: Sequence[str]) -> int:
    """Write JSON Schemas of robot files, deployments, algorithms and parameters to a folder.

    They know the plugins and nodes that are installed, your own included. An editor with a YAML
    language server completes and checks a file whose first line is
    `# yaml-language-server: $schema=FOLDER/robot.schema.json`.
    """
    parser = Parser(prog="user schemas", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--ours", action="store_true", help="without other people's plugins, as USER ships them"
    )
    arguments = parser.parse_args(argv)
    for file in write_schemas(arguments.folder, ours_only=arguments.ours):
        print(file)
    return 0
