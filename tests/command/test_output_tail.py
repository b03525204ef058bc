"""The end of the output in pieces: none has a secret in it, however the secret is cut."""

from __future__ import annotations

import random

from kelpie_worker.command.output_tail import OutputTail

SECRETS = [b"swordfish", b"0123456789"]


def test_a_piece_follows_the_one_before() -> None:
    tail = OutputTail(100, [])
    tail.add(1, b"out ")
    assert tail.since(0, final=False) == (0, b"out ")
    tail.add(2, b"err ")
    tail.add(1, b"more")
    assert tail.since(4, final=False) == (4, b"err more")
    assert tail.since(12, final=True) == (12, b"") and tail.total == 12


def test_what_is_too_much_for_a_piece_is_left_out_before_it() -> None:
    tail = OutputTail(10, [])
    tail.add(1, b"a" * 7)
    tail.add(2, b"b" * 7)
    assert tail.since(0, final=False) == (4, b"aaabbbbbbb")
    tail.add(1, b"c" * 1000)
    assert tail.since(14, final=True) == (1004, b"c" * 10)


def test_what_may_be_the_beginning_of_a_secret_waits_for_its_rest() -> None:
    tail = OutputTail(100, SECRETS)
    tail.add(1, b"it is sword")
    assert tail.since(0, final=False) == (0, b"it is ")
    tail.add(1, b"fish!")
    assert tail.since(6, final=False) == (6, b"*********!")
    tail.add(1, b" sword")
    assert tail.since(16, final=True) == (16, b" sword")


def test_it_does_not_keep_the_other_stream_waiting() -> None:
    tail = OutputTail(100, SECRETS)
    tail.add(1, b"sword")
    tail.add(2, b"alive")
    assert tail.since(0, final=False) == (0, b"*****alive")
    tail.add(1, b"fish")
    assert tail.since(10, final=False) == (10, b"****")


def test_no_piece_and_no_two_together_tell_a_secret_however_both_streams_are_cut() -> None:
    chance = random.Random(7)
    for _ in range(300):
        told = b"the key swordfish and 0123456789 again swordfishswordfish end."
        tail, sent, offset = OutputTail(64, SECRETS), b"", 0
        while told:
            size = chance.randint(1, 12)
            tail.add(1, told[:size])
            told = told[size:]
            if chance.random() < 0.5:
                start, content = tail.since(offset, final=False)
                assert start == offset
                sent, offset = sent + content, start + len(content)
        start, content = tail.since(offset, final=True)
        assert start + len(content) == tail.total
        sent += content
        assert sent == b"the key ********* and ********** again ****************** end."


def test_streams_that_are_printed_to_in_turn_tell_no_whole_secret() -> None:
    chance = random.Random(11)
    for _ in range(300):
        left = {1: b"a swordfish b swordfish", 2: b"c 0123456789 d 0123456789"}
        tail, sent, offset = OutputTail(64, SECRETS), {1: b"", 2: b""}, 0
        owners = b""
        while any(left.values()):
            stream = chance.choice([name for name, rest in left.items() if rest])
            size = chance.randint(1, 12)
            part, left[stream] = left[stream][:size], left[stream][size:]
            tail.add(stream, part)
            owners += bytes([stream]) * len(part)
            start, content = tail.since(offset, final=not any(left.values()))
            for at, byte in enumerate(content, start):
                sent[owners[at]] += bytes([byte])
            offset = start + len(content)
        assert offset == tail.total
        assert not any(secret in told for told in sent.values() for secret in SECRETS)
