from setuptools import find_packages, setup

PACKAGE = "user_fleet"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Robots, cameras and GPUs as resources: discovery, leases, scheduling, supervision and life cycle of processes.",
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
        "console_scripts": [
            "lifecycle_manager = user_fleet.nodes.lifecycle_manager:main",
            "resource_agent = user_fleet.nodes.resource_agent:main",
            "scheduler = user_fleet.nodes.scheduler:main",
        ],
        "user.engines": [
            "local = user_fleet.engines.local:LocalEngine",
            "torchrun = user_fleet.engines.local:TorchrunEngine",
            "slurm = user_fleet.engines.slurm:SlurmEngine",
            "ray = user_fleet.engines.ray:RayEngine",
            "kubernetes = user_fleet.engines.kubernetes:KubernetesEngine",
        ],
        "user.nodes": [
            "lifecycle_manager = user_fleet.lifecycle:LifecycleManagerConfig",
            "resource_agent = user_fleet.node_configs:ResourceAgentConfig",
            "scheduler = user_fleet.node_configs:SchedulerNodeConfig",
        ],
    },
)
