from glob import glob

from setuptools import find_packages, setup

PACKAGE = "user_bringup"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Launch files, deployments, robot configurations, and the command `user`.",
    author="USER maintainers",
    maintainer="USER maintainers",
    maintainer_email="maintainers@user-robotics.dev",
    license="Apache-2.0",
    packages=find_packages(exclude=["test", "test.*"]),
    package_data={PACKAGE: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/config/robots", sorted(glob("config/robots/*.yaml"))),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=False,
)
