#!/usr/bin/env bash
# Builds the documentation site into build/docs. Its tools have an environment of their own, made on the first
# call and after a change of requirements/docs.txt, that sees the packages of the workspace, too.
#
#   tools/docs.sh [sphinx-build's arguments]      for instance -E: read everything anew
set -euo pipefail
export LC_ALL=C.UTF-8 COLUMNS=100 # the latter: width of usage lines

# shellcheck source=tools/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$USER_WS_ROOT"

environment=$USER_WS_ROOT/.venv-docs$USER_WS_SUFFIX
stamp=$environment/.user-requirements
python=$(readlink -f "$USER_WS_VENV/bin/python")
wanted=$(cat requirements/docs.txt <(echo "$python") | sha256sum)
if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
    echo "[docs] installing requirements/docs.txt into ${environment##*/}" >&2
    rm -rf "$environment"
    "$python" -m venv "$environment"
    "$environment/bin/python" -m pip --disable-pip-version-check --no-input install -qq \
        --progress-bar off --requirement requirements/docs.txt
    # What is not in this environment is looked for in the workspace's: torch, rclpy and the like.
    for packages in "$USER_WS_VENV"/lib/python3.*/site-packages; do
        echo "$packages" >>"$(echo "$environment"/lib/python3.*/site-packages)/workspace.pth"
    done
    printf '%s' "$wanted" >"$stamp"
fi

# Warnings are errors: a broken link, a name that a docstring refers to and that does not exist. Only pages that
# have changed are read again, but all are written, for each shows the table of contents.
"$environment/bin/python" -m sphinx --builder html --conf-dir docs --doctree-dir build/docs-doctrees \
    --write-all --fail-on-warning --keep-going --nitpicky --quiet "$@" . build/docs
echo "build/docs/index.html"
