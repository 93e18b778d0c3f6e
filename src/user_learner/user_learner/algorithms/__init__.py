"""Learning algorithms, each a module with its parameters, its losses and the class that is registered as a plugin.

``imitation`` learns from what others did, ``off_policy`` from whatever was stored, ``on_base`` on top of a frozen
policy, ``on_policy`` from recent versions; ``common`` holds what several of them use.
"""
