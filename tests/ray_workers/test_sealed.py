"""A sealed letter is read by its addressee alone."""

from __future__ import annotations

import base64

import pytest

from ray_workers.sealed import LetterBox, seal
from ray_workers.store.errors import InvalidInputError

SECRET = b"the store's keys"


def test_the_addressee_reads_it() -> None:
    box = LetterBox()
    assert box.open(seal(SECRET, box.public)) == SECRET


def test_nobody_else_does_and_the_letter_shows_nothing() -> None:
    letter = seal(SECRET, LetterBox().public)
    assert SECRET not in base64.b64decode(letter)
    with pytest.raises(InvalidInputError, match="not for this job"):
        LetterBox().open(letter)


@pytest.mark.parametrize("position", [0, 40, -1])
def test_a_changed_letter_is_refused(position: int) -> None:
    box = LetterBox()
    raw = bytearray(base64.b64decode(seal(SECRET, box.public)))
    raw[position] ^= 1
    with pytest.raises(InvalidInputError):
        box.open(base64.b64encode(raw).decode())


@pytest.mark.parametrize("letter", ["", "no base64!", base64.b64encode(b"short").decode()])
def test_what_is_no_letter_is_refused(letter: str) -> None:
    with pytest.raises(InvalidInputError):
        LetterBox().open(letter)
