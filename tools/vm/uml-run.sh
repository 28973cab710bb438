# Runs a command in User Mode Linux on the host's own files. Sourced by tools/vm/run.
# shellcheck shell=bash disable=SC2154,SC2016 # variables of run and common.sh

# run_in_uml COMMAND...: ends the script with the command's status. The root is mounted read-only, which is the guest's
# word alone, under a layer that is thrown away; it writes to its job's directory and to what --rw names.
run_in_uml() {
    local vm status=0 out err end
    vm_job=$(mktemp -d "${TMPDIR:-/tmp}/shmsync-uml.XXXXXX")
    trap 'rm -rf "$vm_job"' EXIT
    write_command "$vm_job/command" "$@"
    : >"$vm_job/out"
    : >"$vm_job/err"
    uml_init >"$vm_job/init"
    chmod 755 "$vm_job/init"
    (cd / && exec timeout --foreground -k 5 "$vm_limit" "$uml_dir/linux" "mem=${vm_memory}M" ncpus=1 seccomp=auto \
        root=/dev/root rootfstype=hostfs rootflags=/ ro "init=$vm_job/init" con0=fd:0,fd:1 con=null quiet \
        </dev/null >"$vm_job/console" 2>&1) &
    vm=$!
    vm_stopped=0
    trap 'vm_stopped=1; kill "$vm" 2>/dev/null' INT TERM
    tail -c +1 -s 0.1 -f --pid="$vm" "$vm_job/out" 2>/dev/null &
    out=$!
    tail -c +1 -s 0.1 -f --pid="$vm" "$vm_job/err" >&2 2>/dev/null &
    err=$!
    end_of_uml "$vm" "$vm_job/status" >/dev/null 2>&1 &
    end=$!
    while kill -0 "$vm" 2>/dev/null; do # a signal that is trapped ends a wait early
        wait "$vm"
        status=$?
    done
    kill "$end" 2>/dev/null
    wait "$out" "$err"
    [ -z "$vm_log" ] || cp "$vm_job/console" "$vm_log"
    if [ -s "$vm_job/status" ]; then
        ((!vm_verbose)) || say "Linux $(cat "$uml_dir/kernel-version"), User Mode Linux: the command began" \
            "$(cut -d' ' -f1 "$vm_job/began") s and ended $(cut -d' ' -f1 "$vm_job/ended") s after the boot"
        exit "$(cat "$vm_job/status")"
    fi
    ((!vm_stopped)) || exit 130
    if ((status == 124 || status == 137)); then
        say "timed out after $vm_limit s"
        exit 124
    fi
    say "the guest ended without a result (status $status)"
    tail -n 15 "$vm_job/console" >&2
    exit 125
}

# end_of_uml PID FILE: ends a guest that does not power off by itself once it has written its status, as happens now and
# then.
end_of_uml() {
    until [ -s "$2" ]; do sleep 0.5; done
    sleep 3
    kill "$1"
}

# Its first process: guest-init's twin, with the host's programs and hostfs.
uml_init() {
    local each
    printf '#!/bin/sh\njob=%q\n' "$vm_job"
    cat <<'INIT'
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t tmpfs -o size=50% tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/new /mnt/job
mount -t hostfs -o "$job" none /mnt/job
new=/mnt/new
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay $new || echo "no overlay"
mount -t proc proc $new/proc
mount -t sysfs sys $new/sys
mount -t devtmpfs dev $new/dev
mkdir -p $new/dev/shm $new/dev/pts $new/run
mount -t tmpfs shm $new/dev/shm
mount -t devpts devpts $new/dev/pts
mount -t tmpfs run $new/run
ln -sf /proc/self/fd $new/dev/fd
ln -sf /proc/self/fd/0 $new/dev/stdin
ln -sf /proc/self/fd/1 $new/dev/stdout
ln -sf /proc/self/fd/2 $new/dev/stderr
busybox ifconfig lo 127.0.0.1 up
INIT
    for each in "${vm_rw[@]}"; do
        printf 'mkdir -p $new%q\nmount -t hostfs -o %q none $new%q\n' "$each" "$each" "$each"
    done
    cat <<'INIT'
cat /proc/uptime >/mnt/job/began
chroot $new /bin/bash "$job/command" </dev/null >/mnt/job/out 2>/mnt/job/err
status=$?
cat /proc/uptime >/mnt/job/ended
echo $status >/mnt/job/status
busybox poweroff -f
INIT
}
