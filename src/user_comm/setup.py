from setuptools import find_packages, setup

PACKAGE = "user_comm"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Where the core types of USER meet ROS 2 and Zenoh: topics with their QoS, converters, parameters, the lifecycle base node.",
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
            "bridge_node = user_comm.nodes.bridge:main",
            "policy_relay = user_comm.nodes.policy_relay:main",
            "router = user_comm.nodes.router:main",
        ],
        "user.nodes": [
            "bridge_node = user_comm.bridge.config:BridgeConfig",
            "policy_relay = user_comm.policy_blobs.config:PolicyRelayConfig",
            "router = user_comm.net.router:RouterConfig",
        ],
        "user.commands": [
            "net = user_comm.net.cli:main",
            "topics = user_comm.topics:main",
        ],
    },
)
