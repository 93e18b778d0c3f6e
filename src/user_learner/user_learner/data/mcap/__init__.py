"""MCAP: bags as rosbag2 lays them out, written by exports and recordings, and read back by us.

- :mod:`~user_learner.data.mcap.bags`: a directory of MCAP files with ``metadata.yaml``;
- :mod:`~user_learner.data.mcap.writer`: episodes of a store on standard topics;
- :mod:`~user_learner.data.mcap.reader`: such an export as a data set.

Bags of other robots are read in ``user_bringup.bags``, by a robot's contract.
"""
