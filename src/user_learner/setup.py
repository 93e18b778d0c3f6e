from setuptools import find_packages, setup

PACKAGE = "user_learner"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Learning from experience: the replay store, sampling, algorithms, the training loop and its checkpoints.",
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
        "user.checks": [
            "algorithm = user_learner.cli.check:algorithm",
            "policy = user_learner.cli.check:policy",
        ],
        "user.commands": [
            "data = user_learner.cli.data:main",
            "episodes = user_learner.cli.episodes:main",
            "replay = user_learner.cli.replay:main",
            "reward = user_learner.cli.reward:main",
            "run = user_learner.cli.inputs:main",
        ],
        "user.data_formats": [
            "hdf5 = user_learner.data.hdf5:FORMAT",
            "lerobot = user_learner.data.lerobot.reader:FORMAT",
            "mcap = user_learner.data.mcap.reader:FORMAT",
            "minari = user_learner.data.minari:FORMAT",
            "npz = user_learner.data.npz:FORMAT",
        ],
        "user.metrics_sinks": [
            "foxglove = user_learner.metrics.foxglove:FoxgloveSink",
            "mlflow = user_learner.metrics.mlflow:MlflowSink",
            "rerun = user_learner.metrics.rerun:RerunSink",
            "tensorboard = user_learner.metrics.tensorboard:TensorBoardSink",
            "trackio = user_learner.metrics.trackio:TrackioSink",
            "wandb = user_learner.metrics.wandb:WandbSink",
        ],
        "user.nodes": [
            "learner_node = user_learner.node_configs:LearnerNodeConfig",
            "replay_node = user_learner.node_configs:ReplayConfig",
        ],
        "console_scripts": [
            "learner_node = user_learner.nodes.learner:main",
            "learner_ranks = user_learner.ranks.beside:main",
            "replay_node = user_learner.nodes.replay:main",
        ],
        "user.algorithms": [
            "advantage_conditioned = user_learner.algorithms.imitation.advantage_conditioned:AdvantageConditioned",
            "async_ppo = user_learner.algorithms.on_policy.async_ppo:AsyncPPO",
            "bc = user_learner.algorithms.imitation.bc:BC",
            "cal_ql = user_learner.algorithms.off_policy.cal_ql:CalQL",
            "dsrl = user_learner.algorithms.on_base.dsrl:DSRL",
            "q_chunking = user_learner.algorithms.off_policy.q_chunking:QChunking",
            "residual = user_learner.algorithms.on_base.residual:Residual",
            "rlpd = user_learner.algorithms.off_policy.rlpd:RLPD",
            "sac = user_learner.algorithms.off_policy.sac:SAC",
            "sac_flow = user_learner.algorithms.off_policy.sac_flow:SACFlow",
        ],
    },
)
