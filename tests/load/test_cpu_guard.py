"""What a request costs Seaway, relative to a server that does nothing else than answer."""

from __future__ import annotations

import pytest

from benchmarks import guard

pytestmark = [pytest.mark.load, pytest.mark.timeout(240)]


def test_a_request_costs_at_most_a_third_more_processor_time_than_the_reference_says() -> None:
    measured = guard.run()
    assert not guard.verdict(measured.ratio, guard.reference()), measured.as_dict()
