"""The lines between a Ray job and its follower survive cut connections, foreign prints and other classes of errors."""

from __future__ import annotations

import io

import pytest

from ray_workers.job_lines import JobLine, LineReader, LineWriter, error_of, event_of
from ray_workers.messages import PawlEvent
from ray_workers.store.errors import FenceLostError, InternalError, PawlError, TrainingFailedError

EVENT = PawlEvent(kind="committed", message="Version 1", at="2026-01-01", details={"number": 1})


def written(*errors: BaseException | None) -> str:
    out = io.StringIO()
    lines = LineWriter(out)
    lines.event(EVENT)
    lines.letter_box("public")
    for error in errors:
        lines.end(error)
    return out.getvalue()


def read(text: str) -> list[JobLine]:
    return list(LineReader().feed(text))


def test_an_event_comes_back_as_it_was() -> None:
    first, second = read(written())
    assert event_of(first) == EVENT
    assert (second.kind, second.content) == ("letter_box", {"public": "public"})


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pieces_of_any_size_make_whole_lines(size: int) -> None:
    text = written(None)
    reader = LineReader()
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert [line.number for piece in pieces for line in reader.feed(piece)] == [1, 2, 3]


def test_after_a_cut_connection_what_was_seen_is_skipped() -> None:
    text = written(None)
    reader = LineReader()
    cut = text.index("\n") + 10
    assert [line.number for line in reader.feed(text[:cut])] == [1]
    reader.begin_again()
    assert [line.number for line in reader.feed(text)] == [2, 3]


def test_other_prints_are_nobodys_business() -> None:
    noise = 'pawl is a catch\npawl {}\npawl {"n": "x"}\n\nloss 0.3\n'
    assert [line.number for line in read(noise + written() + noise)] == [1, 2]


@pytest.mark.parametrize(
    "error",
    [
        FenceLostError("overtaken", fence=3, by={"flow_run_id": "f"}),
        TrainingFailedError("rank 1", rank=1, error="ValueError"),
    ],
)
def test_an_error_of_ours_comes_back_as_its_class(error: PawlError) -> None:
    back = error_of(read(written(error))[-1])
    assert (type(back), str(back)) == (type(error), str(error))
    assert back is not None
    assert back.details == error.details


def test_a_foreign_error_becomes_an_internal_one_and_none_means_completed() -> None:
    assert error_of(read(written(None))[-1]) is None
    back = error_of(read(written(OSError("disk")))[-1])
    assert isinstance(back, InternalError)
    assert "OSError: disk" in back.message
