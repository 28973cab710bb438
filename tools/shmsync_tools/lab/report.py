"""The report of the failure lab: one HTML page with everything in it, the matrix and a timeline for
each run.

The page needs no network and no script; the filter and the folds are checkboxes that its style
looks at. The same runs give the same page.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path

from shmsync_tools.lab.catalogue import CATALOGUE, Entry
from shmsync_tools.lab.report_timeline import Mark, Words, endings, marks
from shmsync_tools.lab.scenario import SCENARIOS, Run, Verdict
from shmsync_tools.lab.trace import Reader

#: How a verdict is told apart: a class for its colour, a sign, what it means.
LOOKS = {
    Verdict.OCCURS: ("occurs", "✗", "the failure was made to happen and seen"),
    Verdict.CANNOT_OCCUR: ("cannot", "✓", "tried, and it cannot happen; the entry says how"),
    Verdict.PREVENTED: ("prevented", "◆", "the call that would cause it is refused"),
    Verdict.NOT_REPRODUCED: ("not", "○", "was not made to happen; the entry says why"),
}
#: Room for timelines on a desktop page, for a lane and for an object's words, in px.
ROOM, LANE, WORDS = 840, 150, 105
#: Columns of words side by side; further objects go below.
WORDS_MAX = 4


def write(runs: Sequence[Run], path: Path) -> None:
    """Writes the page about these runs."""
    path.write_text(page(runs), encoding="utf-8")


def page(runs: Sequence[Run]) -> str:
    """The page about these runs."""
    engines = list(dict.fromkeys(run.engine for run in runs))
    found = {(run.number, run.engine): run for run in runs}
    return PAGE.format(
        style=(files("shmsync_tools.lab") / "report.css").read_text(encoding="utf-8").strip(),
        introduction=INTRODUCTION,
        reading=READING,
        filters="".join(_filter(verdict, engines, runs) for verdict in LOOKS),
        matrix=_matrix(engines, found),
        entries="\n".join(_entry(entry, engines, found) for entry in CATALOGUE.values()),
    )


def _text(text: str) -> str:
    """Prose, with `code` in backticks."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escape(text, quote=False))


# ---- the top of the page ----


def _badge(verdict: Verdict) -> str:
    look, sign, _ = LOOKS[verdict]
    return (
        f'<span class="verdict {look}"><span aria-hidden="true">{sign}</span>'
        f" {escape(verdict.value)}</span>"
    )


def _filter(verdict: Verdict, engines: Iterable[str], runs: Iterable[Run]) -> str:
    look, _, meaning = LOOKS[verdict]
    counts = Counter(run.engine for run in runs if run.finding.verdict is verdict)
    told = ", ".join(f"{counts[engine]} on {escape(engine)}" for engine in engines)
    return (
        f'<label><input type="checkbox" value="{look}" checked> {_badge(verdict)}</label>'
        f"<span>{escape(meaning)} ({told})</span>"
    )


def _matrix(engines: Sequence[str], found: dict[tuple[int, str], Run]) -> str:
    heads = "".join(f'<th scope="col">{escape(engine)}</th>' for engine in engines)
    chapters = groupby(CATALOGUE.values(), key=lambda entry: entry.chapter)
    bodies = "\n".join(_chapter(name, engines, entries, found) for name, entries in chapters)
    head = f'<thead><tr><th scope="col">Failure</th>{heads}</tr></thead>'
    many = ' class="many"' if len(engines) > 2 else ""
    return f'<table{many} style="--engines:{len(engines)}">{head}\n{bodies}\n</table>'


def _chapter(
    name: str,
    engines: Sequence[str],
    entries: Iterable[Entry],
    found: dict[tuple[int, str], Run],
) -> str:
    span = len(engines) + 1
    rows = [f'<tr class="chapter"><th scope="rowgroup" colspan="{span}">{escape(name)}</th></tr>']
    for entry in entries:
        cells = "".join(_cell(engine, found.get((entry.number, engine))) for engine in engines)
        rows.append(
            f'<tr><th scope="row"><a href="#f{entry.number}"><b>F{entry.number}</b> '
            f"{_text(entry.title)}</a></th>{cells}</tr>"
        )
    return "<tbody>" + "\n".join(rows) + "</tbody>"


def _cell(engine: str, run: Run | None) -> str:
    told = f'data-engine="{escape(engine)}"'
    if run is None:
        return f'<td class="none" {told}>not run</td>'
    look, sign, _ = LOOKS[run.finding.verdict]
    return (
        f'<td class="{look}" {told}><a href="#{_anchor(run)}">'
        f'<span aria-hidden="true">{sign}</span> '
        f"{escape(run.finding.verdict.value)}"
        f'<span class="hidden">, F{run.number} on {escape(engine)}</span></a></td>'
    )


def _anchor(run: Run) -> str:
    return f"f{run.number}-{run.engine}"


# ---- an entry and its runs ----


def _entry(entry: Entry, engines: Sequence[str], found: dict[tuple[int, str], Run]) -> str:
    runs = [found[entry.number, each] for each in engines if (entry.number, each) in found]
    shown = "\n".join(_run(run, entry) for run in runs) or "<p>No scenario of it was run.</p>"
    return (
        f'<section class="entry" id="f{entry.number}" aria-labelledby="f{entry.number}-title">\n'
        f'<h2 id="f{entry.number}-title"><span>F{entry.number}</span> {_text(entry.title)}</h2>\n'
        f"{_about(entry)}\n{shown}\n"
        f'<p class="up"><a href="#matrix">↑ to the matrix</a></p>\n</section>'
    )


def _about(entry: Entry) -> str:
    schemes = " and ".join(each.upper() for each in entry.schemes) or "none of Wine's schemes"
    return (
        f'<div class="about"><p class="facts">Known of {escape(schemes)}; {escape(entry.shown)}</p>'
        f"<p>{_text(entry.text)}</p>"
        f"<p><b>Windows NT:</b> {_text(entry.nt)}</p></div>"
    )


def _run(run: Run, entry: Entry) -> str:
    finding = run.finding
    name = _anchor(run)
    return (
        f'<article id="{name}" class="{"drawn" if run.steps else "bare"}" '
        f'aria-labelledby="{name}-title">\n'
        f'<h3 id="{name}-title">{escape(run.engine)}: {_badge(finding.verdict)}</h3>\n'
        f'<p class="title">{_what_is_shown(run, entry)}</p>\n'
        f'<div class="findings"><div class="{LOOKS[finding.verdict][0]}"><h4>Seen</h4>'
        f"<p>{_text(finding.seen)}</p></div>\n"
        f"<div><h4>Windows NT</h4><p>{_text(finding.nt)}</p></div></div>\n"
        f"{_timeline(run) if run.steps else NO_TIMELINE}\n</article>"
    )


def _what_is_shown(run: Run, entry: Entry) -> str:
    scenario = SCENARIOS.get((run.number, run.engine))
    title = run.title.rstrip(".")
    told = [] if title == entry.title else [f"<b>{_text(title)}.</b>"]
    if scenario and scenario.forced:
        told.append(f"Forced: {_text(scenario.forced)}.")
    return " ".join(told)


# ---- a timeline ----


def _timeline(run: Run) -> str:
    lines = list(marks(run))
    dull = sum(line.dull for line in lines)
    threads, objects = len(run.threads), len(run.objects)
    roomy = objects <= WORDS_MAX and threads * LANE + objects * WORDS <= ROOM
    reader = Reader(run)
    return "\n".join(
        (
            f'<figure class="timeline{" roomy" if roomy else ""}" '
            f'style="--lanes:{threads};--objects:{min(objects, WORDS_MAX)}">',
            f'<figcaption class="hidden">F{run.number} on {escape(run.engine)}, step by step'
            "</figcaption>",
            _fold(run, dull),
            _head(run),
            "<ol>",
            _start(run, reader),
            *(_line(line, run, reader) for line in lines),
            _end(run, lines[-1]),
            "</ol></figure>",
        )
    )


def _fold(run: Run, dull: int) -> str:
    name = f"{_anchor(run)}-all"
    hidden = f"the {dull} folded steps and " if dull else ""
    return (
        f'<input type="checkbox" id="{name}"><label for="{name}">'
        f"show {hidden}where each step is in the source</label>"
    )


def _head(run: Run) -> str:
    threads = "".join(
        f'<div class="thread t{i}"><b>{escape(name)}</b> '
        + "; ".join(f"<code>{escape(call)}</code>" for call in calls)
        + "</div>"
        for i, (name, calls) in enumerate(run.threads.items())
    )
    objects = "".join(
        f"<span><b>{escape(name)}</b> {escape(kind)}</span>" for name, kind in run.objects.items()
    )
    return f'<div class="head">{threads}<div class="objects">{objects}</div></div>'


def _lanes(lanes: Iterable[str], thread: int = -1, woken: Sequence[int] = ()) -> str:
    return "".join(
        f'<i class="{look}{" me" * (i == thread)}{" woken" * (i in woken)}"></i>'
        for i, look in enumerate(lanes)
    )


def _words(words: Words, changed: Iterable[str], reader: Reader) -> str:
    cells = []
    for name, pair in words.items():
        tag = "b" if name in changed else "span"
        cells.append(
            f"<{tag}><small>{escape(name)} </small>{escape(reader.words(name, pair))}</{tag}>"
        )
    return f'<div class="words">{"".join(cells)}</div>'


def _start(run: Run, reader: Reader) -> str:
    lanes = _lanes("on" for _ in run.threads)
    words = _words(run.before, run.before, reader)
    return f'<li class="start"><span class="number">0</span>{lanes}<p>at first</p>{words}</li>'


def _line(line: Mark, run: Run, reader: Reader) -> str:
    if line.thread < 0:
        return f'<li class="{line.kind}">{_lanes(line.lanes)}<p>{_text(line.text)}</p></li>'
    name = f"<b>{escape(list(run.threads)[line.thread])}</b>"
    if line.kind in ("call", "return"):
        lanes = _lanes(line.lanes)
        text = ("⇒ " if line.kind == "return" else "") + _arrows(line.text)
        return f'<li class="{line.kind} t{line.thread}">{lanes}<p>{name} {text}</p></li>'
    lanes = _lanes(line.lanes, line.thread, line.woken)
    looks = f"{line.kind} t{line.thread}" + " dull" * line.dull + " failed" * line.failed
    place = f" <small>{escape(line.place)}</small>" if line.place else ""
    return (
        f'<li class="{looks}"><span class="number">{line.number}</span>{lanes}'
        f"<p>{name} {_arrows(line.text)}{place}</p>{_words(line.words, line.changed, reader)}</li>"
    )


def _arrows(text: str) -> str:
    return escape(text.replace("->", "→"))


def _end(run: Run, last: Mark) -> str:
    said = "".join(
        f'<p class="t{i} {last.lanes[i]}"><b>{escape(name)}</b> {escape(text)}</p>'
        for i, (name, text) in enumerate(endings(run).items())
    )
    return f'<li class="end"><span class="number">end</span>{_lanes(last.lanes)}{said}</li>'


NO_TIMELINE = """\
<p class="plain">Shown with calls of the API and real processes, not under the scheduler: there are
no steps to draw.</p>"""

INTRODUCTION = """\
<p>Wine has had two ways to give programs the locks of Windows without asking a server each time:
ESYNC and FSYNC. Both are fast and both are wrong in places. shmsync has them as <i>engines</i>, and
this page shows, for every failure that is known of them, whether it happens to an engine here: the
threads of a small program are let on one step at a time, in an order written down beforehand, so
that the same thing happens every time.</p>
<p>The table says what was found. Each of its cells leads to the evidence: what was seen, what
Windows NT does instead, and the steps that the threads took. Only what was run has a cell.</p>"""

READING = """\
<p>Time runs downwards. Each numbered line is one step of one thread: an access to memory that the
threads share, or a system call. Each thread has a lane, and its steps are dots on it.</p>
<dl>
<dt><code>cas X: 1 → 0</code></dt><dd>compare and swap: X was 1 and is 0 now; if it
<code>fails</code> (a hollow dot), X is what is said then, and stays so</dd>
<dt><code>sleep while X is 0</code></dt><dd>if X is 0 the thread sleeps until it is woken; its lane
is hatched until then</dd>
<dt><code>wake X: 2 (B, C)</code></dt><dd>wakes those who sleep on X; triangles mark them</dd>
<dt><code>cas B's wait: waiting → served</code>, <code>wake B</code></dt><dd>handoff: B is told that
it has what it waits for, and is woken; it sleeps on a word of its own</dd>
<dt><code>read X fd: 1 → 0</code>, <code>write X fd: 0 → 1</code></dt><dd>esync: takes what the
counter of X's eventfd has, or adds to it, which wakes all who poll it</dd>
<dt><code>poll X fd, ...: sleeps</code></dt><dd>esync: sleeps until one of these counters is above
0, and looks again</dd>
<dt><code>⇒ took X</code></dt><dd>what the call that began above has returned</dd>
<dt><b class="hangs">hangs</b></dt><dd>a lane that is hatched in this colour to the end: a thread
that sleeps though it should go on</dd>
<dt><b class="hangs">✗ killed</b></dt><dd>where a thread was killed</dd>
<dt>beside the steps</dt><dd>the words of each object after the step, bold where it changed them:
1 or 0 for an event that is set or not, <code>2/5</code> for a semaphore's count and maximum,
<code>A x1</code> for a mutex that A owns and has counted once; behind a word of handoff
<code>c</code>: somebody is at it, inside the gate, and <code>q</code>: somebody may be queued;
behind a slot of esync <code>(1)</code>: what its eventfd counts, and <code>l</code>: locked</dd>
</dl>
<p>What the script does, and why, is said between the steps. Steps that touch no object's state are
folded, and so are rounds of a loop that only repeat the first.</p>
<p class="fold"><input type="checkbox" id="all"><label for="all"> show the folded steps, and where
each step is in the source, in all timelines</label></p>"""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>shmsync: the failure lab</title>
<link rel="icon" href="data:,">
<style>
{style}
</style>
</head>
<body>
<header>
<h1>The failure lab of shmsync</h1>
{introduction}
</header>
<main>
<section id="matrix" aria-labelledby="matrix-title">
<h2 id="matrix-title">What fails where</h2>
<fieldset class="filters"><legend>Show what</legend>{filters}</fieldset>
{matrix}
</section>
<section id="reading" aria-labelledby="reading-title">
<h2 id="reading-title">How to read a timeline</h2>
{reading}
</section>
{entries}
</main>
</body>
</html>
"""
