#!/usr/bin/env bash
# Makes the virtual environment that tools/demo and tools/test run in, and builds shmsync into it.
#
#     tools/setup.sh demo     what it takes to run shmsync
#     tools/setup.sh test     and the test tools
#     tools/setup.sh bench    and what the benchmark compares with
#
# The environment is .venv in the project's root, or $SHMSYNC_VENV. It is used again as long as what it was
# made from has not changed. Python is the newest of python3.13 ... python3.11 and python3, or $PYTHON.
# Exit status: 0, 69 if something is missing on this machine (it says what to install), 70 if a step fails.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${SHMSYNC_VENV:-$root/.venv}
kind=${1:-demo}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

case $kind in
demo) target=. ;;
test) target='.[test]' ;;
bench) target='.[test,bench]' ;;
*)
    echo "usage: tools/setup.sh demo|test|bench" >&2
    exit 64
    ;;
esac

# ---- what must be here already --------------------------------------------------------------------------

# The first of the candidates that runs and is new enough (a pyenv shim may exist and not run).
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

missing=() debian=() fedora=()
# What is missing, and the packages that have it in Debian and in Fedora.
lacks() {
    # shellcheck disable=SC2206 # lists of words
    missing+=("$1") debian+=($2) fedora+=($3)
}

python=$(find_python)
if [ -z "$python" ]; then
    lacks "Python 3.11 or newer${PYTHON:+ (PYTHON=$PYTHON is not)}" \
        "python3 python3-venv python3-dev" "python3 python3-devel"
else
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -e "$headers/Python.h" ] || lacks "Python.h of $version" "$version-dev" "$version-devel"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        lacks "the venv module of $version" "$version-venv" "$version"
fi
command -v gcc >/dev/null || lacks "gcc" "gcc libc6-dev" "gcc glibc-devel"
if [ "$kind" != demo ]; then
    command -v unshare >/dev/null || lacks "unshare" "util-linux" "util-linux"
fi

if [ ${#missing[@]} -gt 0 ]; then
    {
        echo "shmsync cannot be built here yet. Missing:"
        printf '  %s\n' "${missing[@]}"
        echo "Install on Debian or Ubuntu:  apt-get install ${debian[*]}"
        echo "Install on Fedora:            dnf install ${fedora[*]}"
        echo "(PYTHON=/path/to/python chooses another Python.)"
    } >&2
    exit 69
fi

# ---- the environment ------------------------------------------------------------------------------------

# A step with its time. What it prints is shown only if it fails.
step() {
    local name=$1 begin=${EPOCHREALTIME/[.,]/}
    shift
    printf '  %-44s ' "$name ..." >&2
    if "$@" >"$log" 2>&1; then
        local ms=$(((${EPOCHREALTIME/[.,]/} - begin) / 1000))
        printf '%5d.%d s\n' $((ms / 1000)) $((ms % 1000 / 100)) >&2
    else
        echo "failed" >&2
        cat "$log" >&2
        exit 70
    fi
}

in_venv() {
    (cd "$root" && "$venv/bin/python" -m "$@")
}

# The environment says what it was made from. The built module lies in the tree, where another environment
# may have built it meanwhile, so its age is compared with its sources too.
sources() {
    find pyproject.toml setup.py native -type f ! -path '*/__pycache__/*' "$@"
}

stamp() {
    echo "$kind $python $("$python" -VV | tr '\n' ' ')"
    (cd "$root" && sources | LC_ALL=C sort | xargs cat) | cksum
}

built_module_is_current() {
    local module
    for module in _native _traced _bench; do
        module=$(compgen -G "$root/shmsync/$module*.so" | head -n 1)
        [ -n "$module" ] && [ -z "$(cd "$root" && sources -newer "$module")" ] || return
    done
}

have=$(cat "$venv/shmsync.stamp" 2>/dev/null || true)
want=$(stamp)
# An environment for tests serves the demo too, and one for the benchmark both.
serves() {
    [ "$have" = "$want" ] && return
    [ "$kind" = demo ] && [ "$have" = "test${want#demo}" ] && return
    [ "$have" = "bench${want#"$kind"}" ]
}

if serves && built_module_is_current &&
    "$venv/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

echo "Setting up ${venv#"$PWD/"} with $("$python" -V), once:" >&2
rm -f "$venv/shmsync.stamp"
step "a virtual environment" "$python" -m venv --clear "$venv"
step "building and installing shmsync" \
    in_venv pip install --quiet --disable-pip-version-check --editable "$target"
touch "$root"/shmsync/_{native,traced,bench}*.so
echo "$want" >"$venv/shmsync.stamp"
