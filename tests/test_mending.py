"""Each failure that the lab shows goes away when the line at fault is mended."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from .mending import mends, mends_esync
from .mending.workshop import PARALLEL, Report, Workshop

OCCURS = "occurs"
#: The kernel decides which of these two an abandoned mutex gives under fsync.
ONE_OF_THEM = {10, 11}
MENDS = {"fsync": mends.MENDS, "esync": mends_esync.MENDS}
BY_DESIGN = {"fsync": mends.BY_DESIGN, "esync": mends_esync.BY_DESIGN}
CELLS = [(engine, number) for engine in MENDS for number in sorted(MENDS[engine])]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Everything compiled once."""
    return Workshop(tmp_path_factory.mktemp("mending"))


@pytest.fixture(scope="module")
def mended(workshop: Workshop) -> dict[tuple[str, int], Report]:
    """Each entry on the engine that was mended for it."""

    def report(cell: tuple[str, int]) -> Report:
        engine, number = cell
        return workshop.report(f"{engine}-F{number}", engine, [number], MENDS[engine][number])

    with ThreadPoolExecutor(PARALLEL) as pool:
        return dict(zip(CELLS, pool.map(report, CELLS), strict=True))


@pytest.mark.parametrize("name", MENDS)
def test_every_failure_that_occurs_is_on_the_list(name: str, workshop: Workshop) -> None:
    as_it_is = workshop.report(f"{name}-as-it-is", name, [])
    occur = {number for number, verdict in as_it_is.verdicts.items() if verdict.text == OCCURS}
    if name == "fsync":
        assert len(occur & ONE_OF_THEM) == 1
        occur |= ONE_OF_THEM
    assert occur == MENDS[name].keys() | BY_DESIGN[name].keys()
    assert not MENDS[name].keys() & BY_DESIGN[name].keys()
    assert not as_it_is.complaints


@pytest.mark.parametrize(("name", "number"), CELLS, ids=str)
def test_the_mend_takes_the_failure_away(
    name: str, number: int, mended: dict[tuple[str, int], Report]
) -> None:
    report = mended[name, number]
    verdict = report.verdicts[number]
    assert verdict.text == "cannot occur", verdict.seen
    assert not report.complaints, "the engine does not work any more"
