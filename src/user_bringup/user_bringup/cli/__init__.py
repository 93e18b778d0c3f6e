"""The command ``user``: subcommands are plugins, found by entry points, imported when chosen.

A subcommand is a module with two functions, registered in the group ``user.commands``::

    # setup.py:  entry_points={"user.commands": ["sim = user_hal.cli.sim"]}

    \"\"\"Look at a simulated scene.\"\"\"          # the first line is shown by `user --help`

    def add_arguments(parser: argparse.ArgumentParser) -> None: ...

    def run(arguments: argparse.Namespace) -> int: ...   # returns the exit code

What it raises of :class:`~user_core.errors.UserError` is shown as one clear message.
"""
