"""The ROS-free core of USER: the words every other package is written in.

Start with :mod:`user_core.interfaces`; it shows the parts and the main loop on one page.
"""
