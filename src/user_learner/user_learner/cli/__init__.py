"""Commands of this package for ``user``: entry points of the group ``user.commands``."""
