"""Which system is asked what."""

from __future__ import annotations

import pytest

from benchmarks.cells import CELLS, GROUPS, cells_of, models_of
from benchmarks.systems import DEFAULT, SYSTEMS

ALL = tuple(GROUPS)


def test_every_cell_is_in_a_known_group_and_is_asked_of_some_system_once() -> None:
    assert {cell.group for cell in CELLS} == set(GROUPS)
    asked = {cell for system in DEFAULT for cell in cells_of(system, ALL)}
    assert asked == set(CELLS)
    assert len(set(CELLS)) == len(CELLS)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_is_asked_only_about_models_it_serves(name: str) -> None:
    system = SYSTEMS[name]
    cells = cells_of(system, ALL)
    assert cells
    assert set(models_of(cells)) <= {*system.models, *system.binary, *system.text}


def test_only_the_chosen_groups_are_measured() -> None:
    assert {cell.group for cell in cells_of(SYSTEMS["seaway"], ("isolation",))} == {"isolation"}
    assert cells_of(SYSTEMS["fastapi"], ("isolation",)) == []
