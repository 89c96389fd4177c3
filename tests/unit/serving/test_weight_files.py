"""Who may measure, and what a process may have died of."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from seaway.errors import Unavailable
from seaway.serving import weight_files
from seaway.serving.weight_files import remove_all_but, trial, turn


def test_of_several_that_measure_one_does_at_a_time(tmp_path: Path) -> None:
    measuring: list[int] = []
    most: list[int] = []

    def measure(number: int) -> None:
        with turn(tmp_path / "weights"):
            measuring.append(number)
            most.append(len(measuring))
            threading.Event().wait(0.001)
            measuring.remove(number)

    threads = [threading.Thread(target=measure, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] * 6


def test_whose_turn_never_comes_measures_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "_TURN_SECONDS", 0.0)
    with turn(tmp_path), turn(tmp_path):
        pass


def test_where_no_turn_can_be_taken_one_measures_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "measuring").mkdir()
    measured = []
    for directory in (tmp_path / "file" / "weights", tmp_path):
        with turn(directory):
            measured.append(directory)
    assert len(measured) == 2


def test_the_file_that_tells_whose_turn_it_is_stays(tmp_path: Path) -> None:
    with turn(tmp_path):
        (tmp_path / "1").mkdir()
        (tmp_path / "2").mkdir()
        remove_all_but(tmp_path, [2])
        assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "measuring"]


def test_a_trial_leaves_a_note_only_where_the_process_dies_of_it(tmp_path: Path) -> None:
    note = tmp_path / "run" / "1.joining"
    with trial(note):
        assert note.exists()
        with pytest.raises(Unavailable, match="died"), trial(note):
            raise AssertionError("It was tried again.")
    assert not note.exists()

    def fail() -> None:
        with trial(note):
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert not note.exists()
