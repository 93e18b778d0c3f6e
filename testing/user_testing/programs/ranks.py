"""A learner without ROS, one of those that ``torchrun`` has started; its configuration and spec are files."""

import json
import sys
from pathlib import Path

from user_core.config import from_mapping
from user_core.fakes import PolicyMailbox
from user_core.specs import RobotSpec
from user_learner.learner import LearnerConfig, open_learner
from user_learner.ranks import Ranks, follow, is_follower


def main() -> None:
    """As learner_node: the first is told what to learn, the others hear it from the first."""
    if is_follower():
        sys.exit(follow.main())
    config, spec = (json.loads(Path(name).read_text()) for name in sys.argv[1:3])
    with (
        Ranks(from_mapping(LearnerConfig, config), RobotSpec.from_dict(spec), print) as ranks,
        open_learner(ranks.config, RobotSpec.from_dict(spec), PolicyMailbox()) as loop,
    ):
        loop.run()


if __name__ == "__main__":
    main()
