# shellcheck shell=bash
# Source this file in bash to work in the workspace: `source tools/env.sh`. It makes python, colcon, the
# command `user`, the packages and ROS 2 available in this shell. Sourcing it again changes nothing.
#
# For a single command use `tools/run COMMAND ARGUMENTS...`.

# Prepends the parts of a colon-separated list that the variable does not hold yet, in their order.
_user_env_add() {
    local -n _variable=$1
    local _part _new=
    local -a _parts
    IFS=: read -r -a _parts <<<"$2"
    for _part in "${_parts[@]}"; do
        [[ -z $_part || ":${_variable:-}:" == *":$_part:"* ]] || _new+="${_new:+:}$_part"
    done
    [[ -z $_new ]] || _variable="$_new${_variable:+:$_variable}"
    export "${1?}"
}

# shellcheck source=tools/workspace.bash
source "$(dirname "${BASH_SOURCE[0]}")/workspace.bash"

if [[ ! -f $USER_WS_INSTALL/environment.bash ]]; then
    echo "The workspace is not built for ROS 2 $ROS_DISTRO yet: run 'make setup' first." >&2
    unset -f _user_env_add
    # shellcheck disable=SC2317 # exit is for those who run this file instead of sourcing it
    return 1 2>/dev/null || exit 1
fi

if [[ $USER_WS_ROS == wheels ]]; then
    _user_env_add AMENT_PREFIX_PATH "$USER_WS_VENV"
    _user_env_add CMAKE_PREFIX_PATH "$USER_WS_VENV"
    _user_env_add LD_LIBRARY_PATH "$(user_ws_wheel_libraries)"
    export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
    export ROS_VERSION=2 ROS_PYTHON_VERSION=3 ROS_DISTRO
fi
_user_env_add PATH "$USER_WS_VENV/bin"
if [[ $USER_WS_ROS == installation ]]; then
    # `ros2` and `colcon` of an installation run in the system's Python: they see the environment only so.
    for _user_env_site in "$USER_WS_VENV"/lib/python3.*/site-packages; do
        [[ ! -d $_user_env_site ]] || _user_env_add PYTHONPATH "$_user_env_site"
    done
    unset _user_env_site
fi
# shellcheck source=/dev/null
source "$USER_WS_INSTALL/environment.bash"
export VIRTUAL_ENV="$USER_WS_VENV"
_user_env_add PYTHONPATH "$USER_WS_ROOT/testing" # the test kit, which nobody installs

# Images of containers often forbid Python to keep what it compiled. Then every process of a deployment
# compiles all that it imports, and so does every worker of the tests: a third of their time.
unset PYTHONDONTWRITEBYTECODE
# Robots of the next room must not hear ours: leaving the machine is the bridge's work, not DDS's.
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
# Without a display the simulator's default (glfw) cannot open a window.
if [[ -z ${MUJOCO_GL:-} && -z ${DISPLAY:-} && -z ${WAYLAND_DISPLAY:-} ]]; then export MUJOCO_GL=egl; fi
# Shared-memory segments large enough for images; see the comment in the file.
_user_env_profile="$USER_WS_INSTALL/user_bringup/share/user_bringup/config/fastdds.xml"
if [[ -z ${FASTDDS_DEFAULT_PROFILES_FILE:-} && -f $_user_env_profile ]]; then
    export FASTDDS_DEFAULT_PROFILES_FILE="$_user_env_profile"
fi

unset -f _user_env_add user_ws_wheel_libraries
unset _user_env_profile
