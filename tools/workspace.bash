# shellcheck shell=bash
# Where this workspace lives and which ROS 2 it stands on. Sourced by setup.sh and env.sh, so that both
# always mean the same directories; it changes nothing but the USER_WS_* variables and ROS_DISTRO.
#
# A sourced ROS 2 installation wins; without one, ROS 2 comes from PyPI wheels (kilted unless ROS_DISTRO
# names jazzy). Each flavour has its own environment, build and install directories, so they can live
# side by side in one checkout.

USER_WS_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Prints the prefix of the sourced ROS 2 installation, fails if there is none. A prefix with pyvenv.cfg
# is one of our own wheel environments, which env.sh also puts on AMENT_PREFIX_PATH.
_user_ws_installation() {
    local prefix
    local -a prefixes
    IFS=: read -r -a prefixes <<<"${AMENT_PREFIX_PATH:-}"
    for prefix in "${prefixes[@]}"; do
        if [[ -f $prefix/share/rclpy/package.xml && ! -f $prefix/pyvenv.cfg ]]; then
            printf '%s\n' "$prefix"
            return 0
        fi
    done
    return 1
}

if USER_WS_ROS_PREFIX=$(_user_ws_installation); then
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

USER_WS_VENV="$USER_WS_ROOT/.venv$USER_WS_SUFFIX"
USER_WS_BUILD="$USER_WS_ROOT/build$USER_WS_SUFFIX"
USER_WS_INSTALL="$USER_WS_ROOT/install$USER_WS_SUFFIX"
USER_WS_LOG="$USER_WS_ROOT/log$USER_WS_SUFFIX"
