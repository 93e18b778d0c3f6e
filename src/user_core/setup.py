from setuptools import find_packages, setup

PACKAGE = "user_core"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="The ROS-free heart of USER: interfaces, specs, typed configuration, plugins, policies and rewards, codecs, fakes and conformance checks.",
    author="USER maintainers",
    maintainer="USER maintainers",
    maintainer_email="maintainers@user-robotics.dev",
    license="Apache-2.0",
    packages=find_packages(exclude=["test", "test.*"]),
    package_data={PACKAGE: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=False,
    entry_points={
        "user.robots": ["fake = user_core.fakes:FakeRobot"],
        "user.cameras": ["fake = user_core.fakes:FakeCamera"],
        "user.teleops": ["fake = user_core.fakes:FakeTeleop"],
        "user.policies": [
            "act = user_core.policies.generative.act:ActPolicy",
            "action_chunks = user_core.policies.action_chunks:ActionChunksPolicy",
            "advantage = user_core.policies.improving.advantage:AdvantagePolicy",
            "advantage_flow = user_core.policies.improving.advantage:AdvantageFlowPolicy",
            "best_of = user_core.policies.improving.best_of:BestOfPolicy",
            "diffusion = user_core.policies.generative.policy:DiffusionPolicy",
            "flow = user_core.policies.generative.flow:FlowPolicy",
            "linear_gaussian = user_core.fakes:LinearGaussianPolicy",
            "lerobot = user_core.policies.lerobot.policy:LeRobotPolicy",
            "residual = user_core.policies.improving.residual:ResidualPolicy",
            "steered = user_core.policies.improving.steered:SteeredPolicy",
            "tanh_gaussian = user_core.policies.tanh_gaussian:TanhGaussianPolicy",
        ],
        "user.goal_rewards": [
            "goal_distance = user_core.rewards.goals:GoalDistance",
            "goal_function = user_core.rewards.goals:GoalFunction",
        ],
        "user.rewards": [
            "classifier = user_core.rewards.classifier:ClassifierReward",
            "composite = user_core.rewards:CompositeReward",
            "goal = user_core.rewards.goals:GoalRewardOfStep",
            "operator = user_core.rewards:OperatorReward",
            "pose_threshold = user_core.rewards:PoseThresholdReward",
            "progress = user_core.rewards.progress:ProgressReward",
            "task = user_core.rewards:TaskReward",
        ],
        "user.algorithms": ["rwr = user_core.fakes:RewardWeightedRegression"],
    },
)
