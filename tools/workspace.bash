# shellcheck shell=bash disable=SC2034 # the variables are for those who source this
# Where this workspace lives and which ROS 2 it stands on. Sourced by setup.sh and env.sh, so that both
# always mean the same directories; it changes nothing but the USER_WS_* variables and ROS_DISTRO.
#
# A sourced ROS 2 installation wins; without one, ROS 2 comes from PyPI wheels (kilted unless ROS_DISTRO
# names jazzy). Each flavour has its own environment, build and install directories, so they can live
# side by side in one checkout.

USER_WS_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Whether a ROS 2 installation is sourced. A prefix with pyvenv.cfg
# is one of our own wheel environments, which env.sh also puts on AMENT_PREFIX_PATH.
_user_ws_installation() {
    local prefix
    local -a prefixes
    IFS=: read -r -a prefixes <<<"${AMENT_PREFIX_PATH:-}"
    for prefix in "${prefixes[@]}"; do
        if [[ -f $prefix/share/rclpy/package.xml && ! -f $prefix/pyvenv.cfg ]]; then
            return 0
        fi
    done
    return 1
}

if _user_ws_installation; then
    USER_WS_ROS=installation
    USER_WS_SUFFIX="-ros-${ROS_DISTRO:?a ROS 2 installation is sourced but ROS_DISTRO is not set}"
else
    USER_WS_ROS=wheels
    ROS_DISTRO=${ROS_DISTRO:-kilted}
    case $ROS_DISTRO in
        kilted) USER_WS_SUFFIX= ;;
        *) USER_WS_SUFFIX="-$ROS_DISTRO" ;;
    esac
fi
unset -f _user_ws_installation

# USER_EXTRA=NAME: an environment beside the usual one, for an extra whose packages want other versions than
# ours. requirements/extra_NAME.txt holds its pins, which win, and in its first line the Python that it needs.
USER_WS_EXTRA=${USER_EXTRA:-}
USER_WS_SUFFIX+=${USER_WS_EXTRA:+-$USER_WS_EXTRA}

USER_WS_VENV="$USER_WS_ROOT/.venv$USER_WS_SUFFIX"
USER_WS_BUILD="$USER_WS_ROOT/build$USER_WS_SUFFIX"
USER_WS_INSTALL="$USER_WS_ROOT/install$USER_WS_SUFFIX"
USER_WS_LOG="$USER_WS_ROOT/log$USER_WS_SUFFIX"

# Prints where the wheels keep their shared libraries, as a search path. They find them themselves by a
# start-up hook that executes every interpreter a second time with LD_LIBRARY_PATH set; with it set (and
# _ROS_WHEELS_BOOTSTRAP_COMPLETE) the hook has nothing to do, and each process starts faster.
user_ws_wheel_libraries() {
    local directory
    printf %s "$USER_WS_VENV/lib"
    for directory in "$USER_WS_VENV"/lib/python3.*/site-packages/ros_*.libs; do
        [[ -d $directory ]] && printf ':%s' "$directory"
    done
    return 0
}
