"""The command ``shmsync``: see what is there, who waits for whom, clean up, check the machine.

Reading commands take no lock and write nothing, so they work on a namespace whose programs hang.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NoReturn

from shmsync import errors

if TYPE_CHECKING:
    from shmsync import inspect

EPILOG = """\
examples:
  shmsync ls                      what namespaces there are, and whether somebody uses them
  shmsync show render-farm        its objects, who holds them, who waits for what
  shmsync show render-farm --json | jq '.objects[] | select(.waiters > 0)'
  shmsync gc --dry-run            what dead processes left behind
  shmsync rm render-farm          remove one that nobody uses any more
  shmsync doctor                  can this machine run shmsync, and what should be known about it
  shmsync lab run F2 --engine fsync --trace
                                  a known failure, step by step; `shmsync lab --help`
  shmsync bench run --quick       how fast it is here, beside others; `shmsync bench --help`

exit status:
  0   done, or yes
  1   no: `ls PATTERN` found nothing of that name
  64  the command line is wrong
  66  there is no such namespace
  69  this machine or version cannot do it; the file is not a segment that it can read
  71  the operating system refused
  73  it was not removed: somebody uses it, or it is no segment of ours
"""


class Exit(IntEnum):
    """Exit statuses, those of flock(1) and sysexits.h."""

    OK = 0
    NO = 1
    USAGE = 64
    NOT_FOUND = 66
    UNAVAILABLE = 69
    OS_ERROR = 71
    NOT_REMOVED = 73


class RefusedError(Exception):
    """The command ends with this message and this exit status."""

    def __init__(self, status: Exit, message: str) -> None:
        super().__init__(message)
        self.status = status


class Parser(argparse.ArgumentParser):
    """argparse, with the exit status that the rest of the command uses."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(Exit.USAGE, f"{self.prog}: {message}; `{self.prog} --help` shows examples\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe (head) has seen enough. Python would complain again while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        return 130
    except (errors.ShmSyncError, RefusedError, OSError, ValueError) as error:
        refused = _refused(error, getattr(arguments, "name", None))
        print(f"shmsync {arguments.command}: {refused}", file=sys.stderr)
        return refused.status
    return status


def _refused(error: Exception, name: str | None) -> RefusedError:
    """An error as a message that says what to do next, and an exit status."""
    from shmsync.inspect import printable

    said = printable(name or "")
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, errors.NotFoundError):
        return RefusedError(
            Exit.NOT_FOUND,
            f"there is no namespace {said!r}; `shmsync ls` lists those that exist",
        )
    if isinstance(error, errors.BrokenError | errors.UnsupportedError):
        return RefusedError(
            Exit.UNAVAILABLE,
            f"cannot read {said!r}: {error.strerror}; `shmsync rm --force` removes such a file",
        )
    if isinstance(error, PermissionError):
        return RefusedError(
            Exit.OS_ERROR,
            f"{printable(str(error))}; run it as the user who made the namespace, or as root",
        )
    if isinstance(error, OSError):
        return RefusedError(Exit.OS_ERROR, printable(str(error)))
    return RefusedError(Exit.USAGE, printable(str(error)))


# ---- the command line ----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="shmsync",
        description="Look at and clean up shmsync's namespaces: the synchronization objects that "
        "unrelated programs share through /dev/shm.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_add_ls, _add_show, _add_rm, _add_gc, _add_doctor, _add_lab, _add_bench):
        add(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"shmsync {version('shmsync')}")
        parser.exit(Exit.OK)


def add_command(
    commands: Any, name: str, run: Any, *, summary: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    """A subcommand whose ``--help`` keeps the line breaks of its texts."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option of every command that reads."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _add_ls(commands: Any) -> None:
    parser = add_command(
        commands,
        "ls",
        _ls,
        summary="list the namespaces",
        description="Lists all namespaces, or those that match a shell pattern.",
        epilog="examples:\n"
        "  shmsync ls\n"
        "  shmsync ls 'render-*' || echo 'none of that name'\n"
        "  shmsync ls --json | jq -r '.namespaces[] | select(.in_use | not) | .name'\n",
    )
    parser.add_argument(
        "patterns", nargs="*", metavar="PATTERN", help="list only matching names; exit 1 if none is"
    )
    add_json(parser)


def _add_show(commands: Any) -> None:
    from shmsync.inspect import LEGEND

    parser = add_command(
        commands,
        "show",
        _show,
        summary="show what is in a namespace, who holds it and who waits",
        description="Shows objects, waiting threads and processes of a namespace. It takes no\n"
        "lock and writes nothing, so it works when everything hangs; two lines may be of\n"
        "different instants.",
        epilog=f"columns of the objects:\n{_indented(LEGEND)}\n\n"
        "examples:\n"
        "  shmsync show render-farm\n"
        "  watch -n 0.5 shmsync show render-farm\n",
    )
    parser.add_argument("name", metavar="NAMESPACE")
    add_json(parser)


def _add_rm(commands: Any) -> None:
    parser = add_command(
        commands,
        "rm",
        _rm,
        summary="remove a namespace",
        description="Removes a namespace that no living process uses.",
        epilog="With --force it also removes one that is in use: its programs go on undisturbed\n"
        "with what they have open, and the next program of that name starts a new one without\n"
        "them. Damaged segments and files of others in the way are removed with --force only.\n\n"
        "examples:\n"
        "  shmsync rm render-farm\n"
        "  shmsync rm --force render-farm\n",
    )
    parser.add_argument("name", metavar="NAMESPACE")
    parser.add_argument("--force", action="store_true", help="even if it is in use or not ours")


def _add_gc(commands: Any) -> None:
    parser = add_command(
        commands,
        "gc",
        _gc,
        summary="collect what dead processes left behind",
        description="Removes namespaces that no living process uses, unless they are persistent.\n"
        "In those in use it collects the slots and objects of processes that died. (Programs do\n"
        "the same when they open a namespace; this is for those that nobody opens.)",
        epilog="examples:\n  shmsync gc --dry-run\n  shmsync gc\n  shmsync gc 'test-*'\n",
    )
    parser.add_argument(
        "patterns", nargs="*", metavar="PATTERN", help="only in namespaces of matching names"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    add_json(parser)


def _add_doctor(commands: Any) -> None:
    parser = add_command(
        commands,
        "doctor",
        _doctor,
        summary="check whether shmsync works on this machine",
        description="Looks at everything that shmsync needs from kernel, /dev/shm and container,\n"
        "tries the default engine on a namespace of its own, and says which engines work. Exit\n"
        "status 0 if the default engine works, 69 if not.",
        epilog="examples:\n  shmsync doctor\n  shmsync doctor --json | jq .engines\n",
    )
    add_json(parser)


def _add_lab(commands: Any) -> None:
    _add_tool(commands, "lab", _lab, summary="every known failure on demand")


def _add_bench(commands: Any) -> None:
    _add_tool(commands, "bench", _bench, summary="how fast it is, beside what others do")


def _add_tool(commands: Any, name: str, run: Any, *, summary: str) -> None:
    # Its arguments, and its help, are its own: no argument looks like an option to this parser.
    parser = commands.add_parser(name, help=summary, add_help=False, prefix_chars="\0")
    parser.add_argument("arguments", nargs="*")
    parser.set_defaults(run=run)


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())


def print_json(value: Any) -> None:
    """What ``--json`` prints."""
    print(json.dumps(value, indent=2))


# ---- ls ------------------------------------------------------------------------------------------


def _ls(arguments: argparse.Namespace) -> int:
    from shmsync import inspect

    names = _matching(arguments.patterns)
    entries = [entry for name in names if (entry := _entry(name)) is not None]
    if arguments.json:
        print_json({"namespaces": entries})
    elif entries:
        titles = ("NAME", "ENGINE", "OBJECTS", "PROCESSES", "IN USE", "SIZE", "NOTE")
        rows = [_ls_row(entry) for entry in entries]
        print(inspect.columns(titles, rows, right=(2, 3, 5)))
    elif not arguments.patterns:
        print("no namespaces; a program makes one with shmsync.Namespace(name)", file=sys.stderr)
    return Exit.NO if arguments.patterns and not entries else Exit.OK


def _matching(patterns: list[str]) -> list[str]:
    """The names of the namespaces that match one of the patterns; of all without patterns."""
    from shmsync import inspect

    names = inspect.namespaces()
    return [n for n in names if any(fnmatchcase(n, p) for p in patterns)] if patterns else names


def _entry(name: str) -> dict[str, Any] | None:
    """All that `ls` says of a namespace; None if it went away meanwhile."""
    from shmsync import inspect

    path = inspect.path_of(name)
    entry: dict[str, Any] = {"name": name, "path": path, "engine": None, "persistent": None}
    entry |= {"objects": None, "processes": None, "in_use": None, "problem": None, "created": None}
    try:
        status = os.lstat(path.encode("utf-8", "surrogateescape"))
        entry |= {"size": status.st_size, "uid": status.st_uid, "mode": status.st_mode & 0o7777}
        with inspect.Reader(name) as reader:
            header = reader.header()
            entry |= {
                "engine": header.engine,
                "persistent": header.persistent,
                "objects": sum(1 for _ in reader.objects()),
                "processes": sum(process.alive for process in reader.processes()),
                "created": header.created,
            }
        entry["in_use"] = inspect.in_use(name)
    except FileNotFoundError:
        return None
    except errors.ShmSyncError as error:
        entry["problem"] = getattr(error, "strerror", None) or str(error)
        entry["in_use"] = _in_use_or_none(name)
    except OSError as error:
        entry["problem"] = f"cannot be read: {error.strerror}"
    return entry


def _in_use_or_none(name: str) -> bool | None:
    """Whether somebody uses it; None of a file of which that cannot be said."""
    from shmsync import inspect

    try:
        return inspect.in_use(name)
    except (OSError, errors.ShmSyncError):
        return None


def _ls_row(entry: dict[str, Any]) -> tuple[str, ...]:
    from shmsync.inspect import printable

    in_use = {True: "yes", False: "no", None: "?"}[entry["in_use"]]
    note = entry["problem"] or ("persistent" if entry["persistent"] else "")
    return (
        printable(entry["name"]),
        entry["engine"] or "?",
        "?" if entry["objects"] is None else str(entry["objects"]),
        "?" if entry["processes"] is None else str(entry["processes"]),
        in_use,
        _bytes(entry["size"]),
        note,
    )


def _count(number: int, what: str) -> str:
    """ "1 process", "2 processes"."""
    plural = "es" if what.endswith("s") else "s"
    return f"{number} {what}{plural if number != 1 else ''}"


def _bytes(count: int) -> str:
    """A size with a unit: 1536 -> "1.5 KiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


# ---- show ----------------------------------------------------------------------------------------


def _show(arguments: argparse.Namespace) -> int:
    from shmsync import inspect

    seen = inspect.snapshot(arguments.name)
    # Pids of another pid namespace are other processes' here, or nobody's.
    ours = seen.pid_namespace == os.stat("/proc/self/ns/pid").st_ino
    if arguments.json:
        print_json(_show_json(seen, ours))
    else:
        print("\n".join(_show_lines(seen, ours)))
    return Exit.OK


def _show_json(seen: inspect.Snapshot, ours: bool) -> dict[str, Any]:
    from shmsync.inspect import command

    value = asdict(seen)
    value["instance"] = f"{seen.instance:016x}"  # JSON's numbers end at 2^53
    for process in value["processes"]:
        process["command"] = command(process["pid"]) if ours and process["alive"] else None
    return value


def _show_lines(seen: inspect.Snapshot, ours: bool) -> list[str]:
    from shmsync import inspect

    lines = _summary(seen)
    lines += ["", inspect.describe(seen, commands=ours)] if seen.objects else ["", "no objects"]
    if waiting := [thread for thread in seen.threads if thread.waiting_on]:
        lines += ["", *_wait_lines(seen, waiting)]
    if seen.processes:
        lines += ["", _process_lines(seen, ours)]
    return lines


def _summary(seen: inspect.Snapshot) -> list[str]:
    from shmsync.inspect import printable

    alive = sum(process.alive for process in seen.processes)
    dead = len(seen.processes) - alive
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seen.created))
    lines = [
        f"{printable(seen.name)}: engine {seen.engine}, "
        f"{len(seen.objects)} of {seen.capacity} objects, "
        f"{len(seen.threads)} of {seen.thread_capacity} threads, "
        f"{_count(alive, 'living process')}, {_bytes(seen.size)}, made {created}"
        + (", persistent" if seen.persistent else "")
    ]
    if dead:
        lines.append(f"{_count(dead, 'dead process')} to be collected, as `shmsync gc` does")
    if seen.gate_tid:
        lines.append(f"thread {seen.gate_tid} is changing the namespace's tables right now")
    elif seen.in_transaction:
        lines.append("a change was cut short by a death; the next program that comes by undoes it")
    return lines


def _wait_lines(seen: inspect.Snapshot, waiting: list[inspect.ThreadInfo]) -> list[str]:
    from shmsync import inspect

    labels = {info.slot: _label_and_holder(info) for info in seen.objects}
    rows = [
        (
            str(thread.pid),
            str(thread.tid),
            thread.wait_kind,
            ", ".join(labels.get(slot, f"#{slot} (gone)") for slot in thread.waiting_on),
        )
        for thread in waiting
    ]
    return [inspect.columns(("PID", "TID", "WAITS", "FOR"), rows)]


def _label_and_holder(info: inspect.ObjectInfo) -> str:
    from shmsync import inspect

    holder = f" (held by pid {info.owner.pid})" if info.owner is not None else ""
    return inspect.label(info) + holder


def _process_lines(seen: inspect.Snapshot, ours: bool) -> str:
    from shmsync import inspect

    rows = [
        (
            str(process.pid),
            str(process.open_objects),
            "yes" if process.alive else "dead",
            inspect.short_command(process.pid) if ours and process.alive else "",
        )
        for process in seen.processes
    ]
    titles = ("PID", "OPEN", "ALIVE", "COMMAND" if ours else "(pids of another pid namespace)")
    return inspect.columns(titles, rows)


# ---- rm and gc -----------------------------------------------------------------------------------


def _rm(arguments: argparse.Namespace) -> int:
    from shmsync import inspect, namespace

    name: str = arguments.name
    if arguments.force:
        _remove_by_force(name)
        return Exit.OK
    try:
        with inspect.Reader(name) as reader:
            pids = [str(process.pid) for process in reader.processes() if process.alive]
    except (errors.BrokenError, errors.UnsupportedError) as error:
        if inspect.is_unfinished(name) and namespace.unlink_unused(name):
            return Exit.OK
        raise RefusedError(
            Exit.NOT_REMOVED,
            f"{inspect.printable(name)!r}: {error.strerror}; --force removes it all the same",
        ) from None
    if not namespace.unlink_unused(name):
        users = f"in use by pid {', '.join(pids)}" if pids else "in use"
        raise RefusedError(
            Exit.NOT_REMOVED,
            f"{inspect.printable(name)!r} is {users}; end them first, or use --force: they keep "
            "what they have open, and the next program of that name starts anew",
        )
    return Exit.OK


def _remove_by_force(name: str) -> None:
    """Unlinks the file, whatever it is, as long as it is in our place and has our prefix."""
    from shmsync import inspect, namespace

    try:
        namespace.unlink(name)
        return
    except (errors.ShmSyncError, OSError, ValueError):
        pass  # nothing that can be opened as a segment: only the name is left to remove
    path = inspect.path_of(name)
    try:
        os.unlink(path.encode("utf-8", "surrogateescape"))
    except IsADirectoryError:
        raise RefusedError(
            Exit.NOT_REMOVED, f"{inspect.printable(path)} is a directory; remove it with rm -r"
        ) from None
    except FileNotFoundError:
        raise errors.NotFoundError(2, "no such namespace", name) from None


def _gc(arguments: argparse.Namespace) -> int:
    results = []
    for name in _matching(arguments.patterns):
        try:
            result = _gc_one(name, arguments.dry_run)
        except FileNotFoundError:
            continue  # somebody else was faster
        except (errors.ShmSyncError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            result = _gc_result(name, "failed", reason)
        if result is not None:
            results.append(result)
    if arguments.json:
        print_json({"dry_run": arguments.dry_run, "namespaces": results})
    else:
        _print_gc(results, arguments.dry_run)
    return Exit.OS_ERROR if any(r["action"] == "failed" for r in results) else Exit.OK


def _gc_result(
    name: str, action: str, reason: str | None = None, processes: int = 0, objects: int | None = 0
) -> dict[str, Any]:
    return {
        "name": name,
        "action": action,
        "reason": reason,
        "processes": processes,
        "objects": objects,
    }


def _gc_one(name: str, dry_run: bool) -> dict[str, Any] | None:
    """Collects in one namespace; None if there is nothing to say about it.

    Actions: "removed"; "collected", in a namespace that stays; "left", with a reason; "failed"."""
    from shmsync import inspect, namespace

    try:
        before = inspect.snapshot(name)
    except (errors.BrokenError, errors.UnsupportedError) as error:
        if inspect.is_unfinished(name) and (dry_run or namespace.unlink_unused(name)):
            return _gc_result(name, "removed")
        return _gc_result(name, "left", f"{error.strerror}; `shmsync rm --force` removes it")
    dead = sum(not process.alive for process in before.processes)
    unused = not before.persistent and not inspect.in_use(name)
    if unused and (dry_run or namespace.unlink_unused(name)):
        return _gc_result(name, "removed", None, dead, len(before.objects))
    if not dead:
        return None
    if dry_run:
        # Which objects would go is known only under the lock.
        return _gc_result(name, "collected", None, dead, None)
    return _collect_dead(before)


def _collect_dead(before: inspect.Snapshot) -> dict[str, Any]:
    """Collects dead processes and their objects in a namespace that somebody uses."""
    from shmsync import inspect, namespace

    try:
        namespace.Namespace(before.name, create=False).close()  # attaching collects
    except (errors.BrokenError, errors.UnsupportedError) as error:
        # Of another user, say: his gc can do it.
        return _gc_result(before.name, "left", error.strerror)
    after = inspect.snapshot(before.name)
    there = {(p.slot, p.pid, p.start_time) for p in after.processes}
    dead = [(p.slot, p.pid, p.start_time) for p in before.processes if not p.alive]
    left = {(info.slot, info.generation) for info in after.objects}
    objects = sum((info.slot, info.generation) not in left for info in before.objects)
    gone = sum(process not in there for process in dead)
    return _gc_result(before.name, "collected", None, gone, objects)


def _print_gc(results: list[dict[str, Any]], dry_run: bool) -> None:
    from shmsync.inspect import printable

    for result in results:
        name = printable(result["name"])
        if result["action"] == "removed":
            verb = "would be removed" if dry_run else "removed"
            print(f"{name}: {verb}, nobody uses it ({_count(result['objects'], 'object')})")
        elif result["action"] == "collected":
            verb = "would be collected" if dry_run else "collected"
            objects = result["objects"]  # unknown before it is done
            things = "" if objects is None else f" and {_count(objects, 'object')}"
            print(f"{name}: {_count(result['processes'], 'dead process')}{things} {verb}")
        else:
            stream = sys.stderr if result["action"] == "failed" else sys.stdout
            print(f"{name}: {result['action']}: {result['reason']}", file=stream)
    if not results:
        print("nothing to collect")


# ---- doctor --------------------------------------------------------------------------------------


def _doctor(arguments: argparse.Namespace) -> int:
    from shmsync import doctor

    report = doctor.examine()
    if arguments.json:
        print_json(asdict(report))
    else:
        print(doctor.describe(report))
    return Exit.OK if report.ok else Exit.UNAVAILABLE


# ---- lab and bench -------------------------------------------------------------------------------


def _lab(arguments: argparse.Namespace) -> int:
    try:
        from shmsync_tools.lab.cli import main as lab
    except ImportError as error:
        raise _not_installed("lab", error) from None
    return lab(arguments.arguments)


def _bench(arguments: argparse.Namespace) -> int:
    try:
        from shmsync_tools.bench.cli import main as bench
    except ImportError as error:
        raise _not_installed("bench", error) from None
    return bench(arguments.arguments)


def _not_installed(name: str, error: ImportError) -> RefusedError:
    return RefusedError(
        Exit.UNAVAILABLE,
        f"the {name} is not installed ({error}); it is in shmsync's source, and comes with"
        " `pip install` of that",
    )
