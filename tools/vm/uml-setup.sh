# Builds User Mode Linux with the ntsync driver, from Debian's kernel source. Sourced by tools/vm/run.
# shellcheck shell=bash disable=SC2154 # variables of run and common.sh
#
# Leaves in $vm_state/uml: linux (one static program), the config it was made from, kernel-version.

uml_dir=$vm_state/uml

setup_uml() {
    # A change of the configuration builds it anew.
    [ ! -s "$uml_dir/kernel-version" ] || ! cmp -s "$vm_here/uml.config" "$uml_dir/config" || return 0
    say "building User Mode Linux with ntsync in $vm_state, once; 5 to 10 minutes, and 3 GB meanwhile:"
    need_debian_x86_64
    need_packages gcc make flex bison bc xz-utils libc6-dev busybox-static
    rm -rf "$uml_dir"
    mkdir -p "$uml_dir"
    build_uml
}

build_uml() {
    local work=$uml_dir/work package source
    private_apt "$work/apt"
    package=$(apt-cache "${apt[@]}" show linux-source 2>/dev/null |
        grep -oE 'linux-source-[0-9.]+' | sort -V | tail -n 1)
    [ -n "$package" ] ||
        die 69 "there is no linux-source in $vm_suite" "SHMSYNC_VM_SUITE=sid chooses another suite."
    source=$work/$package
    mkdir -p "$work"/{deb,out,tmp}
    # gcc's temporary files lie where nobody tidies up during the build.
    export KBUILD_OUTPUT=$work/out TMPDIR=$work/tmp
    step "downloading $package ($(size_of "$package"))" download "$work/deb" "$package"
    step "unpacking it" unpack_source "$work" "$package"
    step "configuring it" configure_uml "$source"
    step "compiling it (5 to 10 minutes on 2 cores)" make -s -C "$source" ARCH=um -j "$(($(nproc) + 1))"
    cp "$KBUILD_OUTPUT/linux" "$uml_dir/linux"
    cp "$vm_here/uml.config" "$uml_dir/config"
    cat "$KBUILD_OUTPUT/include/config/kernel.release" >"$uml_dir/kernel-version"
    unset KBUILD_OUTPUT TMPDIR
    rm -rf "$work"
}

unpack_source() {
    set -o pipefail
    # The headers of one graphics driver are a fifth of it.
    dpkg-deb --fsys-tarfile "$1"/deb/*.deb | tar -xO --wildcards --no-anchored "$2.tar.xz" |
        tar -xJ -C "$1" --exclude='*/drivers/gpu/drm/amd/include/*'
}

configure_uml() {
    cd "$1" &&
        make -s ARCH=um tinyconfig &&
        ARCH=um scripts/kconfig/merge_config.sh -m -O "$KBUILD_OUTPUT" "$KBUILD_OUTPUT/.config" "$vm_here/uml.config" &&
        make -s ARCH=um olddefconfig &&
        grep -q '^CONFIG_NTSYNC=y' "$KBUILD_OUTPUT/.config"
}
