import pytest

from ray_workers.policies.failure_words import Failure, error_of, placed, read_failure

FULL = Failure(
    rank=1, error="ValueError", said="shapes (3, 4) do not fit", node="trainer-2", noticed_s=2.1, settled_s=0.4,
    preempted=True,
)  # fmt: skip


def test_a_person_can_read_it():
    assert FULL.text("r") == (
        "Training of run 'r' failed on rank 1 (node trainer-2, preempted, noticed after 2.1 s, settled in 0.4 s): "
        "ValueError: shapes (3, 4) do not fit"
    )


@pytest.mark.parametrize(
    "failure",
    [
        FULL,
        Failure(rank=0, error="KeyError", said="'lr'"),
        Failure(rank=0, error="OSError", said="line\nand another (rank 7)", node="h"),
        Failure(rank=12, error="ActorDiedError", said="", noticed_s=0.0),
    ],
)
def test_what_is_written_is_read(failure):
    assert read_failure(failure.text("a run")) == failure


def test_a_name_cannot_break_out_of_its_brackets():
    failure = Failure(rank=0, error="E", said="x", node="h), preempted, (y")
    read = read_failure(failure.text("r"))
    assert read is not None
    assert not read.preempted
    assert read.said == "x"


def test_an_error_with_its_own_words_gets_its_place_behind_them():
    text = placed("Shard k (of 3) is damaged.", rank=2, node="trainer-1")
    assert text == "Shard k (of 3) is damaged. (rank 2, node trainer-1)"
    read = read_failure(text)
    assert read is not None
    assert (read.rank, read.node, read.error) == (2, "trainer-1", "")
    assert read.said == "Shard k (of 3) is damaged."
    assert placed("text", rank=0, node=None) == "text (rank 0)"
    assert placed("text", rank=None, node="h") == "text"
    assert placed(FULL.text("r"), rank=1, node="trainer-2") == FULL.text("r")


@pytest.mark.parametrize(
    "text", ["", "cancelled", "Run 'r' stops at step 3 (step 2 is kept)", "()"]
)
def test_a_text_without_a_rank_names_none(text):
    assert read_failure(text) is None


@pytest.mark.parametrize(
    ("rank", "node", "written"),
    [
        (2, "n-1", "'w' is missing. (rank 2, node n-1, error StateMismatchError)"),
        (2, None, "'w' is missing. (rank 2, error StateMismatchError)"),
        (None, "n-1", "'w' is missing. (error StateMismatchError)"),
    ],
)
def test_an_error_with_its_own_words_gets_its_type_behind_them(rank, node, written):
    text = placed("'w' is missing.", rank=rank, node=node, error="StateMismatchError")
    assert text == written
    assert error_of(text) == "StateMismatchError"
    assert placed(FULL.text("r"), rank=1, node="h", error="TrainingFailedError") == FULL.text("r")


def test_a_long_message_leaves_room_for_what_stands_behind_it():
    text = placed(9_000 * "x", rank=2, node="h", error="StateMismatchError")
    assert len(text) == 2000  # what an end record keeps
    assert error_of(text) == "StateMismatchError"


@pytest.mark.parametrize("text", ["", "bad bytes", "bad bytes (rank 1, node h)", "saved (step 2)"])
def test_a_type_that_was_not_written_is_not_made_up(text):
    assert error_of(text) is None
