"""A character of several bytes that was begun is finished."""

from __future__ import annotations

import pytest

from promptdial.engine.characters import Characters, Utf8

# 0 "a", 1 the first byte of "í", 2 its second, 3 the first two of "’", 4 its third, 5 the whole of it, 6 the end, 7 the
# second byte of "í" and more, 8 the first byte of an emoji, 9 its second and third.
TOKENS = [b"a", b"\xc3", b"\xad", b" \xe2\x80", b"\x99", "’".encode(), b"", b"\xad s", b"\xf0", b"\x9f\x98"]
LATER = {2, 4, 7, 9}


@pytest.mark.parametrize("whole", [[0], [1, 2], [3, 4], [5], [1, 7], [8, 9, 4], [0, 1, 2, 0]])
def test_after_a_whole_character_anything_may_come(whole: list[int]) -> None:
    characters = Characters(Utf8.of(TOKENS))
    for token in whole:
        characters.add(token)
    assert not characters.barred


@pytest.mark.parametrize("stray", [[2], [6], [0, 4]])
def test_what_belongs_to_no_character_bars_nothing(stray: list[int]) -> None:
    characters = Characters(Utf8.of(TOKENS))
    for token in stray:
        characters.add(token)
    assert not characters.barred


@pytest.mark.parametrize("broken", [[1], [3], [8], [8, 9], [0, 1], [5, 3]])
def test_within_a_character_only_its_later_bytes_may_come(broken: list[int]) -> None:
    characters = Characters(Utf8.of(TOKENS))
    for token in broken:
        characters.add(token)
    assert set(range(len(TOKENS))) - set(characters.barred) == LATER
