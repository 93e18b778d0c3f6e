"""Killing the processes of a run at random, and judging whether anything was lost. Free of ROS.

:mod:`~user_bringup.chaos.faults` says what happens when, from a seed; :mod:`~user_bringup.chaos.trial`
lets it happen to a run; :mod:`~user_bringup.chaos.verdict` judges what the run has left behind.
"""
