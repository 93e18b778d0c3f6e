"""Messages, services and actions that are not on PyPI, for tests with real topics.

A lab's robot speaks types of its driver's own package, or of ``control_msgs``. Their fields stand
in ``testing/interfaces``, one file for each type, as the sources named there define them.
:func:`provide` makes them importable in this process: those of an installation of ROS are taken
where they are, the others are generated and compiled once (for Python and Fast DDS only, which
takes about half a minute), and kept in the build folder.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).parents[2]
DEFINITIONS = _ROOT / "testing" / "interfaces"
_KINDS = ("msg", "srv", "action")

#: Only what Python needs: C++ and, since Fast DDS 3, introspection would take three times as long.
_PROJECT = """\
cmake_minimum_required(VERSION 3.20)
project(user_testing_interfaces LANGUAGES C CXX)
find_package(ament_cmake REQUIRED)
foreach(package {introspection} rosidl_cmake rosidl_generator_type_description rosidl_generator_c rosidl_typesupport_c
    rosidl_typesupport_fastrtps_c rosidl_generator_py action_msgs builtin_interfaces geometry_msgs sensor_msgs
    service_msgs std_msgs trajectory_msgs unique_identifier_msgs)
  find_package(${{package}} REQUIRED)
endforeach()
list(FILTER AMENT_EXTENSIONS_rosidl_generate_idl_interfaces EXCLUDE REGEX "_cpp:|{left_out}")
"""
_PACKAGE = """\
project({name} LANGUAGES C CXX)
file(GLOB interfaces RELATIVE "${{CMAKE_CURRENT_SOURCE_DIR}}" msg/*.msg srv/*.srv action/*.action)
rosidl_generate_interfaces({name} ${{interfaces}}
  DEPENDENCIES builtin_interfaces geometry_msgs sensor_msgs std_msgs trajectory_msgs)
foreach(library generator_py typesupport_c typesupport_fastrtps_c)
  if(TARGET {name}__rosidl_${{library}})
    set_target_properties({name}__rosidl_${{library}} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
  endif()
endforeach()
"""
_MANIFEST = """\
<?xml version="1.0"?>
<package format="3">
  <name>{name}</name><version>0.0.0</version><description>Interfaces for tests</description>
  <maintainer email="maintainers@example.org">USER</maintainer><license>Apache-2.0</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
</package>
"""


_TYPESUPPORTS = ("typesupport_introspection_c", "typesupport_fastrtps_c")


def has_fast_dds_2() -> bool:
    """Whether the middleware is that of ROS 2 Jazzy and before, which was built with a package that there is no more."""
    from ament_index_python.packages import get_packages_with_prefixes

    return "fastrtps_cmake_module" in get_packages_with_prefixes()


def _project() -> str:
    # Fast DDS 2 takes no type of which it is not told the fields.
    told = has_fast_dds_2()
    return _PROJECT.format(
        introspection="rosidl_typesupport_introspection_c" if told else "",
        left_out="introspection_cpp" if told else "introspection",
    )


@cache
def provide() -> dict[str, str]:
    """Make all packages of :data:`DEFINITIONS` importable; returns variables for the environment
    of processes that need them too (empty where everything is installed)."""
    missing = [path for path in sorted(DEFINITIONS.iterdir()) if _is_missing(path)]
    if not missing:
        return {}
    folder = _build(missing)
    modules = [str(folder / path.name / "rosidl_generator_py") for path in missing]
    libraries = [str(folder / path.name) for path in missing]
    for directory in libraries:
        for part in ("generator_c", *_TYPESUPPORTS, "typesupport_c", "generator_py"):
            for library in Path(directory).glob(f"lib*__rosidl_{part}.so"):
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    sys.path[:0] = [path for path in modules if path not in sys.path]
    return {
        "PYTHONPATH": os.pathsep.join([*modules, os.environ.get("PYTHONPATH", "")]),
        "LD_LIBRARY_PATH": os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]),
    }


def _is_missing(path: Path) -> bool:
    return path.is_dir() and find_spec(path.name) is None


def _build(packages: list[Path]) -> Path:
    digest = hashlib.sha256((_project() + _PACKAGE + sys.prefix + sys.version).encode())
    for package in packages:
        for file in _files(package):
            digest.update(f"{file.relative_to(DEFINITIONS)}\n{file.read_text()}".encode())
    folder = _ROOT / "build" / f"test_interfaces_{digest.hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test sessions one compiles
        if not (folder / "done").exists():
            _compile(packages, folder)
            (folder / "done").touch()
    return folder


def _files(package: Path) -> list[Path]:
    return [file for kind in _KINDS for file in sorted(package.glob(f"{kind}/*.{kind}"))]


def _compile(packages: list[Path], folder: Path) -> None:
    source = folder / "source"
    for package in packages:
        shutil.copytree(package, source / package.name, dirs_exist_ok=True)
        (source / package.name / "CMakeLists.txt").write_text(_PACKAGE.format(name=package.name))
        (source / package.name / "package.xml").write_text(_MANIFEST.format(name=package.name))
    lines = [f"add_subdirectory({package.name})\n" for package in packages]
    (source / "CMakeLists.txt").write_text(_project() + "".join(lines))
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
    }
    targets = [f"{package.name}_s__rosidl_typesupport_c" for package in packages]
    for command in (
        ["cmake", "-S", str(source), "-B", str(folder), f"-DPython3_EXECUTABLE={sys.executable}",
         "-DCMAKE_BUILD_TYPE=", "-DCMAKE_C_FLAGS=-O0 -w", "-DCMAKE_CXX_FLAGS=-O0 -w"],
        ["cmake", "--build", str(folder), "--parallel", str(os.cpu_count() or 2), "--target", *targets],
    ):  # fmt: skip
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(command)}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            )


if __name__ == "__main__":  # for a shell: eval "$(python -m user_testing.interfaces)"
    for variable, value in provide().items():
        print(f"export {variable}={shlex.quote(value)}")
