/* The benchmark's calls on Windows, to be run by Wine: bench.exe MILLISECONDS NAME...
 *
 * Prints a line of JSON for each name, {"name": "mutex", "ns": 1234.5}: the median of some loops that take so long
 * together. Names: mutex, semaphore, event, any N, all N (N up to 64), ping-pong.
 */
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS = 5, TOKENS = 1 << 30 };

/* What one measurement is about: some objects, and the calls on them. */
struct subject {
    HANDLE objects[MAXIMUM_WAIT_OBJECTS];
    DWORD count;
    void (*once)(const struct subject *subject);
};

static void fail(const char *what)
{
    fprintf(stderr, "bench.exe: %s: error %lu\n", what, GetLastError());
    ExitProcess(1);
}

static HANDLE made(HANDLE handle)
{
    if (handle == NULL)
        fail("an object could not be made");
    return handle;
}

/* ---- the calls ---- */

static void wait_for(HANDLE handle)
{
    if (WaitForSingleObject(handle, INFINITE) != WAIT_OBJECT_0)
        fail("WaitForSingleObject");
}

static void release(HANDLE semaphore)
{
    if (!ReleaseSemaphore(semaphore, 1, NULL))
        fail("ReleaseSemaphore");
}

static void use_mutex(const struct subject *subject)
{
    wait_for(subject->objects[0]);
    if (!ReleaseMutex(subject->objects[0]))
        fail("ReleaseMutex");
}

static void use_semaphore(const struct subject *subject)
{
    release(subject->objects[0]);
    wait_for(subject->objects[0]);
}

static void set_last(const struct subject *subject)
{
    if (!SetEvent(subject->objects[subject->count - 1]))
        fail("SetEvent");
}

static void use_event(const struct subject *subject)
{
    set_last(subject);
    wait_for(subject->objects[0]);
}

static void wait_any(const struct subject *subject)
{
    set_last(subject);
    if (WaitForMultipleObjects(subject->count, subject->objects, FALSE, INFINITE) !=
        WAIT_OBJECT_0 + subject->count - 1)
        fail("WaitForMultipleObjects, any");
}

static void wait_all(const struct subject *subject)
{
    if (WaitForMultipleObjects(subject->count, subject->objects, TRUE, INFINITE) != WAIT_OBJECT_0)
        fail("WaitForMultipleObjects, all");
}

static void round_trip(const struct subject *subject)
{
    release(subject->objects[0]);
    wait_for(subject->objects[1]);
}

/* ---- loops ---- */

static double loop(const struct subject *subject, unsigned times)
{
    LARGE_INTEGER begin, end, frequency;

    QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&begin);
    for (unsigned i = 0; i < times; i++)
        subject->once(subject);
    QueryPerformanceCounter(&end);
    return (double)(end.QuadPart - begin.QuadPart) * 1e9 / (double)frequency.QuadPart;
}

static int compare(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static void measure(const struct subject *subject, const char *name, double milliseconds)
{
    double part_ns = milliseconds * 1e6 / PARTS;
    double took = loop(subject, 1), parts[PARTS];
    unsigned times = 1;

    while (took < part_ns / 2) {
        times *= 2;
        took = loop(subject, times);
    }
    times = (unsigned)(times * part_ns / took);
    if (times == 0)
        times = 1;
    for (int i = 0; i < PARTS; i++)
        parts[i] = loop(subject, times) / times;
    qsort(parts, PARTS, sizeof parts[0], compare);
    printf("{\"name\": \"%s\", \"ns\": %.1f}\n", name, parts[PARTS / 2]);
    fflush(stdout);
}

/* ---- two processes ---- */

static HANDLE named_semaphore(const char *what, DWORD owner)
{
    char name[64];

    snprintf(name, sizeof name, "shmsync-bench-%lu-%s", owner, what);
    return made(CreateSemaphoreA(NULL, 0, TOKENS, name));
}

/* Answers for ever: the other process ends this one. */
static void be_partner(DWORD owner)
{
    HANDLE ping = named_semaphore("ping", owner), pong = named_semaphore("pong", owner);

    for (;;) {
        wait_for(ping);
        release(pong);
    }
}

static HANDLE start_partner(void)
{
    char program[MAX_PATH], command[MAX_PATH + 64];
    STARTUPINFOA start = {.cb = sizeof start};
    PROCESS_INFORMATION partner;

    if (GetModuleFileNameA(NULL, program, sizeof program) == 0)
        fail("GetModuleFileName");
    snprintf(command, sizeof command, "\"%s\" partner %lu", program, GetCurrentProcessId());
    if (!CreateProcessA(program, command, NULL, NULL, FALSE, 0, NULL, NULL, &start, &partner))
        fail("CreateProcess");
    CloseHandle(partner.hThread);
    return partner.hProcess;
}

static void measure_ping_pong(const char *name, double milliseconds)
{
    DWORD self = GetCurrentProcessId();
    struct subject subject = {{named_semaphore("ping", self), named_semaphore("pong", self)}, 2, round_trip};
    HANDLE partner = start_partner();

    round_trip(&subject); /* the partner is there */
    measure(&subject, name, milliseconds);
    TerminateProcess(partner, 0);
    wait_for(partner);
    CloseHandle(partner);
    CloseHandle(subject.objects[0]);
    CloseHandle(subject.objects[1]);
}

/* ---- the command line ---- */

/* "any 8": 8, if the name begins with that word and a number that is possible, else 0. */
static DWORD number_after(const char *name, const char *word)
{
    size_t length = strlen(word);
    long number = strncmp(name, word, length) == 0 ? atol(name + length) : 0;

    return number >= 1 && number <= MAXIMUM_WAIT_OBJECTS ? (DWORD)number : 0;
}

static HANDLE event(void)
{
    return made(CreateEventA(NULL, FALSE, FALSE, NULL));
}

static struct subject subject_of(const char *name)
{
    struct subject subject = {.count = 1};

    if (strcmp(name, "mutex") == 0) {
        subject.once = use_mutex;
        subject.objects[0] = made(CreateMutexA(NULL, FALSE, NULL));
    } else if (strcmp(name, "semaphore") == 0) {
        subject.once = use_semaphore;
        subject.objects[0] = made(CreateSemaphoreA(NULL, 0, TOKENS, NULL));
    } else if (strcmp(name, "event") == 0) {
        subject.once = use_event;
        subject.objects[0] = event();
    } else if (number_after(name, "any ") > 0) {
        subject.once = wait_any;
        subject.count = number_after(name, "any ");
        for (DWORD i = 0; i < subject.count; i++)
            subject.objects[i] = event();
    } else if (number_after(name, "all ") > 0) {
        subject.once = wait_all;
        subject.count = number_after(name, "all ");
        for (DWORD i = 0; i < subject.count; i++)
            subject.objects[i] = made(CreateSemaphoreA(NULL, TOKENS, TOKENS, NULL));
    }
    return subject;
}

static void measure_named(const char *name, double milliseconds)
{
    struct subject subject = subject_of(name);

    if (strcmp(name, "ping-pong") == 0) {
        measure_ping_pong(name, milliseconds);
        return;
    }
    if (subject.once == NULL) {
        fprintf(stderr, "bench.exe: what is \"%s\"?\n", name);
        ExitProcess(64);
    }
    measure(&subject, name, milliseconds);
    for (DWORD i = 0; i < subject.count; i++)
        CloseHandle(subject.objects[i]);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "partner") == 0)
        be_partner(strtoul(argv[2], NULL, 10));
    for (int i = 2; i < argc; i++)
        measure_named(argv[i], atof(argv[1]));
    return 0;
}
