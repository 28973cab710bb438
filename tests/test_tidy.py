"""Rules of the house that no linter knows: layers, lengths, and words that have no place."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHMSYNC = ROOT / "shmsync"
NATIVE = ROOT / "native"
SKIP = {"__pycache__", "build", "dist", ".venv", ".git"}

#: Files in which a sleep is the pause between two looks, or how long a race is run.
MAY_SLEEP = {
    "tests/support/watchdog.py",
    "tests/support/actor_main.py",
    "tests/segment/test_create.py",
}


def files(*suffixes: str) -> list[Path]:
    """The project's own files of these kinds."""
    found = [
        path
        for folder in ("shmsync", "native", "tests", "tools")
        for path in (ROOT / folder).rglob("*")
    ]
    found += ROOT.glob("*")
    return sorted(
        p for p in found if p.suffix in suffixes and not SKIP & set(p.relative_to(ROOT).parts)
    )


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """The modules that a file imports, or names from, as dotted names."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def includes(path: Path) -> set[str]:
    return set(re.findall(r'^#include [<"]([^>"]+)', path.read_text(), re.MULTILINE))


# ---- layers ----


def test_errors_import_nothing_of_the_package() -> None:
    assert not [
        name for name in imports(SHMSYNC / "errors.py") if name.startswith(("shmsync", "."))
    ]


def test_engines_do_not_know_each_other() -> None:
    modules = {path.stem for path in (SHMSYNC / "engines").glob("*.py")} - {"__init__"}
    assert modules
    for module in modules:
        names = set(imports(SHMSYNC / "engines" / f"{module}.py"))
        assert not [name for name in names if name.startswith(("shmsync.engines", "."))]
    for path in NATIVE.glob("engine_*.c"):
        assert not [name for name in includes(path) if name.startswith("engine_")]


def test_the_rules_of_the_objects_know_no_engine_futex_or_clock() -> None:
    for path in NATIVE.glob("object.[ch]"):
        known = {"errno.h", "stdbool.h", "stdint.h", "stddef.h", "api.h", "object.h"}
        assert includes(path) <= known, label(path)


@pytest.mark.parametrize("module", ["_traced", "_bench"])
def test_only_tests_and_tools_import(module: str) -> None:
    for path in SHMSYNC.rglob("*.py"):
        assert not [name for name in imports(path) if module in name], label(path)


def test_the_package_imports_the_tools_in_the_command_line_only_and_late() -> None:
    for path in SHMSYNC.rglob("*.py"):
        top_level = path.name == "cli.py"
        found = [n for n in imports(path, top_level=top_level) if n.startswith("shmsync_tools")]
        assert not found, label(path)


def test_inspection_calls_nothing_that_locks_or_writes() -> None:
    tree = ast.parse((SHMSYNC / "inspect.py").read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "lib"
    }
    assert used
    assert not [name for name in used if not re.match(r"ss_peek_|ss_in_use$|SS_", name)]
    names = {n for n in imports(SHMSYNC / "inspect.py") if n.startswith("shmsync.namespace")}
    assert names <= {"shmsync.namespace.PREFIX"}
    words = "gate_lock|registry_lock|range_lock|undo_write|undo_commit|(store|swap|cas)[36]|_WRITE"
    assert not re.findall(rf"\b({words})", (NATIVE / "peek.c").read_text())


def test_shared_words_are_touched_through_the_seam_only() -> None:
    for path in [*NATIVE.glob("*.c"), *NATIVE.glob("*.h")]:
        found = re.findall(
            r"__atomic_|__sync_|\bsyscall\(|pthread_mutex_\w*lock\(&(?!registry)", path.read_text()
        )
        assert not found, f"{label(path)}: {found}"


# ---- lengths ----


@pytest.mark.parametrize(
    ("suffix", "columns"), [(".py", 100), (".pyi", 100), (".c", 120), (".h", 120)]
)
def test_lines_fit(suffix: str, columns: int) -> None:
    long = [
        f"{label(path)}:{number}"
        for path in files(suffix)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(re.sub(r"  # (type: ignore|noqa).*", "", line)) > columns
    ]
    assert files(suffix)
    assert not long


def python_functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


def c_functions(path: Path) -> Iterator[tuple[str, int]]:
    """A function's body is what stands between braces in the first column."""
    start, name = 0, ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if match := re.match(r"[a-z].*?(\w+)\(", line):
            name = match[1]
        if line == "{":
            start = number
        elif line == "}" and start:
            yield name, number - start + 1
            start = 0


def test_functions_are_short() -> None:
    found = [(path, *function) for path in files(".py") for function in python_functions(path)]
    found += [(path, *function) for path in files(".c", ".h") for function in c_functions(path)]
    assert len(found) > 500
    assert not [f"{label(path)}: {name} has {lines}" for path, name, lines in found if lines > 70]


# ---- words ----


def test_nothing_is_marked_as_unfinished() -> None:
    marks = re.compile(
        r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"]) + r")\b"
    )
    found = [
        label(p)
        for p in files(".py", ".pyi", ".c", ".h", ".md", ".toml", ".sh")
        if marks.search(p.read_text())
    ]
    assert not found


def test_tests_look_instead_of_sleeping() -> None:
    sleepers = {
        label(path)
        for path in (ROOT / "tests").rglob("*.py")
        if re.search(r"\btime\.sleep\(|\bfrom time import .*sleep", path.read_text())
    }
    assert sleepers - {label(Path(__file__))} <= MAY_SLEEP


def test_every_module_can_be_imported_and_says_what_it_is() -> None:
    for path in sorted(SHMSYNC.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        assert ast.get_docstring(ast.parse(path.read_text())), label(path)
        if parts[-1] != "__main__":
            importlib.import_module(".".join(part for part in parts if part != "__init__"))
