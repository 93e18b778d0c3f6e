"""Quality of stored data: what is measured of each episode and of each input of a policy, and what a
person should look at.

Nothing is removed by it: what is found can be excluded, cut or labelled by edits
(:mod:`user_learner.edits`).
"""

from user_learner.quality.findings import Finding, judge
from user_learner.quality.statistics import EpisodeStatistics, StatisticsCache

__all__ = ["EpisodeStatistics", "Finding", "StatisticsCache", "judge"]
