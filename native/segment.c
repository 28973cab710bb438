/* Segments as this process sees them: creating, attaching, leaving, unlinking, and what fork does to them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine.h"
#include "handle.h"

/* ---- the registry ---- */

static pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct ss_namespace *registry; /* registry lock */

/* Descriptors of calls under way, which a child made by fork must not keep: they may hold byte 0. */
struct pending {
    struct pending *next;
    int fd;
};
static struct pending *pending; /* registry lock */

void registry_lock(void)
{
    pthread_mutex_lock(&registry_mutex);
}

void registry_unlock(void)
{
    pthread_mutex_unlock(&registry_mutex);
}

const struct engine *engine_by_id(uint32_t id)
{
    static const struct engine *const engines[] = {&engine_fsync, &engine_handoff, &engine_esync, &engine_ntsync};

    for (uint32_t i = 0; i < sizeof engines / sizeof engines[0]; i++) {
        if (engines[i]->id == id)
            return engines[i];
    }
    return NULL;
}

int ss_engine_probe(uint32_t engine)
{
    const struct engine *found = engine_by_id(engine);

    return found == NULL ? -EINVAL : found->probe();
}

/* ---- descriptors ---- */

/* A descriptor of our own on the same file: byte-range locks belong to an open file description, and the
 * caller's may have been inherited by children already. */
static int reopen(int fd)
{
    char path[64];
    int own;

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    own = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
    return own < 0 ? -errno : own;
}

static void install_fork_handlers(void);

static int pending_open(struct pending *call, int fd)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, install_fork_handlers);
    registry_lock();
    call->fd = reopen(fd);
    if (call->fd >= 0) {
        call->next = pending;
        pending = call;
    }
    registry_unlock();
    return call->fd < 0 ? call->fd : 0;
}

/* Registry lock held. `keep`: the descriptor lives on as a mapping's. */
static void pending_end(struct pending *call, bool keep)
{
    struct pending **link = &pending;

    while (*link != call)
        link = &(*link)->next;
    *link = call->next;
    if (!keep)
        close(call->fd);
}

/* Does the name still mean this file? It may have been unlinked, or made anew, since it was opened: -ESTALE. */
static int name_means(const char *shm_name, const struct stat *file)
{
    int fd = shm_open(shm_name, O_RDONLY, 0);
    struct stat named;
    bool same;

    if (fd < 0)
        return errno == ENOENT ? -ESTALE : -errno;
    same = fstat(fd, &named) == 0 && named.st_dev == file->st_dev && named.st_ino == file->st_ino;
    close(fd);
    return same ? 0 : -ESTALE;
}

/* ---- what is in the file ---- */

enum content { CONTENT_NOTHING, CONTENT_FOREIGN, CONTENT_OURS };

static enum content read_header(int fd, struct header *header)
{
    ssize_t length = pread(fd, header, sizeof *header, 0);

    if (length < (ssize_t)sizeof *header)
        memset((char *)header + (length > 0 ? length : 0), 0, sizeof *header - (size_t)(length > 0 ? length : 0));
    if (header->magic.word_ == SS_MAGIC)
        return CONTENT_OURS;
    return header->magic.word_ == 0 ? CONTENT_NOTHING : CONTENT_FOREIGN; /* 0: its creator was killed half way */
}

static uint64_t own_pid_namespace(void)
{
    struct stat ns;

    return stat("/proc/self/ns/pid", &ns) == 0 ? (uint64_t)ns.st_ino : 0;
}

static int refuse(struct ss_attach *request, int code, enum ss_why why, uint64_t found)
{
    request->why = why;
    request->found = found;
    return code;
}

/* Is this a segment that this build, in this process, can use? */
static int check_header(struct ss_attach *request, const struct header *header, uint64_t file_size)
{
    struct geometry geometry;

    request->found_version = header->version;
    request->found_engine = header->engine;
    if (header->version != SS_VERSION)
        return refuse(request, -EBADMSG, SS_WHY_VERSION, header->version);
    if (header->abi != SS_ABI)
        return refuse(request, -EBADMSG, SS_WHY_ABI, header->abi);
    if (header->capacity < 1 || header->capacity > SS_CAPACITY_MAX || header->threads < 1 ||
        header->threads > SS_THREADS_MAX)
        return refuse(request, -EBADMSG, SS_WHY_DAMAGED, 0);
    geometry = geometry_of(header->capacity, header->threads);
    if (header->size != geometry.size || file_size != geometry.size)
        return refuse(request, -EBADMSG, SS_WHY_DAMAGED, file_size);
    if (engine_by_id(header->engine) == NULL)
        return refuse(request, -ENOSYS, SS_WHY_NO_ENGINE, header->engine);
    if (request->engine != SS_ENGINE_ANY && request->engine != header->engine)
        return refuse(request, -EINVAL, SS_WHY_ENGINE, header->engine);
    return 0;
}

/* ---- creating ---- */

static void read_boot_id(uint8_t boot_id[16])
{
    char text[64] = "";
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    uint32_t digits = 0;

    if (fd < 0)
        return;
    if (read(fd, text, sizeof text - 1) < 0)
        text[0] = '\0';
    close(fd);
    for (const char *c = text; *c != '\0' && digits < 32; c++) {
        int value = *c >= '0' && *c <= '9' ? *c - '0' : *c >= 'a' && *c <= 'f' ? *c - 'a' + 10 : -1;

        if (value < 0)
            continue;
        boot_id[digits / 2] = (uint8_t)(boot_id[digits / 2] << 4 | value);
        digits++;
    }
}

static void write_header(struct header *header, const struct ss_attach *request, uint64_t size)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    header->version = SS_VERSION;
    header->abi = SS_ABI;
    header->engine = request->new_engine;
    header->flags = request->flags & SS_PERSISTENT ? SS_HEADER_PERSISTENT : 0;
    header->capacity = request->capacity;
    header->threads = request->threads;
    header->size = size;
    header->created_ns = (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
    if (getrandom(&header->instance, sizeof header->instance, 0) < 0)
        header->instance = header->created_ns;
    header->pid_namespace = own_pid_namespace();
    read_boot_id(header->boot_id);
    store64_release(&header->magic, SS_MAGIC); /* last: from here on it is a segment */
}

/* Makes a segment of a file that nobody lives in; byte 0 and byte 1 held exclusively. */
static int format(struct ss_attach *request, int fd, const struct stat *file)
{
    uint64_t size = geometry_of(request->capacity, request->threads).size;
    struct control *control;
    uint8_t *base;
    int rc;

    if (ftruncate(fd, 0) < 0)
        return -errno;
    rc = posix_fallocate(fd, 0, (off_t)size); /* a full /dev/shm says so here, not by SIGBUS later */
    if (rc != 0) {
        if (ftruncate(fd, 0) < 0)
            return -errno;
        return rc == ENOSPC || rc == EFBIG || rc == ENOMEM ? refuse(request, -ENOSPC, SS_WHY_NO_SPACE, size) : -rc;
    }
    if (file->st_uid == geteuid() && fchmod(fd, (mode_t)request->mode) < 0) /* the umask has no say */
        return -errno;
    base = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    control = (struct control *)(void *)(base + sizeof(struct header));
    rc = robust_init(&control->gate);
    if (rc == 0)
        rc = robust_init(&control->server);
    if (rc == 0)
        write_header((struct header *)(void *)base, request, size);
    munmap(base, (size_t)size);
    request->created = rc == 0;
    return rc;
}

/* Nobody lives in the file, and it is not to persist. What a dead segment left is not overwritten but unlinked,
 * and the caller begins again with a file of that name that is empty: somebody may be looking at the old one, and
 * would get SIGBUS if it shrank. (If it may not be unlinked, because it is another user's, it is overwritten.) */
static int start_anew(struct ss_attach *request, int fd, const struct stat *file, struct header *header)
{
    const struct engine *engine = engine_by_id(request->new_engine);
    int rc = 0;

    if (!(request->flags & SS_CREATE))
        return -ENOENT;
    if (engine == NULL)
        return -EINVAL;
    if (file->st_size > 0 && shm_unlink(request->shm_name) == 0)
        return -ESTALE;
    rc = engine->probe();
    if (rc < 0)
        rc = refuse(request, rc, SS_WHY_UNUSABLE, request->new_engine);
    else if ((request->flags & SS_PERSISTENT) && engine->open_device != NULL)
        rc = refuse(request, -EOPNOTSUPP, SS_WHY_NOT_PERSISTENT, request->new_engine);
    if (rc == 0)
        rc = format(request, fd, file);
    if (rc < 0 && rc != -EINTR)
        shm_unlink(request->shm_name); /* an empty file is of no use to anybody */
    if (rc == 0 && read_header(fd, header) != CONTENT_OURS)
        rc = -EBADMSG;
    return rc;
}

/* ---- attaching ---- */

/* Decides between taking the file as it is, formatting it, and refusing it. Leaves byte 1 shared, and *header
 * valid. Byte 0 held. *alone: nobody lives in it. */
static int settle_content(struct ss_attach *request, int fd, const struct stat *file, struct header *header,
                          bool *alone)
{
    enum content content;
    bool persists;
    int rc;

    *alone = range_lock(fd, SS_LOCK_USE, true, false) == 0;
    content = read_header(fd, header);
    persists = content == CONTENT_OURS && (header->flags & SS_HEADER_PERSISTENT);
    if (content == CONTENT_FOREIGN || (content == CONTENT_NOTHING && !*alone))
        return refuse(request, -EBADMSG, content == CONTENT_FOREIGN ? SS_WHY_FOREIGN : SS_WHY_DAMAGED, 0);
    if (*alone && !persists) {
        rc = start_anew(request, fd, file, header);
    } else {
        rc = check_header(request, header, (uint64_t)file->st_size);
        if (rc == 0 && (request->flags & SS_EXCLUSIVE))
            rc = -EEXIST;
        if (rc == 0 && engine_by_id(header->engine)->probe() < 0)
            rc = refuse(request, -ENOSYS, SS_WHY_UNUSABLE, header->engine);
    }
    if (rc < 0)
        return rc;
    if (header->pid_namespace != own_pid_namespace()) {
        if (!*alone)
            return refuse(request, -ENOSYS, SS_WHY_PID_NAMESPACE, header->pid_namespace);
        header->pid_namespace = own_pid_namespace(); /* nobody lives in it: it can move in with us */
        if (pwrite(fd, &header->pid_namespace, 8, offsetof(struct header, pid_namespace)) != 8)
            return -EIO;
    }
    return range_lock(fd, SS_LOCK_USE, false, false);
}

static void release_mapping(struct ss_namespace *ns)
{
    descriptors_end(ns);
    if (ns->base != NULL)
        munmap(ns->base, (size_t)ns->geometry.size);
    free(ns->open_counts);
    free(ns);
}

static struct ss_namespace *map(const struct ss_attach *request, int fd, const struct stat *file,
                                const struct header *header)
{
    struct ss_namespace *ns = calloc(1, sizeof *ns);
    void *base;

    if (ns == NULL)
        return NULL;
    ns->geometry = geometry_of(header->capacity, header->threads);
    ns->open_counts = calloc(header->capacity, sizeof *ns->open_counts);
    /* Not through the descriptor that holds the locks: a mapping keeps its open file description alive, so the
     * locks would outlive the process in the mappings of its forked children. */
    base = mmap(NULL, (size_t)ns->geometry.size, PROT_READ | PROT_WRITE, MAP_SHARED, request->fd, 0);
    ns->base = base == MAP_FAILED ? NULL : base;
    ns->engine = engine_by_id(header->engine);
    if (ns->open_counts == NULL || ns->base == NULL || descriptors_begin(ns) < 0) {
        release_mapping(ns);
        return NULL;
    }
    ns->device = file->st_dev;
    ns->inode = file->st_ino;
    ns->instance = header->instance;
    ns->persistent = header->flags & SS_HEADER_PERSISTENT;
    snprintf(ns->shm_name, sizeof ns->shm_name, "%s", request->shm_name);
    ns->fd = fd;
    ns->child_fd = -1;
    return ns;
}

/* Takes a process slot, and cleans up after the dead. */
static int enter(struct ss_attach *request, struct ss_namespace *ns)
{
    uint32_t process;
    int rc = gate_lock(ns);

    if (rc < 0)
        return rc == -EBADMSG ? refuse(request, rc, SS_WHY_DAMAGED, 0) : rc;
    ns->process = SS_NONE;
    owner_reap_threads(ns);
    owner_reap_processes(ns);
    rc = owner_claim_process(ns, ns->fd, &process);
    if (rc == 0) { /* other threads may use the namespace from here on: the handles come first (segment_check) */
        handles_after_late_entry(ns, process);
        atomic_store_explicit(&ns->process, process, memory_order_release);
    }
    gate_unlock(ns);
    if (rc == 0)
        owner_sign_process(ns, process);
    return rc == -EUSERS ? refuse(request, -ENOSPC, SS_WHY_PROCESSES, 0) : rc;
}

struct ss_namespace *segment_find(uint64_t instance)
{
    struct ss_namespace *ns = registry;

    while (ns != NULL && ns->instance != instance)
        ns = ns->next;
    return ns;
}

/* A mapping that a fork could not get a slot or a descriptor for has them now. */
static int enter_late(struct ss_attach *request, struct ss_namespace *ns, int fd)
{
    int before = ns->fd;
    int rc = range_lock(fd, SS_LOCK_USE, false, false);

    if (rc < 0)
        return rc;
    ns->fd = fd;
    rc = enter(request, ns);
    if (rc < 0)
        ns->fd = before;
    else if (before >= 0)
        close(before);
    return rc;
}

static struct ss_namespace *registry_find(const struct stat *file)
{
    struct ss_namespace *ns = registry;

    while (ns != NULL && (ns->device != file->st_dev || ns->inode != file->st_ino))
        ns = ns->next;
    return ns;
}

static int attach_again(struct ss_attach *request, struct ss_namespace *ns)
{
    request->found_engine = ns->engine->id;
    if (request->engine != SS_ENGINE_ANY && request->engine != ns->engine->id)
        return refuse(request, -EINVAL, SS_WHY_ENGINE, ns->engine->id);
    if (request->flags & SS_EXCLUSIVE)
        return -EEXIST;
    ns->attachments++;
    request->ns = ns;
    return 0;
}

/* Byte 0 and the registry lock held. On success `fd` belongs to the mapping, if it is new. */
static int attach_locked(struct ss_attach *request, int fd, const struct stat *file, bool *adopted)
{
    struct ss_namespace *ns;
    struct header header;
    bool alone;
    int rc = name_means(request->shm_name, file);

    if (rc < 0)
        return rc;
    ns = registry_find(file);
    if (ns != NULL && ns->process == SS_NONE && !ns->outside) {
        rc = enter_late(request, ns, fd);
        *adopted = rc == 0;
    }
    if (rc < 0)
        return rc;
    if (ns != NULL)
        return attach_again(request, ns);
    rc = settle_content(request, fd, file, &header, &alone);
    if (rc < 0)
        return rc;
    ns = map(request, fd, file, &header);
    if (ns == NULL)
        return -ENOMEM;
    if (alone)
        broker_forget(ns);
    rc = enter(request, ns);
    if (rc == 0 && ns->engine->sweeps)
        rc = sweeper_start(ns);
    if (rc < 0) { /* the slot, if it was taken, is given back by whoever finds its byte free */
        release_mapping(ns);
        return rc;
    }
    ns->attachments = 1;
    ns->next = registry;
    registry = ns;
    request->ns = ns;
    *adopted = true;
    return 0;
}

static int check_file(struct ss_attach *request, struct stat *file)
{
    if (fstat(request->fd, file) < 0)
        return -errno;
    if (!S_ISREG(file->st_mode))
        return refuse(request, -EBADMSG, SS_WHY_NOT_A_FILE, file->st_mode & S_IFMT);
    /* A default caller must not be caught by a segment that somebody else has planted. */
    if (file->st_uid != geteuid() && !(request->mode & 077))
        return refuse(request, -EBADMSG, SS_WHY_OTHER_USER, file->st_uid);
    return 0;
}

static void trim(void);

int ss_attach(struct ss_attach *request)
{
    struct pending call;
    struct stat file;
    bool adopted = false;
    int rc;

    request->ns = NULL;
    request->created = request->why = request->found_engine = request->found_version = 0;
    if (request->capacity < 1 || request->capacity > SS_CAPACITY_MAX || request->threads < 1 ||
        request->threads > SS_THREADS_MAX)
        return -EINVAL;
    registry_lock();
    trim(); /* or an engine= or exclusive= would meet what is about to go */
    registry_unlock();
    rc = check_file(request, &file);
    if (rc == 0)
        rc = pending_open(&call, request->fd);
    if (rc < 0)
        return rc;
    rc = range_lock(call.fd, SS_LOCK_CREATE, true, true);
    registry_lock();
    if (rc == 0 && fstat(call.fd, &file) < 0)
        rc = -errno;
    if (rc == 0)
        rc = attach_locked(request, call.fd, &file, &adopted);
    if (adopted)
        range_unlock(call.fd, SS_LOCK_CREATE);
    pending_end(&call, adopted);
    trim(); /* what another thread could not leave while we had byte 0 */
    registry_unlock();
    return rc;
}

uint32_t ss_namespace_engine(const struct ss_namespace *ns)
{
    return ns->engine->id;
}

uint64_t ss_namespace_instance(const struct ss_namespace *ns)
{
    return ns->instance;
}

/* ---- leaving ---- */

/* Unlinks the name if no process but ours lives in the segment. Byte 0 held. */
static void unlink_if_last(struct ss_namespace *ns)
{
    struct stat file;

    if (ns->persistent || range_lock(ns->fd, SS_LOCK_USE, true, false) < 0)
        return;
    if (fstat(ns->fd, &file) == 0 && name_means(ns->shm_name, &file) == 0)
        shm_unlink(ns->shm_name);
}

static const struct timespec half_a_millisecond = {0, 500000};

/* Byte 0, for as long as an attach of another process may take (`attempts`), but not for ever: it may be held by
 * a thread of our own that waits for the registry lock, and that will trim() when it has it. Registry lock held. */
static bool take_create_lock(struct ss_namespace *ns, int attempts)
{
    while (ns->fd >= 0 && attempts-- > 0) {
        if (range_lock(ns->fd, SS_LOCK_CREATE, true, false) == 0)
            return true;
        nanosleep(&half_a_millisecond, NULL);
    }
    return false;
}

/* Gives the process slot up, unless a thread of this process is still registered: it owns a mutex, or has not come
 * back since. One that was just joined may have some instructions to go until the kernel marks it dead, hence the
 * attempts. */
static bool give_up_process(struct ss_namespace *ns, int attempts)
{
    bool gone = false;

    if (owner_deregister(ns) == -EINTR)
        return false;
    for (int attempt = 0; !gone && attempt < attempts; attempt++) {
        if (attempt > 0)
            nanosleep(&half_a_millisecond, NULL);
        if (gate_lock(ns) < 0)
            return false;
        gone = !owner_any_of_process(ns);
        if (gone)
            owner_free_process(ns, ns->process);
        gate_unlock(ns);
    }
    return gone;
}

/* Unmaps a segment that nobody in this process uses any more. If that cannot be done now, trim() comes back to
 * it. Registry lock held. */
static void leave(struct ss_namespace *ns, bool patient)
{
    struct ss_namespace **link = &registry;

    if (ns->process == SS_NONE || !take_create_lock(ns, patient ? 20 : 1))
        return;
    if (!give_up_process(ns, patient ? 4 : 1)) {
        range_unlock(ns->fd, SS_LOCK_CREATE);
        return;
    }
    sweeper_stop(ns);
    unlink_if_last(ns);
    while (*link != ns)
        link = &(*link)->next;
    *link = ns->next;
    close(ns->fd); /* and with it all byte-range locks */
    release_mapping(ns);
}

/* Leaves the segments that could not be left before. Registry lock held. */
static void trim(void)
{
    struct ss_namespace *ns = registry;

    while (ns != NULL) {
        struct ss_namespace *next = ns->next;

        if (ns->attachments == 0)
            leave(ns, false);
        ns = next;
    }
}

void segment_drop(struct ss_namespace *ns)
{
    if (--ns->attachments == 0)
        leave(ns, true);
}

int ss_detach(struct ss_namespace *ns)
{
    registry_lock();
    trim();
    segment_drop(ns);
    registry_unlock();
    return 0;
}

/* At the end of the process: unlinks what it is the last to use. Mappings and locks go with the process, and
 * threads that still run keep what they have until then. */
void ss_exit(void)
{
    registry_lock();
    for (struct ss_namespace *ns = registry; ns != NULL; ns = ns->next) {
        if (!take_create_lock(ns, 20))
            continue;
        unlink_if_last(ns);
        range_unlock(ns->fd, SS_LOCK_CREATE); /* the process may take its time to end */
    }
    registry_unlock();
}

int ss_unlink(int fd, const char *shm_name, uint32_t only_if_unused)
{
    struct pending call;
    struct header header;
    struct stat file;
    int rc = 0;

    if (fstat(fd, &file) < 0)
        return -errno;
    if (!S_ISREG(file.st_mode))
        return -EBADMSG;
    rc = pending_open(&call, fd);
    if (rc < 0)
        return rc;
    rc = range_lock(call.fd, SS_LOCK_CREATE, true, true);
    if (rc == 0 && read_header(call.fd, &header) == CONTENT_FOREIGN)
        rc = -EBADMSG;
    if (rc == 0 && only_if_unused && range_lock(call.fd, SS_LOCK_USE, true, false) < 0)
        rc = -EBUSY;
    if (rc == 0)
        rc = fstat(call.fd, &file) < 0 ? -errno : name_means(shm_name, &file);
    if (rc == 0 && shm_unlink(shm_name) < 0)
        rc = -errno;
    registry_lock();
    pending_end(&call, false);
    registry_unlock();
    return rc;
}

int ss_in_use(int fd)
{
    return range_is_locked(fd, SS_LOCK_USE);
}

/* ---- fork ----
 *
 * The child must count as a user from the moment it exists, and must not keep its parent's locks alive. So before
 * the fork a descriptor is opened for it, with the child's byte locked and the parent's references copied into
 * the child's process slot. After the fork the parent closes that descriptor, and the child the parent's: whoever
 * of them dies, the kernel drops exactly his locks. If fork fails, the slot is a dead process's.
 */

static int claim_for_child(struct ss_namespace *ns)
{
    int rc = gate_lock(ns);

    for (int slices = 0; rc == -EINTR && slices < 20; slices++) /* somebody is stopped in there: not for ever */
        rc = gate_lock(ns);
    if (rc < 0)
        return rc;
    rc = owner_claim_process(ns, ns->child_fd, &ns->child_process);
    if (rc == -EUSERS) {
        owner_reap_processes(ns);
        rc = owner_claim_process(ns, ns->child_fd, &ns->child_process);
    }
    if (rc == 0)
        owner_copy_open_set(ns, ns->process, ns->child_process);
    gate_unlock(ns);
    return rc;
}

static void prepare_child(struct ss_namespace *ns)
{
    ns->child_process = SS_NONE;
    ns->child_fd = ns->process == SS_NONE ? -1 : reopen(ns->fd);
    if (ns->child_fd < 0)
        return;
    if (range_lock(ns->child_fd, SS_LOCK_USE, false, false) < 0 || claim_for_child(ns) < 0)
        ns->child_process = SS_NONE; /* in the child every call will say that there was no room */
}

static void fork_prepare(void)
{
    registry_lock();
    for (struct ss_namespace *ns = registry; ns != NULL; ns = ns->next)
        prepare_child(ns);
}

static void fork_parent(void)
{
    for (struct ss_namespace *ns = registry; ns != NULL; ns = ns->next) {
        if (ns->child_fd >= 0)
            close(ns->child_fd);
        ns->child_fd = -1;
    }
    registry_unlock();
}

static void fork_child(void)
{
    owner_forget_all(); /* the thread is another one now, and owns nothing */
    for (struct pending *call = pending; call != NULL; call = call->next)
        close(call->fd);
    pending = NULL;
    for (struct ss_namespace *ns = registry; ns != NULL; ns = ns->next) {
        if (ns->fd >= 0)
            close(ns->fd);
        if (ns->broker >= 0)
            close(ns->broker);
        ns->broker = -1;
        ns->fd = ns->child_fd;
        ns->child_fd = -1;
        ns->process = ns->child_process;
        ns->outside = own_pid_namespace() != segment_header(ns)->pid_namespace;
        ns->sweeper_running = false;
        handles_after_fork(ns);
        if (ns->process != SS_NONE)
            owner_sign_process(ns, ns->process);
    }
    registry_unlock();
}

static void install_fork_handlers(void)
{
    pthread_atfork(fork_prepare, fork_parent, fork_child);
}

/* ---- the broker's mapping ----
 *
 * It is none of the registry's, and the broker none of the segment's users: it is to go when they have gone.
 */

#define SERVE_PATIENCE_NS (5 * NS_PER_SECOND)

int ss_broker_segment(const struct ss_namespace *ns)
{
    return reopen(ns->fd);
}

/* The mutex may still be held by a broker that is just leaving. */
static int take_server(struct ss_namespace *ns)
{
    int rc = ss_broker_state(ns);

    return rc < 0 ? rc : robust_lock_for(&segment_control(ns)->server, SERVE_PATIENCE_NS);
}

int ss_serve(int fd, struct ss_namespace **out)
{
    struct ss_attach request = {.fd = fd, .shm_name = "", .engine = SS_ENGINE_ANY};
    struct header header;
    struct stat file;
    int rc = fstat(fd, &file) < 0 ? -errno : 0;

    if (rc == 0)
        rc = read_header(fd, &header) == CONTENT_OURS ? check_header(&request, &header, (uint64_t)file.st_size)
                                                      : -EBADMSG;
    if (rc < 0)
        return rc;
    *out = map(&request, fd, &file, &header);
    if (*out == NULL)
        return -ENOMEM;
    (*out)->process = SS_NONE;
    (*out)->buries = true;
    if ((*out)->engine->open_device != NULL)
        rc = (*out)->maker = (*out)->engine->open_device();
    if (rc >= 0)
        rc = take_server(*out);
    if (rc < 0)
        release_mapping(*out);
    return rc;
}

void ss_serve_end(struct ss_namespace *ns)
{
    robust_unlock(&segment_control(ns)->server);
    close(ns->fd);
    release_mapping(ns);
}
