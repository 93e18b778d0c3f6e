"""What ``user check robot`` finds out about a configured robot, each part usable by itself.

- :mod:`~user_hal.checking.findings`: what was found;
- :mod:`~user_hal.checking.streams`: topics over some seconds: rates, ages, gaps, skews;
- :mod:`~user_hal.checking.readings`: how often the driver's own reading fails, and why;
- :mod:`~user_hal.checking.graph`: who else is on these topics, quality of service, controllers;
- :mod:`~user_hal.checking.motion`: whether the robot moves as it is told.
"""
