from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "user_bringup"


def installed(folder, pattern="*"):
    """Files below a folder, as data_files wants them: one entry per directory."""
    files = {}
    for file in sorted(Path(folder).rglob(pattern)):
        if file.is_file():
            files.setdefault(f"share/{PACKAGE}/{file.parent.as_posix()}", []).append(str(file))
    return list(files.items())


setup(
    name=PACKAGE,
    version="0.1.0",
    description="Launch files, deployments, robot configurations, and the command `user`.",
    author="USER maintainers",
    maintainer="USER maintainers",
    maintainer_email="maintainers@user-robotics.dev",
    license="Apache-2.0",
    packages=find_packages(exclude=["test", "test.*"]),
    package_data={PACKAGE: ["py.typed", "console/static/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        ("bin", ["bin/user"]),
        (f"lib/{PACKAGE}", ["bin/user"]),  # ros2 run user_bringup user
        *installed("config"),
        *installed("launch", "*.launch.py"),
        *installed("schemas"),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "console_node = user_bringup.nodes.console:main",
            "record_node = user_bringup.nodes.record:main",
        ],
        "user.nodes": [
            "console_node = user_bringup.console.config:ConsoleConfig",
            "record_node = user_bringup.recording.config:RecorderConfig",
        ],
        "user.commands": [
            "chaos = user_bringup.cli.chaos:chaos",
            "check = user_bringup.cli.check:main",
            "console = user_bringup.cli.console:main",
            "demo = user_bringup.cli.demo:main",
            "demos = user_bringup.cli.demos:main",
            "evaluate = user_bringup.cli.evaluate:main",
            "fleet = user_bringup.cli.fleet:main",
            "go = user_bringup.cli.go:main",
            "outbox = user_bringup.cli.outbox:main",
            "policy = user_bringup.cli.policy:main",
            "report = user_bringup.cli.show:report",
            "schemas = user_bringup.cli.schemas:main",
            "soak = user_bringup.cli.chaos:soak",
            "status = user_bringup.cli.show:status",
            "train = user_bringup.cli.train:main",
            "up = user_bringup.cli.up:main",
            "version = user_bringup.cli.show:version_of_all",
        ],
        "user.data_formats": ["rosbag = user_bringup.bags.format:FORMAT"],
        "user.checks": ["deployment = user_bringup.cli.up:check"],
    },
)
