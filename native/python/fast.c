/* shmsync._fast: the calls of mutexes, semaphores and events, and waits on several, as methods of CPython types.
 *
 * It saves what cffi costs, and holds no algorithm. What one exchange can do is done here, by the handoff engine's own
 * inline functions (handoff.h), with the GIL held; all else by the functions of the cffi module (fast.h), without it.
 * Arguments that are not the usual ones go to the methods of the same name in shmsync/calls.py, which also do
 * everything where this module is missing.
 *
 * THE GIL keeps a handle's object in place: whoever closes a handle, or finalizes it, first sets `closed` with the GIL
 * held, and the fast paths look at that and use the object without giving the GIL away in between. (The collector
 * finalizes all of a garbage cycle before it frees any of it: others may call methods of a closed handle then.) Hence
 * there is none of this in a free-threaded build. The functions of the cffi module take care of themselves (handle.c,
 * calls in flight).
 *
 * SIGNALS. A call that slept looks for pending signals before it returns, and gives back what it took if a handler
 * raises. Between the return of a call and the caller's next instruction Python may run a handler too: what the call
 * took stays taken then, as with threading.Lock. A `with` has no such gap: up to CPython 3.13 it does not look for
 * signals between __enter__ and its block, and from 3.14 on, where it does if __enter__ is in C, fast.py has one in
 * Python, with an expression that is no call (`entering`, below). And a Request remembers what it took.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <math.h>

#include "engine.h"
#include "fast.h"
#include "handoff.h"

static const struct fast_table *table;
static const atomic_uint *ended_so_far; /* registrations_ended of the table */

/* Of shmsync/calls.py. */
static PyObject *timed_out, *acquired, *abandoned; /* Acquired */
static PyObject *refuse_wait, *timeout_max;
static PyObject *mutex_calls, *semaphore_calls, *event_calls;

/* The base of every handle. */
struct core {
    PyObject_HEAD
    struct ss_handle *handle; /* Python owns it, beside this; NULL: not adopted yet */
    struct object *object;    /* of the handle; NULL: no fast path is known to fit it */
    struct ss_namespace *ns;  /* of the handle, if there is an object: an exchange waits for all looks before it */
    char closed;
};

static struct core *core_of(PyObject *self)
{
    return (struct core *)self;
}

/* The C handle, or NULL: it is closed, or not adopted yet. */
static struct ss_handle *open_handle(const struct core *core)
{
    return core->closed ? NULL : core->handle;
}

/* Those of the handoff engine have fast paths. Where an object lies is fixed while its handle is open. */
static struct object *find_object(struct core *core)
{
    const struct ss_handle *handle = open_handle(core);

    if (handle == NULL || handle->ns->engine->id != SS_ENGINE_HANDOFF)
        return NULL;
    core->ns = handle->ns;
    return core->object = segment_object(handle->ns, handle->index);
}

/* The object, if a fast path may be tried on it, else NULL: the cffi module's functions know why not. The GIL is held
 * from here to the exchange. */
static inline struct object *fast_object(struct core *core, uint32_t kind)
{
    struct object *object = core->object != NULL ? core->object : find_object(core);

    if (object == NULL || core->closed || segment_check(core->ns) < 0 || core->handle->lost)
        return NULL;
    return load32_relaxed(&object->kind) == kind && core->handle->kind == kind ? object : NULL;
}

/* The calling thread's owner id, as it was found the last time; 0: it is not registered. */
static inline uint32_t fast_owner(struct ss_namespace *ns)
{
    static __thread struct {
        struct ss_namespace *ns;
        uint32_t id;
        uint32_t ended;
    } last __attribute__((tls_model("initial-exec")));
    uint32_t ended = atomic_load_explicit(ended_so_far, memory_order_relaxed);
    struct registration *self;

    if (last.ns == ns && last.ended == ended)
        return last.id;
    self = table->registered(ns);
    if (self == NULL)
        return 0;
    last.ns = ns;
    last.ended = ended;
    return last.id = self->id;
}

/* ---- errors and odd arguments ---- */

/* Has Python raise what a negative errno means. */
static PyObject *fail(PyObject *self, int64_t code)
{
    PyObject *nothing = PyObject_CallMethod(self, "_fail", "L", (long long)code);

    if (nothing == NULL)
        return NULL;
    Py_DECREF(nothing);
    PyErr_SetString(PyExc_SystemError, "Handle._fail did not raise");
    return NULL;
}

/* The same call, by the class in calls.py. */
static PyObject *by_python(PyObject *calls, const char *method, PyObject *self, PyObject *const *arguments,
                           Py_ssize_t count, PyObject *names)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_Size(names);
    PyObject *function = PyObject_GetAttrString(calls, method);
    PyObject *positional = PyTuple_New(1 + count);
    PyObject *keywords = PyDict_New();
    PyObject *result = NULL;
    int rc = function == NULL || positional == NULL || keywords == NULL ? -1 : 0;

    for (Py_ssize_t i = -1; i < count && rc == 0; i++) {
        PyObject *argument = i < 0 ? self : arguments[i];

        Py_INCREF(argument);
        rc = PyTuple_SetItem(positional, i + 1, argument);
    }
    for (Py_ssize_t i = 0; i < named && rc == 0; i++)
        rc = PyDict_SetItem(keywords, PyTuple_GetItem(names, i), arguments[count + i]);
    if (rc == 0)
        result = PyObject_Call(function, positional, keywords);
    Py_XDECREF(function);
    Py_XDECREF(positional);
    Py_XDECREF(keywords);
    return result;
}

/* ---- waiting ---- */

/* A timeout that needs no word from Python: None, and finite floats and ints from 0 to the largest. False: it does. */
static bool plain_timeout(PyObject *timeout, double *seconds)
{
    if (timeout == Py_None) {
        *seconds = INFINITY;
        return true;
    }
    if (!PyFloat_CheckExact(timeout) && !PyLong_CheckExact(timeout))
        return false;
    *seconds = PyFloat_AsDouble(timeout);
    if (*seconds == -1.0 && PyErr_Occurred())
        PyErr_Clear();
    return *seconds >= 0 && *seconds <= PyFloat_AsDouble(timeout_max);
}

static uint64_t deadline_of(double seconds)
{
    if (isinf(seconds))
        return SS_FOREVER;
    return seconds <= 0 ? 0 : clock_now_ns() + (uint64_t)ceil(seconds * 1e9);
}

/* Gives up a wait, or puts back what it took, with an exception set. Another one may strike meanwhile and takes its
 * place. */
static void undo(struct ss_wait *request)
{
    PyObject *type, *value, *traceback;
    int rc;

    PyErr_Fetch(&type, &value, &traceback);
    do {
        Py_BEGIN_ALLOW_THREADS
        rc = table->wait_undo(request);
        Py_END_ALLOW_THREADS
    } while (rc == -EINTR && PyErr_CheckSignals() == 0);
    if (!PyErr_Occurred()) {
        PyErr_Restore(type, value, traceback);
        return;
    }
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

/* Performs a wait. 0, or a negative errno; -EINTR: an exception is set, and nothing is taken. */
static int perform(struct ss_wait *request)
{
    int rc;

    do {
        Py_BEGIN_ALLOW_THREADS
        rc = table->wait(request);
        Py_END_ALLOW_THREADS
        if ((rc == 0 || rc == -EINTR) && PyErr_CheckSignals() < 0) {
            undo(request);
            return -EINTR;
        }
    } while (rc == -EINTR);
    return rc;
}

/* All of a request but its handles. */
static void describe(struct ss_wait *request, uint32_t count, uint32_t all, uint64_t deadline_ns)
{
    request->count = count;
    request->all = all;
    request->alert = request->signal = NULL;
    request->deadline_ns = deadline_ns;
    request->index = request->taken = request->under_way = 0;
    request->abandoned = request->stuck_since_ns = request->barges_until_ns = 0;
}

/* A wait on one object. 0: taken; -ETIMEDOUT; -1: an exception is set. */
static int wait_for(PyObject *self, double seconds, struct ss_wait *request)
{
    int rc;

    if (open_handle(core_of(self)) == NULL) {
        fail(self, -EBADF);
        return -1;
    }
    describe(request, 1, 0, deadline_of(seconds));
    request->handles[0] = core_of(self)->handle;
    Py_INCREF(self); /* the handle stays: another thread may drop its reference meanwhile */
    rc = perform(request);
    if (rc < 0 && rc != -ETIMEDOUT) {
        if (rc != -EINTR)
            fail(self, rc);
        rc = -1;
    }
    Py_DECREF(self);
    return rc;
}

/* Takes the object by its fast path. 0, -ETIMEDOUT: not signaled; -EAGAIN: that takes a wait to say. */
static inline int take_fast(PyObject *self, uint32_t kind)
{
    struct object *object = fast_object(core_of(self), kind);
    uint32_t owner = 0;

    if (object == NULL)
        return -EAGAIN;
    if (kind == SS_MUTEX) {
        owner = fast_owner(core_of(self)->ns);
        if (owner == 0)
            return -EAGAIN;
    }
    return try_take(object, kind, owner);
}

/* A poll needs no wait to fail, unless it is of a mutex, whose owner may be dead. */
static bool is_poll_that_failed(int rc, double seconds, uint32_t kind)
{
    return rc == -ETIMEDOUT && seconds <= 0 && kind != SS_MUTEX;
}

static PyObject *result_of(PyObject *result)
{
    Py_INCREF(result);
    return result;
}

/* acquire() of a mutex or semaphore, with usual arguments. */
static PyObject *acquire(PyObject *self, uint32_t kind, double seconds)
{
    struct ss_wait request;
    int rc = take_fast(self, kind);

    if (rc == 0)
        return result_of(acquired);
    if (is_poll_that_failed(rc, seconds, kind))
        return result_of(timed_out);
    rc = wait_for(self, seconds, &request);
    if (rc == -1)
        return NULL;
    return result_of(rc < 0 ? timed_out : request.abandoned != 0 ? abandoned : acquired);
}

static PyObject *blocking_name, *timeout_name; /* interned */

/* blocking=True, timeout=None. True if they are usual, with the seconds to wait. */
static bool usual_acquire(PyObject *const *arguments, Py_ssize_t count, PyObject *names, double *seconds)
{
    PyObject *timeout = Py_None;
    PyObject *blocking = Py_True;
    Py_ssize_t named = names == NULL ? 0 : PyTuple_Size(names);

    *seconds = INFINITY;
    if (count + named == 0)
        return true;
    if (count > 2)
        return false;
    if (count > 0)
        blocking = arguments[0];
    if (count > 1)
        timeout = arguments[1];
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GetItem(names, i);

        if (name == blocking_name && count < 1)
            blocking = arguments[count + i];
        else if (name == timeout_name && count < 2)
            timeout = arguments[count + i];
        else
            return false;
    }
    if (blocking == Py_False && timeout == Py_None) {
        *seconds = 0;
        return true;
    }
    return blocking == Py_True && plain_timeout(timeout, seconds);
}

/* ---- mutexes ---- */

static PyObject *mutex_acquire(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    double seconds;

    if (!usual_acquire(arguments, count, names, &seconds))
        return by_python(mutex_calls, "acquire", self, arguments, count, names);
    return acquire(self, SS_MUTEX, seconds);
}

static PyObject *previous(PyObject *self, int64_t result)
{
    return result < 0 ? fail(self, result) : PyLong_FromLongLong(result);
}

/* For how long a change is tried again before the exception of a signal handler ends it (calls.py has the same). */
#define PATIENCE_NS (1000 * NS_PER_MS)

/* An exception that a signal handler has raised during a change. */
struct interruption {
    PyObject *type, *value, *traceback; /* NULL: none yet */
    uint64_t until_ns;                  /* until then the change is tried again */
};

/* After -EINTR: is the change to be tried again? An exception has to wait a while for it, since who calls release()
 * and is interrupted does not expect to own the mutex still; a second exception ends that. */
static bool tries_again(struct interruption *kept)
{
    if (PyErr_CheckSignals() == 0)
        return kept->type == NULL || clock_now_ns() < kept->until_ns;
    if (kept->type != NULL)
        return false;
    PyErr_Fetch(&kept->type, &kept->value, &kept->traceback);
    kept->until_ns = clock_now_ns() + PATIENCE_NS;
    return true;
}

/* After the last try: raises the exception that waited, unless there is a newer one. False: there is one. */
static bool goes_on(struct interruption *kept)
{
    if (kept->type != NULL && !PyErr_Occurred())
        PyErr_Restore(kept->type, kept->value, kept->traceback);
    else if (kept->type != NULL) {
        Py_DECREF(kept->type);
        Py_XDECREF(kept->value);
        Py_XDECREF(kept->traceback);
    }
    return !PyErr_Occurred();
}

/* A change by a function of the cffi module, as often as it takes. */
#define CHANGE(result, call)                                                                                   \
    do {                                                                                                       \
        struct interruption kept = {NULL, NULL, NULL, 0};                                                      \
                                                                                                               \
        do {                                                                                                   \
            Py_BEGIN_ALLOW_THREADS                                                                             \
            result = call;                                                                                     \
            Py_END_ALLOW_THREADS                                                                               \
        } while (result == -EINTR && tries_again(&kept));                                                      \
        if (!goes_on(&kept))                                                                                   \
            return NULL;                                                                                       \
    } while (0)

static PyObject *mutex_release_slow(PyObject *self)
{
    struct ss_handle *handle = open_handle(core_of(self));
    int64_t result = -EBADF;

    if (handle != NULL)
        CHANGE(result, table->mutex_release(handle));
    return previous(self, result);
}

static PyObject *mutex_release(PyObject *self, PyObject *unused)
{
    struct object *object = fast_object(core_of(self), SS_MUTEX);
    int64_t result = -EAGAIN;

    (void)unused;
    if (object != NULL) /* an owner of 0 is refused there */
        result = try_change(object, SS_MUTEX, (struct change){UNLOCK, fast_owner(core_of(self)->ns)});
    if (result == 1)
        wake_barger(object);
    return result < 0 ? mutex_release_slow(self) : PyLong_FromLongLong(result);
}

/* An abandoned mutex is entered with a warning; if that is to be an error, it is given back as abandoned. */
static PyObject *enter_mutex(PyObject *self, int stacklevel)
{
    struct ss_wait request;
    PyObject *warned;

    if (take_fast(self, SS_MUTEX) == 0)
        return result_of(acquired);
    if (wait_for(self, INFINITY, &request) < 0)
        return NULL;
    if (request.abandoned == 0)
        return result_of(acquired);
    warned = PyObject_CallMethod(self, "_warn_abandoned", "i", stacklevel);
    if (warned == NULL) {
        undo(&request);
        return NULL;
    }
    Py_DECREF(warned);
    return result_of(abandoned);
}

static PyObject *mutex_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    return enter_mutex(self, 2);
}

static PyObject *nothing_of(PyObject *result)
{
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    Py_RETURN_NONE;
}

/* Are they what a `with` passes? Sets an exception if not. */
static bool exit_arguments(Py_ssize_t count)
{
    if (count != 3)
        PyErr_Format(PyExc_TypeError, "__exit__() takes 3 arguments (%zd given)", count);
    return count == 3;
}

static PyObject *mutex_exit(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    (void)arguments;
    if (!exit_arguments(count))
        return NULL;
    return nothing_of(mutex_release(self, NULL));
}

/* ---- semaphores ---- */

static PyObject *semaphore_acquire(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    double seconds;

    if (!usual_acquire(arguments, count, names, &seconds))
        return by_python(semaphore_calls, "acquire", self, arguments, count, names);
    return acquire(self, SS_SEMAPHORE, seconds);
}

static PyObject *semaphore_add(PyObject *self, uint32_t count)
{
    struct object *object = fast_object(core_of(self), SS_SEMAPHORE);
    struct ss_handle *handle = open_handle(core_of(self));
    int64_t result = -EAGAIN;

    if (object != NULL)
        result = try_change(object, SS_SEMAPHORE, (struct change){RELEASE, count});
    if (result >= 0)
        return PyLong_FromLongLong(result);
    result = -EBADF;
    if (handle != NULL)
        CHANGE(result, table->semaphore_release(handle, count));
    return previous(self, result);
}

static PyObject *semaphore_release(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    long n = 1;

    if (names != NULL || count > 1 || (count == 1 && !PyLong_CheckExact(arguments[0])))
        return by_python(semaphore_calls, "release", self, arguments, count, names);
    if (count == 1)
        n = PyLong_AsLong(arguments[0]);
    if (n < 1 || n > (long)SS_COUNT_MAX) {
        PyErr_Clear();
        return by_python(semaphore_calls, "release", self, arguments, count, names);
    }
    return semaphore_add(self, (uint32_t)n);
}

static PyObject *semaphore_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    return acquire(self, SS_SEMAPHORE, INFINITY);
}

static PyObject *semaphore_exit(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    (void)arguments;
    if (!exit_arguments(count))
        return NULL;
    return nothing_of(semaphore_add(self, 1));
}

/* ---- events ---- */

static inline struct object *fast_event(PyObject *self)
{
    const struct ss_handle *handle = open_handle(core_of(self));

    return handle == NULL ? NULL : fast_object(core_of(self), handle->kind);
}

static PyObject *event_set(PyObject *self, PyObject *unused)
{
    struct object *object = fast_event(self);
    struct ss_handle *handle = open_handle(core_of(self));
    int64_t result = -EAGAIN;

    (void)unused;
    if (object != NULL)
        result = try_change(object, SS_AUTO_EVENT, (struct change){SET, 0});
    if (result >= 0)
        return PyBool_FromLong(result != 0);
    result = -EBADF;
    if (handle != NULL)
        CHANGE(result, table->event_set(handle));
    return result < 0 ? fail(self, result) : PyBool_FromLong(result != 0);
}

static PyObject *event_clear(PyObject *self, PyObject *unused)
{
    struct object *object = fast_event(self);
    struct ss_handle *handle = open_handle(core_of(self));
    int64_t result = -EAGAIN;

    (void)unused;
    if (object != NULL)
        result = try_change(object, SS_AUTO_EVENT, (struct change){RESET, 0});
    if (result >= 0)
        return PyBool_FromLong(result != 0);
    result = -EBADF;
    if (handle != NULL)
        CHANGE(result, table->event_reset(handle));
    return result < 0 ? fail(self, result) : PyBool_FromLong(result != 0);
}

static PyObject *event_is_set(PyObject *self, PyObject *unused)
{
    struct object *object = fast_event(self);
    struct ss_handle *handle = open_handle(core_of(self));
    struct ss_state state;
    int result = -EBADF;

    (void)unused;
    if (object != NULL && try_read(object, handle->kind, &state))
        return PyBool_FromLong(state.signaled != 0);
    if (handle != NULL)
        CHANGE(result, table->read(handle, &state));
    return result < 0 ? fail(self, result) : PyBool_FromLong(state.signaled != 0);
}

/* timeout=None. */
static PyObject *event_wait(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_Size(names);
    struct ss_wait request;
    struct object *object;
    double seconds = INFINITY;
    int rc;

    if (count + named > 1 || (named == 1 && PyTuple_GetItem(names, 0) != timeout_name) ||
        (count + named == 1 && !plain_timeout(arguments[0], &seconds)))
        return by_python(event_calls, "wait", self, arguments, count, names);
    object = fast_event(self);
    rc = object == NULL ? -EAGAIN : try_take(object, core_of(self)->handle->kind, 0);
    if (rc == 0)
        Py_RETURN_TRUE;
    if (is_poll_that_failed(rc, seconds, SS_AUTO_EVENT))
        Py_RETURN_FALSE;
    rc = wait_for(self, seconds, &request);
    return rc == -1 ? NULL : PyBool_FromLong(rc == 0);
}

/* ---- a wait on several, which remembers what it took ---- */

struct request {
    PyObject_HEAD
    struct ss_wait wait;
};

static PyTypeObject *core_type;

/* The C handle of a member of a wait, or NULL: calls.refuse knows why. */
static struct ss_handle *member_of(PyObject *handle)
{
    return PyObject_TypeCheck(handle, core_type) ? open_handle(core_of(handle)) : NULL;
}

static bool fill_in(struct ss_wait *wait, PyObject *handles, Py_ssize_t count)
{
    PyTypeObject *known = NULL; /* most are of one class, which need not be looked at again */

    if (count < 1 || count > SS_WAIT_MAX)
        return false;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *handle = PyTuple_GetItem(handles, i);

        wait->handles[i] = Py_TYPE(handle) == known ? open_handle(core_of(handle)) : member_of(handle);
        if (wait->handles[i] == NULL)
            return false;
        known = Py_TYPE(handle);
    }
    return true;
}

/* An optional handle: false if it is none. */
static bool fill_in_one(struct ss_handle **where, PyObject *handle)
{
    *where = NULL;
    if (handle == Py_None)
        return true;
    *where = member_of(handle);
    return *where != NULL;
}

/* Raises what is wrong with the handles, or what a code means. */
static PyObject *refuse(PyObject *handles, PyObject *all, PyObject *alert, int code)
{
    PyObject *nothing = PyObject_CallFunction(refuse_wait, "OOOi", handles, all, alert, code);

    if (nothing == NULL)
        return NULL;
    Py_DECREF(nothing);
    PyErr_SetString(PyExc_SystemError, "a wait was refused without a reason");
    return NULL;
}

/* wait(handles, deadline_ns, all, alert, signal): the index, or None. */
static PyObject *request_wait(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    struct ss_wait *wait = &((struct request *)self)->wait;
    unsigned long long deadline_ns;
    Py_ssize_t handles;
    int rc;

    if (count != 5 || !PyTuple_Check(arguments[0])) {
        PyErr_SetString(PyExc_TypeError, "wait(handles, deadline_ns, all, alert, signal)");
        return NULL;
    }
    handles = PyTuple_Size(arguments[0]);
    deadline_ns = PyLong_AsUnsignedLongLong(arguments[1]);
    if (PyErr_Occurred())
        return NULL;
    describe(wait, (uint32_t)handles, arguments[2] == Py_True, deadline_ns);
    if (!fill_in(wait, arguments[0], handles) || !fill_in_one(&wait->alert, arguments[3]) ||
        !fill_in_one(&wait->signal, arguments[4]))
        return refuse(arguments[0], arguments[2], arguments[3], -EBADF);
    rc = perform(wait);
    if (rc == -EINTR)
        return NULL;
    if (rc == -ETIMEDOUT)
        Py_RETURN_NONE;
    return rc < 0 ? refuse(arguments[0], arguments[2], arguments[3], rc) : PyLong_FromLong((long)wait->index);
}

static PyObject *request_undo(PyObject *self, PyObject *unused)
{
    struct ss_wait *wait = &((struct request *)self)->wait;
    int rc;

    (void)unused;
    CHANGE(rc, table->wait_undo(wait));
    Py_RETURN_NONE;
}

static PyObject *request_abandoned(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((struct request *)self)->wait.abandoned != 0);
}

/* ---- entering from Python ---- */

/* entering[handle]: what handle.__enter__ does, as an expression that is no call, for an __enter__ in Python. */
static PyObject *entering(PyObject *self, PyObject *handle)
{
    (void)self;
    if (PyObject_TypeCheck(handle, core_type)) {
        if (PyObject_TypeCheck(handle, (PyTypeObject *)mutex_calls))
            return enter_mutex(handle, 3);
        if (PyObject_TypeCheck(handle, (PyTypeObject *)semaphore_calls))
            return acquire(handle, SS_SEMAPHORE, INFINITY);
    }
    PyErr_SetString(PyExc_TypeError, "nothing that can be entered");
    return NULL;
}

/* ---- the types ---- */

static PyObject *mark_closed(PyObject *self, PyObject *unused)
{
    (void)unused;
    core_of(self)->closed = 1;
    Py_RETURN_NONE;
}

/* The second half of each text is that of the method in calls.py, put there when the module is loaded. */
#define SIGNATURE(name, arguments) name "($self" arguments ")\n--\n\n"

#define FAST(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef mutex_methods[] = {
    {"acquire", FAST(mutex_acquire), METH_FASTCALL | METH_KEYWORDS,
     SIGNATURE("acquire", ", /, blocking=True, timeout=None")},
    {"release", mutex_release, METH_NOARGS, SIGNATURE("release", "")},
    {"__enter__", mutex_enter, METH_NOARGS, SIGNATURE("__enter__", "")},
    {"__exit__", FAST(mutex_exit), METH_FASTCALL, SIGNATURE("__exit__", ", exc_type, exc, traceback, /")},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef semaphore_methods[] = {
    {"acquire", FAST(semaphore_acquire), METH_FASTCALL | METH_KEYWORDS,
     SIGNATURE("acquire", ", /, blocking=True, timeout=None")},
    {"release", FAST(semaphore_release), METH_FASTCALL | METH_KEYWORDS, SIGNATURE("release", ", /, n=1")},
    {"__enter__", semaphore_enter, METH_NOARGS, SIGNATURE("__enter__", "")},
    {"__exit__", FAST(semaphore_exit), METH_FASTCALL, SIGNATURE("__exit__", ", exc_type, exc, traceback, /")},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef event_methods[] = {
    {"set", event_set, METH_NOARGS, SIGNATURE("set", "")},
    {"clear", event_clear, METH_NOARGS, SIGNATURE("clear", "")},
    {"is_set", event_is_set, METH_NOARGS, SIGNATURE("is_set", "")},
    {"wait", FAST(event_wait), METH_FASTCALL | METH_KEYWORDS, SIGNATURE("wait", ", /, timeout=None")},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef request_methods[] = {
    {"wait", FAST(request_wait), METH_FASTCALL, SIGNATURE("wait", ", handles, deadline_ns, all, alert, signal, /")},
    {"undo", request_undo, METH_NOARGS, SIGNATURE("undo", "")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef core_members[] = {
    {"_address", T_ULONGLONG, offsetof(struct core, handle), 0, NULL},
    {"closed", T_BOOL, offsetof(struct core, closed), READONLY, "True once ``close`` was called."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef request_attributes[] = {
    {"abandoned", request_abandoned, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef core_methods[] = {
    {"_mark_closed", mark_closed, METH_NOARGS, SIGNATURE("_mark_closed", "") "From here on nobody uses the handle."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot core_slots[] = {{Py_tp_members, core_members}, {Py_tp_methods, core_methods}, {0, NULL}};
static PyType_Slot request_slots[] = {
    {Py_tp_methods, request_methods},
    {Py_tp_getset, request_attributes},
    {0, NULL},
};
static PyType_Slot entering_slots[] = {{Py_mp_subscript, (void *)entering}, {0, NULL}};

#define TYPE(name, size, flags, slots) {"shmsync._fast." name, (int)(size), 0, Py_TPFLAGS_DEFAULT | (flags), slots}

static PyType_Spec core_spec = TYPE("Core", sizeof(struct core), Py_TPFLAGS_BASETYPE, core_slots);
static PyType_Spec request_spec = TYPE("Request", sizeof(struct request), 0, request_slots);
static PyType_Spec entering_spec = TYPE("Entering", sizeof(PyObject), 0, entering_slots);

/* ---- methods of the handles' classes ---- */

static struct methods {
    const char *name;
    PyMethodDef *methods;
    PyObject **calls; /* the class in calls.py that they stand in for */
} all_methods[] = {
    {"MutexCalls", mutex_methods, &mutex_calls},
    {"SemaphoreCalls", semaphore_methods, &semaphore_calls},
    {"EventCalls", event_methods, &event_calls},
};

/* Completes the documentation of the methods. The texts stay for as long as the process does. */
static int document(PyMethodDef *methods, PyObject *calls)
{
    for (PyMethodDef *method = methods; method->ml_name != NULL; method++) {
        PyObject *function = PyObject_GetAttrString(calls, method->ml_name);
        PyObject *doc = function == NULL ? NULL : PyObject_GetAttrString(function, "__doc__");
        PyObject *text = doc == NULL || doc == Py_None ? NULL : PyUnicode_FromFormat("%s%U", method->ml_doc, doc);

        Py_XDECREF(function);
        Py_XDECREF(doc);
        if (text == NULL && PyErr_Occurred())
            return -1;
        if (text != NULL)
            method->ml_doc = PyUnicode_AsUTF8AndSize(text, NULL);
    }
    return 0;
}

/* Gives a class the methods as its own: CPython calls those fastest that belong to the very type of the object. */
static int install_methods(PyObject *class, PyMethodDef *methods)
{
    int rc = 0;

    for (PyMethodDef *method = methods; method->ml_name != NULL && rc == 0; method++) {
        PyObject *descriptor = PyDescr_NewMethod((PyTypeObject *)class, method);

        rc = descriptor == NULL ? -1 : PyObject_SetAttrString(class, method->ml_name, descriptor);
        Py_XDECREF(descriptor);
    }
    return rc;
}

/* install(class): a class derived from Core and one of those in calls.py. Usable as a decorator. */
static PyObject *install(PyObject *module, PyObject *class)
{
    (void)module;
    for (size_t i = 0; i < sizeof all_methods / sizeof *all_methods; i++) {
        if (!PyType_Check(class) || !PyType_IsSubtype((PyTypeObject *)class, core_type) ||
            !PyType_IsSubtype((PyTypeObject *)class, (PyTypeObject *)*all_methods[i].calls))
            continue;
        return install_methods(class, all_methods[i].methods) < 0 ? NULL : result_of(class);
    }
    PyErr_SetString(PyExc_TypeError, "no class of handles");
    return NULL;
}

static PyMethodDef functions[] = {
    {"install", install, METH_O, "install(class_, /)\n--\n\nPuts C in the place of a class's methods from calls.py."},
    {NULL, NULL, 0, NULL},
};

/* ---- loading ---- */

static int find_methods(PyObject *calls)
{
    for (size_t i = 0; i < sizeof all_methods / sizeof *all_methods; i++) {
        *all_methods[i].calls = PyObject_GetAttrString(calls, all_methods[i].name);
        if (*all_methods[i].calls == NULL || document(all_methods[i].methods, *all_methods[i].calls) < 0)
            return -1;
    }
    return 0;
}

/* Adds an object to the module, which takes it over. */
static int add(PyObject *module, const char *name, PyObject *object)
{
    int rc = object == NULL ? -1 : PyModule_AddObjectRef(module, name, object);

    Py_XDECREF(object);
    return rc;
}

static int add_types(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &entering_spec, NULL);
    int rc = type == NULL ? -1 : add(module, "entering", PyObject_CallNoArgs(type));

    Py_XDECREF(type);
    if (rc == 0)
        rc = add(module, "Request", PyType_FromModuleAndSpec(module, &request_spec, NULL));
    if (rc == 0)
        core_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &core_spec, NULL); /* for good */
    return rc < 0 || core_type == NULL ? -1 : PyModule_AddObjectRef(module, "Core", (PyObject *)core_type);
}

/* Finds the cffi module's functions. */
static int find_table(PyObject *calls)
{
    PyObject *address = PyObject_CallMethod(calls, "fast_table", NULL);

    if (address == NULL)
        return -1;
    table = PyLong_AsVoidPtr(address);
    Py_DECREF(address);
    if (table == NULL || table->build != FAST_BUILD) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ImportError, "shmsync._fast and shmsync._native are of two builds");
        return -1;
    }
    ended_so_far = table->registrations_ended;
    return 0;
}

static int find_names(PyObject *calls)
{
    PyObject *results = PyObject_GetAttrString(calls, "Acquired");

    if (results == NULL)
        return -1;
    timed_out = PyObject_GetAttrString(results, "TIMED_OUT");
    acquired = PyObject_GetAttrString(results, "ACQUIRED");
    abandoned = PyObject_GetAttrString(results, "ABANDONED");
    Py_DECREF(results);
    refuse_wait = PyObject_GetAttrString(calls, "refuse");
    timeout_max = PyObject_GetAttrString(calls, "TIMEOUT_MAX");
    blocking_name = PyUnicode_InternFromString("blocking");
    timeout_name = PyUnicode_InternFromString("timeout");
    return PyErr_Occurred() ? -1 : 0;
}

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "shmsync._fast",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__fast(void)
{
    PyObject *calls = PyImport_ImportModule("shmsync.calls");
    PyObject *module = calls == NULL ? NULL : PyModule_Create(&definition);
    bool loaded = module != NULL && PyModule_AddObjectRef(module, "calls", calls) == 0 && find_table(calls) == 0 &&
                  find_names(calls) == 0 && find_methods(calls) == 0 && add_types(module) == 0;

    Py_XDECREF(calls);
    if (loaded)
        return module;
    Py_XDECREF(module);
    return NULL;
}
