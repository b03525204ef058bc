"""What is concluded from the answers of storage, and for how long."""

from __future__ import annotations

from kelpie_worker.s3.provider_differences import LASTS, Habit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_answer_proves_nothing_and_two_that_agree_do() -> None:
    habit = Habit(Clock())
    assert not habit.saw("b", True)
    assert habit.of("b") is None
    assert not habit.saw("b", False)
    assert habit.of("b") is None
    assert habit.saw("b", False)
    assert habit.of("b") is False


def test_what_is_concluded_of_one_bucket_says_nothing_of_another() -> None:
    habit = Habit(Clock())
    for bucket in ("a", "b"):
        habit.saw(bucket, True)
    assert habit.of("a") is habit.of("b") is None


def test_a_conclusion_stands_until_two_answers_contradict_it() -> None:
    habit = Habit(Clock())
    for _ in range(2):
        habit.saw("b", True)
    habit.saw("b", False)
    assert habit.of("b") is True
    habit.saw("b", False)
    assert habit.of("b") is False


def test_answers_count_only_in_a_row() -> None:
    habit = Habit(Clock())
    for _ in range(3):
        habit.saw("b", False)
        habit.saw("b", True)
        assert habit.of("b") is None
    for _ in range(2):
        habit.saw("b", True)
    for _ in range(3):
        habit.saw("b", False)
        habit.saw("b", True)
    assert habit.of("b") is True


def test_after_a_while_it_is_concluded_anew_from_two_answers() -> None:
    clock = Clock()
    habit = Habit(clock)
    for _ in range(3):
        habit.saw("b", False)
    clock.now = LASTS
    assert habit.of("b") is None
    habit.saw("b", False)
    assert habit.of("b") is None
    assert habit.saw("b", False)
