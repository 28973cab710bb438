# What the scripts of this folder share. Sourced, never run.
# shellcheck shell=bash disable=SC2034,SC2154,SC2015 # the variables are used, or set, by those who source it

vm_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
vm_root=$(cd "$vm_here/../.." && pwd)
# Nothing that is made here lies in the tree: kernels are large, and no part of the project.
vm_state=${SHMSYNC_VM_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/shmsync-vm}
vm_suite=${SHMSYNC_VM_SUITE:-trixie-backports}

say() { printf 'tools/vm: %s\n' "$*" >&2; }

# die STATUS LINES...: 69 if this machine lacks something, 70 if a step of the set-up fails, 125 for a guest's trouble.
die() {
    local status=$1
    shift
    printf 'tools/vm: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
    exit "$status"
}

# A step of the set-up, with its time. What it prints is shown only if it fails, and then $step_hint.
step() {
    local name=$1 log status=0 begin=${EPOCHREALTIME/[.,]/} ms
    shift
    log=$(mktemp)
    printf '  %-56s ' "$name ..." >&2
    ("$@") >"$log" 2>&1 || status=$?
    ms=$(((${EPOCHREALTIME/[.,]/} - begin) / 1000))
    if ((status)); then
        echo "failed" >&2
        tail -n 20 "$log" >&2
        rm -f "$log"
        [ -z "${step_hint:-}" ] || say "$step_hint"
        exit 70
    fi
    printf '%5d.%d s\n' $((ms / 1000)) $((ms % 1000 / 100)) >&2
    rm -f "$log"
}

# Says what is missing where nothing of this can work.
need_debian_x86_64() {
    [ "$(uname -m)" = x86_64 ] ||
        die 69 "this machine is $(uname -m); the guest's kernel is x86_64 and runs the host's programs" \
            "Run it on an x86_64 machine."
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        die 69 "there is no apt here: the kernel comes from a Debian mirror" \
            "Run it on Debian 12 or newer, or in a container of it: docker run -it debian:12"
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] ||
        die 69 "there is no debian-archive-keyring.gpg in /usr/share/keyrings, so no package could be trusted" \
            "Install it:  apt-get install debian-archive-keyring"
}

# need_packages PACKAGES...: installs what is missing, or says how to.
need_packages() {
    local package missing=()
    for package in "$@"; do
        dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] ||
        die 69 "packages are missing, and only root can install them" \
            "As root:  apt-get install --no-install-recommends ${missing[*]}"
    step "installing ${missing[*]}" install_packages "${missing[@]}"
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update &&
        apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@"
}

# The Debian mirror that this system uses already, as apt itself understands its configuration.
mirror() {
    # shellcheck disable=SC2016 # apt expands it
    apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -E '/debian/?$' | head -n 1
}

# private_apt DIR: apt with lists and a cache in DIR, which knows $vm_suite alone. The system's own sources, lists and
# packages stay as they are, so it takes no root. Sets the array `apt` (options).
private_apt() {
    local dir=$1 uri
    uri=$(mirror)
    [ -n "$uri" ] ||
        die 69 "apt knows no Debian mirror (an address that ends in /debian)" \
            "Add a line to /etc/apt/sources.list:  deb (a mirror's address) stable main"
    mkdir -p "$dir"/{lists,cache/archives}/partial
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $vm_suite main" >"$dir/sources.list"
    apt=(-o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o "Dir::Etc::sourcelist=$dir/sources.list"
        -o Dir::Etc::sourceparts=/dev/null -o APT::Sandbox::User=root)
    step_hint="Is there a network, and has the mirror the suite $vm_suite? SHMSYNC_VM_SUITE chooses another one."
    step "reading the package lists of $vm_suite" apt-get -qq "${apt[@]}" -o APT::Update::Error-Mode=any update
    step_hint="SHMSYNC_VM_DIR is $vm_state: is there a network, and room?"
}

# download DIR PACKAGES...: with the private apt.
download() {
    cd "$1" && shift && apt-get -qq "${apt[@]}" download "$@"
}

# size_of PACKAGES...: what they weigh, in MB.
size_of() {
    apt-cache "${apt[@]}" show "$@" | awk '/^Size:/ { sum += $2 } END { printf "%d MB", sum / 1000000 }'
}

# write_command FILE COMMAND...: the script that the guest runs: some variables, the directory, the command. `python`
# is the checkout's.
write_command() {
    local file=$1 name each
    shift
    {
        for name in HOME LANG LC_ALL PYTHONPATH PYENV_ROOT PYENV_VERSION ${!SHMSYNC_@}; do
            [ -z "${!name+x}" ] || printf 'export %s=%q\n' "$name" "${!name}"
        done
        for each in "${vm_envs[@]}"; do printf 'export %q\n' "$each"; done
        printf 'export PATH=%q SHMSYNC_VM=1\n' "${SHMSYNC_VENV:-$vm_root/.venv}/bin:$PATH"
        printf 'cd %q || exit 125\nexec' "$PWD"
        printf ' %q' "$@"
        echo
    } >"$file"
}

# locked KIND COMMAND: one set-up of a kind at a time; a second one finds everything there.
locked() {
    mkdir -p "$vm_state" || die 69 "cannot make $vm_state" "SHMSYNC_VM_DIR=/another/directory chooses another one."
    exec 9>"$vm_state/$1.lock"
    shift
    flock -n 9 || {
        say "waiting for another set-up of the same in $vm_state"
        flock 9
    }
    "$@"
    exec 9>&-
}
