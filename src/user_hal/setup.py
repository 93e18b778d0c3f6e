from setuptools import find_packages, setup

PACKAGE = "user_hal"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Robots, cameras and teleoperation devices behind one interface, simulated scenes, and the safety gate in front of every command.",
    author="USER maintainers",
    maintainer="USER maintainers",
    maintainer_email="maintainers@user-robotics.dev",
    license="Apache-2.0",
    packages=find_packages(exclude=["test", "test.*"]),
    package_data={PACKAGE: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/urdf", ["urdf/panda.urdf", "urdf/ur5e.urdf"]),
    ],
    install_requires=["setuptools"],
    extras_require={"spacemouse": ["pyspacemouse>=2.1"], "test": ["pytest"]},
    zip_safe=False,
    entry_points={
        "user.robots": [
            "gymnasium = user_hal.robots.gymnasium:GymnasiumRobot",
            "lerobot = user_hal.robots.lerobot:LeRobotRobot",
            "mock = user_hal.robots.mock:MockRobot",
            "mujoco = user_hal.robots.mujoco:MujocoRobot",
            "ros2 = user_hal.robots.ros2.driver:Ros2Robot",
        ],
        "user.goal_rewards": [
            "gymnasium = user_hal.robots.gymnasium.goals:EnvironmentGoalReward",
        ],
        "user.cameras": [
            "lerobot = user_hal.cameras.lerobot:LeRobotCamera",
            "opencv = user_hal.cameras.opencv:OpenCvCamera",
            "ros_topic = user_hal.cameras.ros_topic:RosTopicCamera",
        ],
        "user.teleops": [
            "browser = user_hal.teleops.browser:BrowserTeleop",
            "expert = user_hal.teleops.expert:ExpertTeleop",
            "groups = user_hal.teleops.groups:GroupsTeleop",
            "joy = user_hal.teleops.topics:JoyTeleop",
            "keyboard = user_hal.teleops.keyboard:KeyboardTeleop",
            "leader = user_hal.teleops.leader:LeaderTeleop",
            "lerobot = user_hal.teleops.lerobot:LeRobotTeleop",
            "spacemouse = user_hal.teleops.spacemouse:SpaceMouseTeleop",
            "twist = user_hal.teleops.topics:TwistTeleop",
        ],
        "user.nodes": [
            "hal_node = user_hal.node_configs:HalConfig",
            "teleop_node = user_hal.node_configs:TeleopConfig",
        ],
        "user.checks": [
            "robot = user_hal.cli.check:main",
            "teleop = user_hal.cli.check_teleop:main",
        ],
        "user.commands": [
            "robots = user_hal.cli.robots:main",
            "sim = user_hal.cli.sim:main",
        ],
        "console_scripts": [
            "hal_node = user_hal.nodes.hal:main",
            "sim_ros_robot = user_hal.nodes.sim_ros_robot:main",
            "teleop_node = user_hal.nodes.teleop:main",
        ],
    },
)
