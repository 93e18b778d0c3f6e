from setuptools import find_packages, setup

PACKAGE = "user_actor"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Collecting experience: the control loop, interventions, episodes, and the durable outbox.",
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
        "user.nodes": [
            "actor_node = user_actor.config:ActorConfig",
            "inference_node = user_actor.config:InferenceConfig",
        ],
        "console_scripts": [
            "actor_node = user_actor.nodes.actor:main",
            "inference_node = user_actor.nodes.inference:main",
        ],
    },
)
