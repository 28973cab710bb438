# Makes what qemu-run.sh needs: QEMU, a Debian kernel with ntsync, an initramfs. Sourced by tools/vm/run.
# shellcheck shell=bash disable=SC2154 # variables of run and common.sh
#
# Leaves in $vm_state/qemu: vmlinuz, vmlinux (if it could be unpacked), modules/, kernel-version, initramfs.cpio.

qemu_dir=$vm_state/qemu

setup_qemu() {
    # The command line may ask for another kernel than the one that is there.
    local have=
    [ ! -e "$qemu_dir/wanted" ] || have=$(cat "$qemu_dir/wanted")
    if [ "$have" != "$vm_suite ${SHMSYNC_VM_KERNEL:-newest}" ] || [ ! -s "$qemu_dir/kernel-version" ]; then
        say "setting up QEMU and a kernel with ntsync in $vm_state, once:"
        need_debian_x86_64
        need_packages qemu-system-x86 busybox-static cpio xz-utils zstd
        rm -rf "$qemu_dir"
        mkdir -p "$qemu_dir"
        fetch_kernel
        echo "$vm_suite ${SHMSYNC_VM_KERNEL:-newest}" >"$qemu_dir/wanted"
    fi
    command -v qemu-system-x86_64 >/dev/null ||
        die 69 "QEMU is gone" "As root:  apt-get install --no-install-recommends qemu-system-x86"
    # Made anew when guest-init has changed.
    [ "$qemu_dir/initramfs.cpio" -nt "$vm_here/guest-init" ] || make_initramfs
}

fetch_kernel() {
    local work=$qemu_dir/work version=${SHMSYNC_VM_KERNEL:-} package packages=()
    private_apt "$work/apt"
    # The suite's newest kernel is what its meta-package depends on.
    [ -n "$version" ] ||
        version=$(apt-cache "${apt[@]}" show linux-image-amd64 2>/dev/null |
            grep -oE 'linux-image-[0-9][^ ,]*-amd64' | sort -V | tail -n 1 | sed s/linux-image-//)
    [ -n "$version" ] ||
        die 69 "there is no linux-image-amd64 in $vm_suite" "SHMSYNC_VM_SUITE=sid chooses another suite."
    # Since Linux 7.0 Debian splits the image in three; before that it is one package.
    for package in "linux-binary-$version" "linux-modules-$version" "linux-base-$version"; do
        apt-cache "${apt[@]}" show "$package" >/dev/null 2>&1 && packages+=("$package")
    done
    [ ${#packages[@]} -gt 0 ] || packages=("linux-image-$version")
    apt-cache "${apt[@]}" show "${packages[@]}" >/dev/null 2>&1 ||
        die 69 "there is no kernel $version in $vm_suite" "Leave SHMSYNC_VM_KERNEL out to get the newest one."
    mkdir -p "$work/deb"
    step "downloading Linux $version ($(size_of "${packages[@]}"))" download "$work/deb" "${packages[@]}"
    step "unpacking it" unpack_kernel "$work" "$version"
    rm -rf "$work"
    echo "$version" >"$qemu_dir/kernel-version"
}

# Only what is needed is unpacked, and nothing is installed: kernel, configuration, a few modules.
unpack_kernel() {
    local work=$1 version=$2 deb module file
    mkdir -p "$work/root" "$qemu_dir/modules"
    for deb in "$work"/deb/*.deb; do
        # tar fails if a package has none of these, which is no failure.
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work/root" --wildcards --no-anchored 'vmlinuz*' 'config*' \
            'ntsync.ko*' '9p.ko*' '9pnet.ko*' '9pnet_virtio.ko*' 'netfs.ko*' 'overlay.ko*' || true
    done
    file=$(find "$work/root" -name 'config*' -type f -path "*$version*" | head -n 1)
    grep -q '^CONFIG_NTSYNC=' "$file" || {
        echo "Linux $version is built without CONFIG_NTSYNC"
        return 1
    }
    cp "$(find "$work/root" -name 'vmlinuz*' -type f | head -n 1)" "$qemu_dir/vmlinuz" || return
    for module in netfs 9pnet 9pnet_virtio 9p overlay ntsync; do
        file=$(find "$work/root" -name "$module.ko*" | head -n 1)
        case $file in
        *.xz) xz -dc "$file" >"$qemu_dir/modules/$module.ko" || return ;;
        *.zst) zstd -qdc "$file" >"$qemu_dir/modules/$module.ko" || return ;;
        *.ko) cp "$file" "$qemu_dir/modules/" || return ;;
        esac # or it is built in
    done
    unpack_vmlinux
}

# The ELF kernel out of the bzImage: QEMU enters it directly, which saves a second of emulated BIOS and unpacking. The
# offsets are those of the boot protocol (setup_sects, payload_offset, payload_length). Without it vmlinuz is booted.
unpack_vmlinux() {
    local image=$qemu_dir/vmlinuz out=$qemu_dir/vmlinux setup start
    setup=$(od -An -tu1 -j 497 -N 1 "$image" | tr -d ' ')
    start=$(((${setup:-4} + 1) * 512 + $(u32_at 584 "$image")))
    tail -c +$((start + 1)) "$image" | head -c "$(u32_at 588 "$image")" >"$qemu_dir/payload"
    case $(od -An -tx4 -N 4 "$qemu_dir/payload" | tr -d ' ') in
    fd2fb528) zstd -dc <"$qemu_dir/payload" >"$out" || true ;; # four bytes of length come after the stream
    *8b1f) gzip -dc <"$qemu_dir/payload" >"$out" || true ;;
    esac
    [ "$(head -c 4 "$out" 2>/dev/null | tail -c 3)" = ELF ] || rm -f "$out"
    rm -f "$qemu_dir/payload"
}

u32_at() {
    od -An -tu4 -j "$1" -N 4 "$2" | tr -d ' '
}

make_initramfs() {
    local root=$qemu_dir/initramfs name
    rm -rf "$root"
    mkdir -p "$root"/{bin,proc,sys,dev,host,job,up,new}
    cp "$(command -v busybox)" "$root/bin/busybox" ||
        die 69 "busybox is gone" "As root:  apt-get install busybox-static"
    for name in sh mount mkdir cat echo insmod chroot ifconfig poweroff hostname ln; do
        ln -s busybox "$root/bin/$name"
    done
    cp -r "$qemu_dir/modules" "$root/modules"
    install -m 755 "$vm_here/guest-init" "$root/init"
    (cd "$root" && find . | cpio --quiet -o -H newc) >"$qemu_dir/initramfs.new" || die 70 "cpio failed"
    mv "$qemu_dir/initramfs.new" "$qemu_dir/initramfs.cpio" # whole, or not there: another run may read it
    rm -rf "$root"
}
