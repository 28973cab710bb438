"""Each failure that the lab shows goes away when the line at fault is mended."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from .mending.mends import BY_DESIGN, MENDS
from .mending.workshop import PARALLEL, Report, Workshop

OCCURS = "occurs"
#: The kernel decides which of these two an abandoned mutex gives.
ONE_OF_THEM = {10, 11}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Everything compiled once."""
    return Workshop(tmp_path_factory.mktemp("mending"))


@pytest.fixture(scope="module")
def as_it_is(workshop: Workshop) -> Report:
    """All entries on the engine with its faults, built in the same way."""
    return workshop.report("as-it-is", [])


@pytest.fixture(scope="module")
def mended(workshop: Workshop) -> dict[int, Report]:
    """Each entry on the engine that was mended for it."""

    def report(number: int) -> Report:
        return workshop.report(f"F{number}", [number], MENDS[number])

    with ThreadPoolExecutor(PARALLEL) as pool:
        return dict(zip(MENDS, pool.map(report, MENDS), strict=True))


def test_every_failure_that_occurs_is_on_the_list(as_it_is: Report) -> None:
    occur = {number for number, verdict in as_it_is.verdicts.items() if verdict.text == OCCURS}
    assert len(occur & ONE_OF_THEM) == 1
    assert occur | ONE_OF_THEM == MENDS.keys() | BY_DESIGN.keys()
    assert not MENDS.keys() & BY_DESIGN.keys()
    assert not as_it_is.complaints


@pytest.mark.parametrize("number", sorted(MENDS), ids=lambda number: f"F{number}")
def test_the_mend_takes_the_failure_away(number: int, mended: dict[int, Report]) -> None:
    verdict = mended[number].verdicts[number]
    assert verdict.text == "cannot occur", verdict.seen
    assert not mended[number].complaints, "the engine does not work any more"
