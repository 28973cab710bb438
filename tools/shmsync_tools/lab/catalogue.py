"""The catalogue: every way in which ESYNC and FSYNC are known to fail, in words.

Both are schemes of Wine's that keep NT's synchronization objects in user space. ESYNC has an
eventfd for each object, and a slot of shared memory beside it that says what the eventfd cannot:
owner, recursion count, limit. FSYNC has only the slot, and its first word is a futex. The engines
``esync`` and ``fsync`` follow them step by step. The numbers are stable: sources, tests and the lab
refer to a failure as F1 ... F63. The last is none of Wine's: it is what it costs to have no server.

In the texts A, B and C are threads, X and Y auto-reset events, M is a mutex, S a semaphore and E a
manual-reset event, unless a text says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: How a failure is made to happen.
ALONE: Final = "one thread is enough"
HELD: Final = "a thread is held between two steps"
KILLED: Final = "a thread is killed between two steps"
RACE: Final = "a race: counted over all schedules"
TOLD: Final = "not to be shown by steps"


@dataclass(frozen=True)
class Entry:
    """One failure. ``schemes`` are those of Wine's that have it, "esync" and "fsync"; ``shown`` is
    how it can be made to happen; ``text`` tells it; ``nt`` is what NT does instead."""

    number: int
    title: str
    schemes: tuple[str, ...]
    shown: str
    text: str
    nt: str

    @property
    def chapter(self) -> str:
        """The part of the catalogue that it belongs to."""
        return next(name for last, name in CHAPTERS if self.number <= last)


#: Last entry and name of each chapter.
CHAPTERS: Final = (
    (17, "Waiting for all"),
    (25, "Pulse, set and reset"),
    (35, "Who gets it, and when"),
    (47, "Dying threads and processes"),
    (54, "Shared memory as an interface"),
    (63, "Lifetime and cost"),
)

E: Final = ("esync",)
F: Final = ("fsync",)
EF: Final = ("esync", "fsync")
NONE: Final = ()


def _entry(
    number: int, schemes: tuple[str, ...], shown: str, title: str, text: str, nt: str
) -> Entry:
    return Entry(number, title, schemes, shown, " ".join(text.split()), " ".join(nt.split()))


_WAITING_FOR_ALL: Final = [
    _entry(
        1,
        EF,
        HELD,
        "A wait-all that is half done can be seen",
        """A wait-all takes its objects one after the other. Between the first and the last,
        others find the first gone: a poll for it times out, a query says it is reset, a set
        reports that it was reset before. Then the last one cannot be had, the first is put
        back, and nobody ever had it.""",
        """Either all are taken at one instant or none is: what a wait-all does not get, others
        never miss.""",
    ),
    _entry(
        2,
        F,
        HELD,
        "A roll back wakes nobody (lost wake-up)",
        """A's wait-all takes X and fails at Y. B, who comes for X meanwhile, finds it reset and
        goes to sleep. A puts X back with a plain store and wakes nobody, so B sleeps beside a
        set event. A later set finds it set already and does not wake either: B sleeps until
        somebody else takes or resets X and it is set once more.""",
        """Nothing is taken, so nothing has to be put back: B gets X at once.""",
    ),
    _entry(
        3,
        F,
        HELD,
        "A roll back frees a mutex that was the caller's before",
        """A owns M and waits for M and Y. M counts as taken, since it is A's already. Y turns
        out to be gone, and the roll back makes M free, although A had it before the wait began.
        Somebody else takes it: two threads believe that they own M. A's release is refused, and
        the old recursion count stays in the slot, so that the next owner may have to release
        more often than he acquired.""",
        """A wait-all that does not succeed changes nothing: M stays A's, as often as before.""",
    ),
    _entry(
        4,
        F,
        HELD,
        "A roll back forgets that a mutex was abandoned",
        """M's owner has died. A's wait-all takes M and knows that it was abandoned, then fails
        at its other object and puts M back as an ordinary free mutex. Its next owner is told
        nothing of the death.""",
        """M stays abandoned until somebody acquires it, and that one is told.""",
    ),
    _entry(
        5,
        F,
        HELD,
        "A roll back signals an event that was reset meanwhile",
        """A's wait-all has taken X. B resets X, which seems to be reset already. A fails at Y
        and sets X again: after the reset, and without anybody's set, X is signaled.""",
        """A reset event stays reset until somebody sets it.""",
    ),
    _entry(
        6,
        F,
        HELD,
        "A roll back lifts a semaphore above its maximum",
        """S has one token of at most one. A's wait-all takes it. B releases one more, which
        looks allowed. A fails at its other object and puts its token back: two, of at most one.""",
        """B's release is refused, for S was never empty.""",
    ),
    _entry(
        7,
        F,
        HELD,
        "A roll back overwrites an abandonment",
        """A's wait-all has taken M and is held. A is declared dead, so that M becomes
        abandoned; but A still runs, rolls back, and stores "free" over it. The abandonment is
        lost.""",
        """A thread that the kernel has declared dead takes no further step.""",
    ),
    _entry(
        8,
        E,
        HELD,
        "A roll back puts tokens into the wrong object",
        """A's wait-all has read X's token and fails at Y. The loop that puts back writes to Y's
        eventfd, once for each index, and never to X's. X has lost its token for ever and Y has
        gained some. If Y is a mutex that B has just taken, C now finds it readable and takes it
        too: two owners.""",
        """Nothing is taken, so nothing has to be put back.""",
    ),
    _entry(
        9,
        E,
        ALONE,
        "A wait-all on a mutex of one's own never ends",
        """A owns M and waits for M and Y, which is set. The first look leaves M out, since it
        is A's; the second polls M's eventfd with the others and can never find it readable. The
        loop runs at full speed and no timeout ends it.""",
        """The wait succeeds at once, and M is owned once more often.""",
    ),
    _entry(
        10,
        F,
        ALONE,
        "A wait-all sleeps beside an abandoned mutex",
        """The first look of a wait-all takes any mark in a mutex's owner word for an owner,
        also the mark that it is abandoned, and sleeps until it changes. Nobody will change it.
        (On kernels before 6.7; newer ones turn it into F11.)""",
        """The wait takes all objects and reports the abandoned mutex.""",
    ),
    _entry(
        11,
        F,
        ALONE,
        "A wait-all on an abandoned mutex spins",
        """As F10, but the mark is widened to 64 bits as a negative number. Kernels from 6.7 on
        refuse to sleep on that. The loop takes the refusal for a reason to look again: a whole
        CPU is busy, and no timeout ends it.""",
        """The wait takes all objects and reports the abandoned mutex.""",
    ),
    _entry(
        12,
        EF,
        ALONE,
        "The same object twice in one wait-all",
        """Each object is looked at by itself, so the first grab of an auto-reset event empties
        it for the second, again and again, and no timeout ends it. A semaphore loses two
        tokens, a mutex is counted twice; ESYNC's roll back (F8) even mints a token.""",
        """The call is refused as a wrong argument.""",
    ),
    _entry(
        13,
        EF,
        HELD,
        "The one instant is missed",
        """A sleeps for X and Y. B sets both and resets X at once. A was woken but has not run
        yet; when it does, X is reset and it sleeps on. If one of the objects happens to be
        taken whenever A looks, A waits for ever.""",
        """Each signal itself tests whether a wait-all is now complete, and completes it.""",
    ),
    _entry(
        14,
        EF,
        HELD,
        "Two wait-alls in opposite order go on for ever",
        """A waits for X and Y, B for Y and X; both are set. Each takes its first, fails at its
        second, puts the first back and starts again. In lockstep that goes on for ever,
        although both objects are there.""",
        """One of them gets both.""",
    ),
    _entry(
        15,
        EF,
        HELD,
        "A retrying wait-all does not see its deadline",
        """Only a sleep can end with "timed out". A wait-all that finds each object signaled at
        some time, but never all, does not sleep: it retries (F9 to F14) far beyond its
        deadline. Even a poll may never return.""",
        """A timeout ends every wait, and a poll never blocks.""",
    ),
    _entry(
        16,
        EF,
        HELD,
        "An owned mutex with a count of zero",
        """Owner and recursion count are two words. Between the one store and the other a query
        sees a mutex that is owned zero times. A wait-all counts its mutexes only after the last
        grab, so the window is as long as the grab.""",
        """A query sees the mutex before or after the change, never between.""",
    ),
    _entry(
        17,
        EF,
        HELD,
        "A wait-all succeeds though the objects were never signaled together",
        """A has seen X and Y set and begins to take them. Y is reset; A takes X; X is reset and
        Y set again; A takes Y. The wait succeeds although, since it began to take, X and Y were
        not set at one time. A manual-reset event is not even looked at again: A succeeds with
        it reset.""",
        """Testing and taking is one act: all objects are signaled at that instant.""",
    ),
]

_PULSE: Final = [
    _entry(
        18,
        EF,
        HELD,
        "A pulse releases nobody",
        """A pulse is a set, a short pause and a reset. A sleeper that was woken but does not
        run within the pause finds the event reset and sleeps on.""",
        """Every thread that waits on the event at that instant is released.""",
    ),
    _entry(
        19,
        EF,
        HELD,
        "A pulse releases those who come later, and the same one again",
        """While the event is set, whoever begins a wait passes; a thread in a loop passes again
        and again, all with one pulse.""",
        """Only those are released who wait at that instant, each once.""",
    ),
    _entry(
        20,
        EF,
        HELD,
        "A pulse undoes a set that came after it",
        """Between a pulse's set and its reset somebody sets the event. That set finds it set
        and wakes nobody; then the pulse resets it. The set is lost although it came after the
        pulse.""",
        """Pulse and set happen one after the other: after the later set, the event is set.""",
    ),
    _entry(
        21,
        E,
        ALONE,
        "A pulse leaves a set event in two minds",
        """A pulse of a manual-reset event that is set empties its eventfd and leaves its slot
        saying "set". From then on a wait for one or any object passes always, a wait-all and a
        query see it reset, and a set repairs nothing, since the slot says that it is set.""",
        """A pulse of a set event resets it.""",
    ),
    _entry(
        22,
        EF,
        HELD,
        "A pulse does not complete a wait-all",
        """A sleeps for E and Y; Y is set. A pulse of E wakes A, but to succeed it would have to
        look at all objects and take them within the pulse's pause.""",
        """The pulse completes the wait: A has both when the pulse returns.""",
    ),
    _entry(
        23,
        EF,
        HELD,
        "Set followed by reset releases nobody",
        """Programs pulse by hand: set, then reset at once. The sleepers are woken, find the
        event reset, and sleep on.""",
        """A sleeper is released within the set itself; the reset comes too late to matter.""",
    ),
    _entry(
        24,
        EF,
        ALONE,
        "Calls on an object of another kind",
        """Nobody asks what kind of object a handle means. FSYNC's reset on a mutex frees it,
        whoever owns it, and on a semaphore empties it; a release of 30 on an event succeeds and
        leaves 30 in its word, which satisfies every wait from then on and is never consumed.""",
        """The call is refused: the object is of another type.""",
    ),
    _entry(
        25,
        E,
        HELD,
        "A set is lost in a reset that is half done",
        """A resets X and has cleared its slot but not yet its eventfd. The server sets X: slot
        and eventfd say so. A goes on and empties the eventfd. The slot says "set", no wait
        succeeds, and the server's next set does nothing since the slot says "set".""",
        """Set and reset happen one after the other.""",
    ),
]

_WHO_GETS_IT: Final = [
    _entry(
        26,
        EF,
        HELD,
        "The woken waiter is robbed",
        """A release frees the object and wakes a sleeper, who has to take it himself. A
        newcomer takes it first, without any system call, and the sleeper sleeps again. A thread
        that releases and acquires in a loop can starve him for ever.""",
        """The release hands the object to the first in the queue.""",
    ),
    _entry(
        27,
        EF,
        HELD,
        "Last come, first served",
        """All sleepers are woken, and the first that gets to run takes the object, in whatever
        order they came.""",
        """First come, first served.""",
    ),
    _entry(
        28,
        EF,
        HELD,
        "One token wakes everybody",
        """Each release wakes all sleepers, of which one gets the token while the others ran for
        nothing and sleep again.""",
        """One token wakes one thread.""",
    ),
    _entry(
        29,
        F,
        HELD,
        "A wake goes to one who no longer needs it",
        """Why FSYNC wakes everybody: an early version woke only as many as there were tokens. B
        waits for S or X, C for S. X and S are signaled at the same time; the one wake for S
        goes to B, who returns with X, and C sleeps on beside a token.""",
        """An object is claimed for a waiter first and taken in his name, so no wake is wasted.""",
    ),
    _entry(
        30,
        F,
        HELD,
        "Spinning takes too much, or sleeps on an old value",
        """A patch that spins before it sleeps put the grab inside the loop and could take a
        semaphore several times for one wait; another version went to sleep until an outdated
        count that was not zero changed.""",
        """One wait takes one token.""",
    ),
    _entry(
        31,
        F,
        HELD,
        "A poll fails though a token was there all along",
        """A polls S and reads 2. B takes one. A's compare-and-swap fails since S is now 1, and
        with no time to wait the poll says "timed out". S was never empty.""",
        """The poll takes a token.""",
    ),
    _entry(
        32,
        F,
        RACE,
        "A deadline ends a wait beside a set event",
        """The event is set just before the deadline comes. The sleep ends with "timed out"
        before the wake arrives, and the wait returns that without a last look at the event.""",
        """An event that is set while the thread still waits satisfies the wait, deadline or
        not.""",
    ),
    _entry(
        33,
        EF,
        ALONE,
        "The alert goes before the objects",
        """Object and alert (Wine: an asynchronous procedure call) are both signaled. The alert
        is looked at first and ends the wait; the object is left.""",
        """The objects come first, and the alert only if none is signaled.""",
    ),
    _entry(
        34,
        EF,
        TOLD,
        "A change of the clock ends a wait",
        """The deadline of a relative timeout is kept as a time of day. When somebody sets the
        system's clock forward, a wait of ten minutes ends at once.""",
        """A relative timeout knows no time of day.""",
    ),
    _entry(
        35,
        EF,
        TOLD,
        "Priorities count for nothing",
        """All sleepers are woken, and nothing orders their grabs by priority. ESYNC's spin lock
        turns priority around: a real-time thread spins while the holder of the lock cannot run.""",
        """The kernel knows who waits, and orders and boosts by rules of its own.""",
    ),
]

_DEATH: Final = [
    _entry(
        36,
        F,
        KILLED,
        "A setter dies between the change and the wake",
        """A sleeps on X. B sets X's word and is killed before it wakes anybody. Later sets find
        the event set and do not wake either: A sleeps until somebody takes or resets X and it
        is set anew.""",
        """A set is one step of the kernel: it has happened with its wake, or not at all.""",
    ),
    _entry(
        37,
        F,
        KILLED,
        "A releaser dies between the change and the wake",
        """B frees M and is killed before it wakes the sleepers. M is free and nobody's, so
        nothing is abandoned and nobody will wake them, until some other thread takes M and
        releases it. (A semaphore's next release wakes everybody and heals it.)""",
        """A release is one step of the kernel: the next owner has the mutex.""",
    ),
    _entry(
        38,
        EF,
        KILLED,
        "An owner dies in the middle of its release",
        """FSYNC: killed after the count went to 0 and before the owner was cleared, the thread
        still counts as the owner, and a mutex that was as good as released is reported
        abandoned. ESYNC: killed between clearing the owner and writing the token, it takes the
        mutex with it: no owner, no token, no abandonment.""",
        """A release is one step of the kernel: before it the mutex is owned, after it free.""",
    ),
    _entry(
        39,
        E,
        KILLED,
        "A taker dies between the token and its name",
        """A has read a mutex's token and is killed before it writes its name into the slot. The
        token is gone and the slot names no owner: the mutex is lost for ever.""",
        """Taking and owning is one step.""",
    ),
    _entry(
        40,
        E,
        KILLED,
        "A holder of an event's spin lock dies",
        """ESYNC guards a manual-reset event's slot with a spin lock that has no owner. A thread
        killed while it holds it leaves it locked: every set and reset of that event spins for
        ever, also the wineserver's, and with that everything stands still.""",
        """The kernel's own locks have no holder that could be killed.""",
    ),
    _entry(
        41,
        E,
        KILLED,
        "A semaphore's two halves disagree",
        """ESYNC keeps a semaphore as an eventfd and a count. After the token is read and before
        the count is lowered, a poll finds the semaphore empty while a release finds it full.
        Killed there, its limit is one less for ever; a releaser killed between the two takes
        its tokens with it.""",
        """There is one count.""",
    ),
    _entry(
        42,
        EF,
        KILLED,
        "A wait-all dies half way",
        """A wait-all is killed after it took some of its objects. Tokens of semaphores and
        auto-reset events have no owner to be recovered from: they are gone, though the wait
        never succeeded. (FSYNC's mutexes are abandoned like any dead thread's.)""",
        """All are taken or none; a thread that dies waiting has taken nothing.""",
    ),
    _entry(
        43,
        EF,
        HELD,
        "A mutex taken after the sweep is nobody's for ever",
        """A thread is declared dead and its mutexes are swept, while in truth it still runs and
        takes one more. That mutex belongs to a dead name, and no further sweep will come for
        it.""",
        """A thread takes no step after its own death.""",
    ),
    _entry(
        44,
        EF,
        HELD,
        "A new thread has a dead owner's name",
        """After F43 the system gives the dead thread's number to a new thread. That one owns
        the mutex without ever having acquired it: it may release it, and its acquires only
        count up.""",
        """An owner is a thread, not a number that comes again.""",
    ),
    _entry(
        45,
        F,
        HELD,
        "An abandonment that comes in two stores",
        """The sweep of a dead owner stores "abandoned" first and a count of 0 second. Between
        the two B takes the mutex and counts 1; then the sweep stores its 0. B's release counts
        down to -1, which is not 0, so that the mutex is never freed.""",
        """Abandoning is one change.""",
    ),
    _entry(
        46,
        F,
        HELD,
        "A waiter sleeps beside a free mutex",
        """M is abandoned. A's first compare-and-swap says so. B takes M and releases it. A's
        second one, for "abandoned", finds "free" and fails, and A goes to sleep for as long as
        M is free.""",
        """Looking and queueing is one act: A gets M.""",
    ),
    _entry(
        47,
        EF,
        KILLED,
        "A thread dies holding its process's own table lock",
        """Each process guards its table of handles with a lock of its own. A thread that is
        terminated while it holds that lock freezes its own process, and nobody else.""",
        """Tables of handles are the kernel's.""",
    ),
]

_MEMORY: Final = [
    _entry(
        48,
        EF,
        ALONE,
        "Anybody can scribble",
        """Whoever may map the file may write any word of it, by intention or by accident: make
        a mutex his own, give a semaphore 4,294,967,295 tokens, change a maximum, lock a spin
        lock for ever.""",
        """The state is the kernel's and can be reached by calls only.""",
    ),
    _entry(
        49,
        EF,
        ALONE,
        "The segment can be cut off",
        """Somebody shortens the file to nothing: the next touch kills every process that has it
        mapped, by SIGBUS. So does the first touch of a new page when the file system is full.""",
        """There is no file.""",
    ),
    _entry(
        50,
        EF,
        ALONE,
        "Rights of a handle do not count",
        """In NT a handle carries rights: one may allow waiting but not setting. In shared
        memory everybody who can look can also change.""",
        """A call that the handle gives no right to is refused.""",
    ),
    _entry(
        51,
        EF,
        ALONE,
        "A release count that wraps",
        """A release of 4,294,967,295 on a semaphore with one token: the sum wraps around to 0,
        passes the test against the maximum, and the release takes a token away.""",
        """The count is refused.""",
    ),
    _entry(
        52,
        E,
        ALONE,
        "The counter of an eventfd is full",
        """An eventfd counts to 2^64 - 2. If a stranger has written nearly as much into it, a
        set fails and says nothing, and a release fails after it has raised the count in the
        slot.""",
        """There is no second counter that could be full.""",
    ),
    _entry(
        53,
        EF,
        ALONE,
        "A recursion count without an end",
        """The count is a plain number that nobody tests: it wraps, and a query that runs beside
        a change reads an owner and a count that never belonged together.""",
        """At the limit the acquire fails, and the count stays.""",
    ),
    _entry(
        54,
        EF,
        ALONE,
        "Previous values by another convention",
        """NT's release of a mutex reports the previous signal state (-1 when it was held twice,
        0 when once); FSYNC reports the recursion count, 2 and 1. ESYNC's set, reset and pulse
        report nothing. Programs that look at it go astray.""",
        """The signal state: 1 minus the recursion count.""",
    ),
]

_LIFETIME: Final = [
    _entry(
        55,
        E,
        ALONE,
        "Out of file descriptors",
        """Each object costs each process that opens it a file descriptor. A usual limit of 1024
        is reached soon by programs that make thousands of objects, or leak them.""",
        """Handles are not file descriptors, and there may be millions.""",
    ),
    _entry(
        56,
        EF,
        HELD,
        "Closed while somebody waits",
        """One thread waits, another closes the handle and opens something else that gets the
        same number. ESYNC's waiter then reads a token from a stranger's descriptor; FSYNC's
        finds its pointer naming the new object and may take that.""",
        """The wait goes on, on the object that it began with.""",
    ),
    _entry(
        57,
        EF,
        HELD,
        "A slot is used again",
        """Where slots are used again, somebody with an old pointer changes another object's
        state. Where they are not, the file grows for ever.""",
        """An object lives as long as a reference to it.""",
    ),
    _entry(
        58,
        EF,
        ALONE,
        "What a crash leaves, and two schemes on one prefix",
        """A crash leaves the file behind, and the next start trips over it. A client with one
        scheme and a server with another refuse each other and abort.""",
        """Nothing outlives the processes, and there is one scheme.""",
    ),
    _entry(
        59,
        EF,
        ALONE,
        "Objects of two kinds in one wait",
        """Some objects are only the server's. A list that mixes both kinds is waited for in
        part: a wait-any misses the others, ESYNC's wait-all spins.""",
        """Everything that can be waited for can be waited for together.""",
    ),
    _entry(
        60,
        EF,
        ALONE,
        "One handle too many",
        """The table of handles has room for 1,048,576. One more is not entered, and a later
        call on it follows a null pointer or does nothing.""",
        """The call that finds no room fails, and says so.""",
    ),
    _entry(
        61,
        EF,
        ALONE,
        "A signal-and-wait that has signaled and fails",
        """The object to signal is signaled first; then the handle to wait on turns out to be
        bad, and the call fails with half of it done.""",
        """Both handles are checked before anything is signaled.""",
    ),
    _entry(
        62,
        F,
        TOLD,
        "What it costs",
        """Busy loops and processes at full CPU are reported time and again, and some programs
        ran slower than with the plain server.""",
        """A blocked thread costs nothing.""",
    ),
    _entry(
        63,
        NONE,
        HELD,
        "A process stopped inside the gate",
        """Where processes change shared tables themselves, they need a lock for that, here the
        gate. A process that dies in it is noticed; one that is stopped in it (SIGSTOP, a
        debugger, a frozen container) is alive, and whoever needs the gate waits until it is
        continued. What goes without the gate goes on.""",
        """The kernel's own lock is never held by code that somebody could stop.""",
    ),
]

CATALOGUE: Final[dict[int, Entry]] = {
    entry.number: entry
    for chapter in (_WAITING_FOR_ALL, _PULSE, _WHO_GETS_IT, _DEATH, _MEMORY, _LIFETIME)
    for entry in chapter
}
