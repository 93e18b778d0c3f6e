"""The command ``user``: subcommands are plugins, found by entry points, imported when chosen.

A subcommand is a function that takes the words after its name and returns an exit code; it is
registered in the group ``user.commands`` of any installed package::

    # setup.py:  entry_points={"user.commands": ["sim = user_hal.cli.sim:main"]}

    def main(argv: Sequence[str]) -> int: ...

The first line of its docstring is shown by ``user --help``; where it is called ``main``, that
of its module. What it raises of
:class:`~user_core.errors.SuiteError` is shown as one clear message.
"""
