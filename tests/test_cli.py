"""The command ``shmsync``: what it prints, its JSON, its exit statuses, what it leaves alone."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import shmsync
from shmsync import cli, doctor, inspect
from shmsync.cli import Exit
from shmsync.engine import DEFAULT, engines

from .conftest import StartActors, unique_name

COMMANDS = ("ls", "show", "rm", "gc", "doctor")


def file_of(name: str) -> Path:
    return Path("/dev/shm", f"shmsync-{name}")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("ls", "--json")`` gives exit status, standard output and standard error."""

    def run_command(*arguments: str) -> tuple[int, str, str]:
        try:
            status = cli.main(arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        out, err = capsys.readouterr()
        return int(status), out, err

    return run_command


@pytest.fixture
def small() -> Iterator[shmsync.Namespace]:
    """A namespace with a small segment."""
    with shmsync.Namespace(unique_name(), capacity=16, threads=8) as namespace:
        yield namespace


@pytest.fixture
def unused() -> Iterator[str]:
    """The name of a persistent namespace that nobody uses."""
    name = unique_name("unused")
    shmsync.Namespace(name, capacity=16, threads=8, persistent=True).close()
    yield name
    file_of(name).unlink(missing_ok=True)


@pytest.fixture
def foreign() -> Iterator[str]:
    """A name whose file is none of ours."""
    name = unique_name("foreign")
    file_of(name).write_text("something else of this name")
    yield name
    file_of(name).unlink(missing_ok=True)


LEAVE_BEHIND = """\
import os, signal, sys, shmsync
ns = shmsync.Namespace(sys.argv[1], capacity=16, threads=8)
things = [ns.event("of the dead"), ns.mutex("also")]
os.kill(os.getpid(), signal.SIGKILL)
"""


def leave_behind(name: str) -> None:
    """A process opens two objects in the namespace, making it if need be, and is killed."""
    done = subprocess.run([sys.executable, "-c", LEAVE_BEHIND, name], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL


@pytest.fixture
def orphan() -> Iterator[str]:
    """The name of a namespace whose only process was killed."""
    name = unique_name("orphan")
    leave_behind(name)
    assert file_of(name).exists()
    yield name
    file_of(name).unlink(missing_ok=True)


# ---- help and usage ----


def test_help_teaches_with_examples_and_says_the_exit_statuses(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == Exit.OK
    assert all(f"shmsync {command}" in out for command in COMMANDS)
    described = {line.split()[0] for line in out.splitlines() if line.startswith("  ")}
    assert {str(int(code)) for code in Exit} <= described


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(run: Run, command: str) -> None:
    status, out, _ = run(command, "--help")
    assert status == Exit.OK
    assert f"examples:\n  shmsync {command}" in out


@pytest.mark.parametrize(
    "arguments",
    [(), ("shw",), ("ls", "--nonsense"), ("show",), ("show", "a/b"), ("show", ""), ("rm", "a/b")],
)
def test_a_wrong_command_line_is_64_and_says_so(run: Run, arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments)
    assert status == Exit.USAGE
    assert out == ""
    assert "shmsync" in err


def test_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version") == (Exit.OK, f"shmsync {shmsync.__version__}\n", "")


@pytest.mark.parametrize("arguments", [("show",), ("rm",), ("rm", "--force")])
def test_no_such_namespace_is_66_and_points_at_ls(run: Run, arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments, "nobody-made-this")
    assert (status, out) == (Exit.NOT_FOUND, "")
    assert "'nobody-made-this'" in err
    assert "shmsync ls" in err


# ---- ls ----


def test_ls_lists_engine_objects_processes_and_use(
    run: Run, small: shmsync.Namespace, unused: str
) -> None:
    events = [small.event(), small.event()]
    status, out, _ = run("ls", small.name, unused)
    assert status == Exit.OK
    titles, *lines = out.splitlines()
    assert titles.split() == ["NAME", "ENGINE", "OBJECTS", "PROCESSES", "IN", "USE", "SIZE", "NOTE"]
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert rows[small.name][:4] == [small.engine, str(len(events)), "1", "yes"]
    assert rows[unused][:4] == [small.engine, "0", "0", "no"]
    assert rows[unused][-1] == "persistent"


def test_ls_json_has_one_record_for_each_namespace(run: Run, small: shmsync.Namespace) -> None:
    status, out, _ = run("ls", "--json", small.name)
    (record,) = json.loads(out)["namespaces"]
    assert status == Exit.OK
    assert record.pop("created") == inspect.snapshot(small.name).created
    assert record == {
        "name": small.name,
        "path": str(file_of(small.name)),
        "engine": small.engine,
        "persistent": False,
        "objects": 0,
        "processes": 1,
        "in_use": True,
        "problem": None,
        "size": file_of(small.name).stat().st_size,
        "uid": os.getuid(),
        "mode": 0o600,
    }


def test_ls_of_a_pattern_that_nothing_matches_is_1(run: Run) -> None:
    assert run("ls", "nobody-made-*") == (Exit.NO, "", "")
    status, out, _ = run("ls", "--json", "nobody-made-*")
    assert (status, json.loads(out)) == (Exit.NO, {"namespaces": []})


def test_ls_says_what_is_wrong_with_a_file(run: Run, foreign: str, unused: str) -> None:
    os.truncate(file_of(unused), 4096)
    status, out, _ = run("ls", "--json", foreign, unused)
    problems = {r["name"]: r["problem"] for r in json.loads(out)["namespaces"]}
    assert status == Exit.OK
    assert "not a shmsync segment" in problems[foreign]
    assert "damaged" in problems[unused]
    assert "not a shmsync segment" in run("ls", foreign)[1]


def test_ls_escapes_what_a_terminal_would_obey(run: Run) -> None:
    name = unique_name("\x1b[2J")
    file_of(name).touch()
    try:
        out = run("ls", "*[[]2J*")[1]
        assert "\\x1b[2J" in out
        assert "\x1b" not in out
    finally:
        file_of(name).unlink()


# ---- show ----


def test_show_says_who_holds_and_who_waits(
    run: Run, ns: shmsync.Namespace, start: StartActors
) -> None:
    lock, slots = ns.mutex("lock"), ns.semaphore("slots", 0, maximum=4)
    (actor,) = start("A")
    actor.make("lock", "mutex", "lock")
    actor.make("slots", "semaphore", "slots")
    with lock:
        actor.start("wait", ("lock", "slots"), False, None, None)
        actor.until_blocked()
        status, out, _ = run("show", ns.name)
        slots.release()
    assert status == Exit.OK
    lines = [" ".join(line.split()) for line in out.splitlines()]
    me = os.getpid()
    assert any(line.startswith(f"mutex lock held 2 1 pid {me} tid {me}") for line in lines)
    assert "sem slots 0 of 4 2 1" in lines
    assert f"{actor.pid} {actor.tid} any lock (held by pid {me}), slots" in lines
    assert any(line.startswith(f"{actor.pid} 2 yes") for line in lines)
    actor.finish()


def test_show_json_is_the_whole_snapshot(run: Run, small: shmsync.Namespace) -> None:
    tokens = small.semaphore("tokens", 1, maximum=2)
    anonymous = small.event(manual_reset=True)
    with small.mutex("lock") as lock:
        status, out, _ = run("show", "--json", small.name)
    seen: dict[str, Any] = json.loads(out)
    assert status == Exit.OK
    assert lock
    assert (seen["name"], seen["engine"], seen["capacity"]) == (small.name, small.engine, 16)
    objects = {thing["slot"]: thing for thing in seen["objects"]}
    assert objects[tokens.slot]["state"] == {"count": 1, "maximum": 2}
    assert objects[anonymous.slot]["name"] is None
    assert objects[anonymous.slot]["state"] == {"manual_reset": True, "signaled": False}
    (held,) = (thing for thing in seen["objects"] if thing["kind"] == "mutex")
    assert held["owner"]["pid"] == os.getpid()
    (process,) = seen["processes"]
    assert process["alive"]
    assert "python" in process["command"]
    assert int(seen["instance"], 16) == inspect.snapshot(small.name).instance


def test_show_says_that_processes_died(run: Run, small: shmsync.Namespace) -> None:
    leave_behind(small.name)
    out = run("show", small.name)[1]
    assert "1 dead process to be collected, as `shmsync gc` does" in out
    records = json.loads(run("show", "--json", small.name)[1])["processes"]
    assert sorted(record["alive"] for record in records) == [False, True]


def test_show_changes_nothing(run: Run, unused: str) -> None:
    content, before = file_of(unused).read_bytes(), file_of(unused).stat()
    assert run("show", unused)[0] == Exit.OK
    assert file_of(unused).read_bytes() == content
    assert file_of(unused).stat().st_mtime_ns == before.st_mtime_ns


def test_show_of_a_foreign_file_is_69_with_the_reason(run: Run, foreign: str) -> None:
    status, out, err = run("show", foreign)
    assert (status, out) == (Exit.UNAVAILABLE, "")
    assert "not a shmsync segment" in err
    assert "shmsync rm --force" in err


# ---- rm ----


def test_rm_removes_a_namespace_that_nobody_uses(run: Run, unused: str) -> None:
    assert run("rm", unused) == (Exit.OK, "", "")
    assert not file_of(unused).exists()


def test_rm_refuses_one_in_use_and_names_the_users(run: Run, small: shmsync.Namespace) -> None:
    status, _, err = run("rm", small.name)
    assert status == Exit.NOT_REMOVED
    assert f"in use by pid {os.getpid()}" in err
    assert "--force" in err
    assert file_of(small.name).exists()


def test_rm_force_removes_one_in_use_and_its_users_go_on(
    run: Run, small: shmsync.Namespace
) -> None:
    event = small.event("event", manual_reset=True)
    assert run("rm", "--force", small.name) == (Exit.OK, "", "")
    assert not file_of(small.name).exists()
    event.set()
    assert event.wait(0)


def test_rm_removes_a_foreign_file_with_force_only(run: Run, foreign: str) -> None:
    status, _, err = run("rm", foreign)
    assert status == Exit.NOT_REMOVED
    assert "not a shmsync segment" in err
    assert file_of(foreign).exists()
    assert run("rm", "--force", foreign)[0] == Exit.OK
    assert not file_of(foreign).exists()


@pytest.mark.parametrize("at", [8, 24, 32])
def test_rm_removes_a_damaged_segment_with_force_only(run: Run, unused: str, at: int) -> None:
    with file_of(unused).open("r+b") as file:
        file.seek(at)
        file.write(b"\xee" * 4)
    assert run("rm", unused)[0] == Exit.NOT_REMOVED
    assert file_of(unused).exists()
    assert run("rm", "--force", unused)[0] == Exit.OK
    assert not file_of(unused).exists()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("make", [os.mkfifo, make_link, make_socket])
def test_rm_force_removes_what_is_no_file(run: Run, make: Callable[[Path], None]) -> None:
    name = unique_name("odd")
    make(file_of(name))
    assert run("rm", name)[0] == Exit.NOT_REMOVED
    assert run("rm", "--force", name) == (Exit.OK, "", "")
    assert not os.path.lexists(file_of(name))
    assert Path("/etc/passwd").exists()


def test_rm_does_not_remove_a_directory(run: Run) -> None:
    name = unique_name("directory")
    file_of(name).mkdir()
    try:
        assert run("rm", name)[0] == Exit.NOT_REMOVED
        status, _, err = run("rm", "--force", name)
        assert status == Exit.NOT_REMOVED
        assert "is a directory" in err
    finally:
        file_of(name).rmdir()


def test_rm_removes_what_a_killed_creator_left_unfinished(run: Run) -> None:
    name = unique_name("unfinished")
    file_of(name).write_bytes(bytes(4096))
    assert run("rm", name) == (Exit.OK, "", "")
    assert not file_of(name).exists()


# ---- gc ----


def collected(out: str) -> dict[str, tuple[str, int, int | None]]:
    """What ``gc --json`` did: name to action, processes, objects."""
    records = json.loads(out)["namespaces"]
    return {r["name"]: (r["action"], r["processes"], r["objects"]) for r in records}


def test_gc_removes_a_namespace_whose_processes_were_all_killed(run: Run, orphan: str) -> None:
    status, out, _ = run("gc", orphan)
    assert status == Exit.OK
    assert out == f"{orphan}: removed, nobody uses it (2 objects)\n"
    assert not file_of(orphan).exists()
    assert run("gc", orphan) == (Exit.OK, "nothing to collect\n", "")


def test_gc_dry_run_says_the_same_and_changes_nothing(run: Run, orphan: str) -> None:
    content = file_of(orphan).read_bytes()
    status, out, _ = run("gc", "--dry-run", orphan)
    assert status == Exit.OK
    assert out == f"{orphan}: would be removed, nobody uses it (2 objects)\n"
    assert file_of(orphan).read_bytes() == content
    told = collected(run("gc", "--dry-run", "--json", orphan)[1])
    done = collected(run("gc", "--json", orphan)[1])
    assert told == done == {orphan: ("removed", 1, 2)}


def test_gc_collects_the_dead_of_a_namespace_in_use(run: Run, small: shmsync.Namespace) -> None:
    event = small.event("of the living", signaled=True)
    leave_behind(small.name)
    assert len(inspect.snapshot(small.name).objects) == 3
    told = collected(run("gc", "--dry-run", "--json", small.name)[1])
    assert told == {small.name: ("collected", 1, None)}
    assert len(inspect.snapshot(small.name).objects) == 3
    # By another process: attaching collects, and this one is attached already.
    command = [sys.executable, "-m", "shmsync", "gc", small.name]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert out == f"{small.name}: 1 dead process and 2 objects collected\n"
    seen = inspect.snapshot(small.name)
    assert [info.name for info in seen.objects] == ["of the living"]
    assert [process.pid for process in seen.processes] == [os.getpid()]
    assert event.wait(0)


def test_gc_leaves_what_is_persistent_or_in_use(
    run: Run, small: shmsync.Namespace, unused: str
) -> None:
    assert run("gc", small.name, unused) == (Exit.OK, "nothing to collect\n", "")
    assert file_of(small.name).exists()
    assert file_of(unused).exists()


def test_gc_leaves_foreign_files_and_says_why(run: Run, foreign: str) -> None:
    status, out, _ = run("gc", foreign)
    assert status == Exit.OK
    assert "not a shmsync segment" in out
    assert "shmsync rm --force" in out
    assert file_of(foreign).exists()


def test_gc_leaves_a_namespace_that_refuses_this_user_and_says_why(
    run: Run, small: shmsync.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_behind(small.name)

    def refuse(name: str, **options: object) -> NoReturn:
        assert options == {"create": False}
        raise shmsync.BrokenError(errno.EACCES, "the segment belongs to user 4711", name)

    monkeypatch.setattr("shmsync.namespace.Namespace", refuse)
    status, out, _ = run("gc", small.name)
    assert (status, out) == (Exit.OK, f"{small.name}: left: the segment belongs to user 4711\n")


def test_gc_removes_what_a_killed_creator_left_unfinished(run: Run) -> None:
    name = unique_name("unfinished")
    file_of(name).touch()
    assert collected(run("gc", "--json", name)[1]) == {name: ("removed", 0, 0)}
    assert not file_of(name).exists()


# ---- doctor ----


def test_doctor_names_every_engine_and_says_whether_the_default_works(run: Run) -> None:
    status, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert status == (Exit.OK if report["ok"] else Exit.UNAVAILABLE)
    assert [engine["name"] for engine in report["engines"] if engine["default"]] == [DEFAULT]
    assert {check["status"] for check in report["checks"]} <= {"ok", "note", "warn", "fail"}
    names = [check["name"] for check in report["checks"]]
    for name in ("kernel", "futex_waitv", "/dev/shm", "/proc", "file locks", "pid namespace"):
        assert name in names
    for name in ("CPUs", "RemoveIPC", "fs.protected_regular"):
        assert name in names
    assert report["versions"]["shmsync"] == shmsync.__version__
    for name, engine in engines().items():
        reason = engine.check()
        state = f"does not work: {reason}" if reason else "works"
        assert f"{name}: {state}" in run("doctor")[1]


def test_doctor_is_69_with_the_reason_if_the_default_engine_does_not_work(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = doctor.EngineReport("fsync", False, True, "this kernel is too old", "")
    monkeypatch.setattr(doctor, "_engines", lambda: iter([broken]))
    status, out, _ = run("doctor")
    assert status == Exit.UNAVAILABLE
    assert "fsync: does not work: this kernel is too old (the default)" in out
    assert "shmsync does not work here." in out


def test_doctor_reads_logind_settings_with_their_drop_ins(tmp_path: Path) -> None:
    def setting() -> str | None:
        return doctor.logind_setting("RemoveIPC", str(tmp_path))

    assert setting() is None
    (tmp_path / "logind.conf").write_text("[Login]\n#RemoveIPC=yes\n")
    assert setting() is None
    (tmp_path / "logind.conf").write_text("[Login]\nRemoveIPC = yes\n")
    assert setting() == "yes"
    (tmp_path / "logind.conf.d").mkdir()
    (tmp_path / "logind.conf.d" / "10-keep.conf").write_text("[Login]\nRemoveIPC=no\n")
    assert setting() == "no"


# ---- as a program ----


def test_it_runs_as_a_module_and_stays_quiet_when_its_reader_leaves() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "shmsync", "ls", "--json"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", ["ls --json", "gc --dry-run nobody-made-*"])
def test_start_up_imports_nothing_that_takes_long(command: str) -> None:
    program = (
        "import sys; from shmsync.cli import main; main(sys.argv[1:]);"
        "slow = {'psutil', 'multiprocessing', 'asyncio', 'shmsync.doctor', 'importlib.metadata'};"
        "sys.exit(f'imported: {slow & set(sys.modules)}' if slow & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *command.split()],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
