"""Learning algorithms. Each is a folder of the same few files.

``config.py`` its parameters, ``networks.py`` what is particular about its networks, and
``learning.py`` the class that is registered as a plugin; ``common`` holds what several use.
"""
