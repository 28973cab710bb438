# Runs a command in a QEMU guest on the host's own files. Sourced by tools/vm/run.
# shellcheck shell=bash disable=SC2154,SC2030,SC2031 # variables of run and common.sh

# run_in_qemu COMMAND...: ends the script with the command's status. Uses vm_accel, vm_cpus, vm_memory, vm_limit, vm_rw,
# vm_log, vm_verbose.
run_in_qemu() {
    vm_job=$(mktemp -d "${TMPDIR:-/tmp}/shmsync-vm.XXXXXX")
    trap 'rm -rf "$vm_job"' EXIT
    write_command "$vm_job/command" "$@"
    [ "$vm_accel" != auto ] || vm_accel=$(best_accelerator)
    qemu_options
    # QEMU writes what the guest prints into these two; the cats end, and are waited for, when it has closed them.
    exec 5> >(exec cat)
    local out=$!
    exec 6> >(exec cat >&2 5>&-)
    local err=$!
    [ ! -t 2 ] || say "booting Linux $(cat "$qemu_dir/kernel-version") in QEMU ($vm_accel), about 5 s ..."
    boot_until_it_begins
    exec 5>&- 6>&-
    wait "$out" "$err"
    conclude
}

# /dev/kvm may be there and of no use (some hosts run only kernels built for them), so one boot is tried, once.
best_accelerator() {
    if [ ! -s "$qemu_dir/accelerator" ]; then
        local found=tcg
        if [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; then
            (vm_accel=kvm vm_cpus=1 vm_limit=20 vm_rw=() vm_log='' && run_in_qemu true) >/dev/null 2>&1 && found=kvm
        fi
        echo $found >"$qemu_dir/accelerator"
    fi
    cat "$qemu_dir/accelerator"
}

qemu_options() {
    local kernel=$qemu_dir/vmlinuz number=0 each shares=() how=()
    [ ! -f "$qemu_dir/vmlinux" ] || kernel=$qemu_dir/vmlinux
    case $vm_accel in
    kvm) how=(-accel kvm -cpu host) ;;
    tcg) how=(-accel "tcg,thread=multi,tb-size=256" -cpu "max,la57=off") ;;
    # The guest's clock advances by 1 ns an instruction, whatever the host does. Without erms and fsrm the C library
    # copies by loops: "rep movsb" would count as one instruction.
    icount)
        vm_cpus=1
        how=(-accel "tcg,thread=single,tb-size=256" -icount "shift=0,sleep=off" -cpu "max,la57=off,erms=off,fsrm=off")
        ;;
    esac
    : >"$vm_job/shares"
    for each in "${vm_rw[@]}"; do
        number=$((number + 1))
        echo "rw$number $each" >>"$vm_job/shares"
        shares+=(-virtfs "local,path=$each,mount_tag=rw$number,security_model=none,multidevs=remap")
    done
    local append="console=ttyS0 quiet panic=-1 mitigations=off nokaslr maxcpus=1 rcupdate.rcu_expedited=1"
    append+=" audit=0 apparmor=0 random.trust_cpu=1"
    vm_options=("${how[@]}" -M "q35,usb=off" -nodefaults -no-user-config -display none -no-reboot
        -smp "$vm_cpus" -m "$vm_memory" -kernel "$kernel" -initrd "$qemu_dir/initramfs.cpio" -append "$append"
        -serial "file:$vm_job/console" -device "virtio-serial-pci,max_ports=4"
        -chardev "file,id=out,path=/dev/fd/5" -device "virtserialport,chardev=out,nr=1,name=out"
        -chardev "file,id=err,path=/dev/fd/6" -device "virtserialport,chardev=err,nr=2,name=err"
        -virtfs "local,path=/,mount_tag=hostroot,security_model=none,readonly=on,multidevs=remap"
        -virtfs "local,path=$vm_job,mount_tag=job,security_model=none" "${shares[@]}")
}

# An emulated boot can go wrong, if rarely: a guest that has not begun the command in time, or died before, is started
# afresh. One that has begun is never run twice.
boot_until_it_begins() {
    local vm='' tenths attempt
    vm_stopped=0
    trap 'vm_stopped=1; [ -z "$vm" ] || kill "$vm" 2>/dev/null' INT TERM
    for attempt in 1 2 3; do
        timeout --foreground -k 5 "$vm_limit" qemu-system-x86_64 "${vm_options[@]}" </dev/null >"$vm_job/qemu" 2>&1 &
        vm=$! tenths=0
        while kill -0 "$vm" 2>/dev/null && [ ! -s "$vm_job/began" ]; do
            sleep 0.1
            tenths=$((tenths + 1))
            ((tenths != ${SHMSYNC_VM_BOOT:-45} * 10)) || kill "$vm" 2>/dev/null
        done
        qemu_status=0
        # A signal that is trapped ends a wait early.
        while kill -0 "$vm" 2>/dev/null; do
            wait "$vm"
            qemu_status=$?
        done
        local last=0
        wait "$vm" 2>/dev/null || last=$?
        ((last == 127)) || qemu_status=$last
        if [ -s "$vm_job/began" ] || ((vm_stopped || qemu_status == 124)); then
            return
        fi
        say "the guest did not come up (attempt $attempt of 3)"
        tail -n 3 "$vm_job/qemu" >&2
    done
}

# Ends with the command's status, or says what became of the guest.
conclude() {
    [ -z "$vm_log" ] || cp "$vm_job/console" "$vm_log"
    if [ -s "$vm_job/status" ]; then
        ((!vm_verbose)) || say "Linux $(cat "$qemu_dir/kernel-version"), $vm_accel, $vm_cpus cpus: the command began" \
            "$(cut -d' ' -f1 "$vm_job/began") s and ended $(cut -d' ' -f1 "$vm_job/ended") s after the boot"
        exit "$(cat "$vm_job/status")"
    fi
    ((!vm_stopped)) || exit 130
    if ((qemu_status == 124 || qemu_status == 137)); then
        say "timed out after $vm_limit s"
        exit 124
    fi
    say "the guest ended without a result (QEMU's status: $qemu_status)"
    cat "$vm_job/qemu" >&2
    tail -n 15 "$vm_job/console" >&2
    exit 125
}
