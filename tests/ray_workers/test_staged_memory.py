"""The uploader's view of staging files: what is in the file now, of the file that is there now, and not longer than needed."""

from pathlib import Path

import pytest

from ray_workers.staged_memory import StagedMemory

SIZE = 3 * 4096


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "staging"
    path.write_bytes(b"1" * SIZE)
    return path


def is_mapped(path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


def test_a_file_is_mapped_once_and_shows_what_is_filled_in_later(path):
    memory = StagedMemory()
    first = memory.view(str(path), 5)
    with path.open("r+b") as file:
        file.write(b"22222")
    assert bytes(first) == bytes(memory.view(str(path), 5)) == b"22222"
    assert len(memory.view(str(path), SIZE)) == SIZE
    assert is_mapped(path) == 1


def test_another_file_of_that_name_is_mapped_anew(path):
    memory = StagedMemory()
    old = memory.view(str(path), SIZE)
    path.unlink()
    path.write_bytes(b"2" * SIZE)
    assert bytes(memory.view(str(path), SIZE)) == b"2" * SIZE
    assert bytes(old) == b"1" * SIZE


def test_a_file_that_became_shorter_is_refused_and_a_longer_one_seen_whole(path):
    memory = StagedMemory()
    memory.view(str(path), SIZE)
    with path.open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(ValueError, match="length"):
        memory.view(str(path), SIZE)
    with path.open("ab") as file:
        file.write(b"3" * SIZE)
    assert bytes(memory.view(str(path), 2 * 4096)) == b"1" * 4096 + b"3" * 4096


def test_what_is_forgotten_is_unmapped_with_its_last_view(path):
    memory = StagedMemory()
    view = memory.view(str(path), SIZE)
    memory.forget()
    assert bytes(view[:1]) == b"1"
    view.release()
    assert is_mapped(path) == 0


def test_a_file_that_is_gone_is_an_error_even_if_it_was_mapped(path):
    memory = StagedMemory()
    memory.view(str(path), SIZE)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        memory.view(str(path), SIZE)
