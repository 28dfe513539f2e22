"""Words are spelt as the list of a bundle, or the input, has them."""

from __future__ import annotations

import pytest

from promptdial.engine.spelling import Speller, Spelling, words_of

TOKENS = [b" deep", b"er", b"ider", b".", b"", b" Me", b"dal", b"xican", b"'s", b" 19", b"50", b"s", b"-", b" cap",
          b"y", b"bara", b"\xc3", b"\xad", b"an", b" a deep", b" m", b"\xe2\x80", b"\x99"]  # fmt: skip
WORDS = {"a", "deep", "deeper", "medal", "s", "mee", "m\u00e9e", "an"}
IDS = {token: number for number, token in enumerate(TOKENS)}


def speller(said: list[bytes], prompt: list[bytes] | None = None) -> Speller:
    table = Spelling.of(TOKENS, WORDS)
    made = Speller(table, table.words_in(IDS[token] for token in prompt or []))
    for token in said:
        made.add(IDS[token])
    return made


@pytest.mark.parametrize(
    ("said", "token"),
    [
        ([], b" deep"), ([b" deep"], b"er"), ([b" deep"], b" deep"), ([b" deep"], b"."), ([b" deep"], b""),
        ([b" deep", b"er"], b"'s"), ([b" Me"], b"dal"), ([b" Me", b"dal"], b"-"), ([b" deep", b"-"], b"an"),
        ([b" 19"], b"50"), ([b" 19", b"50"], b"s"), ([b" 19", b"50", b"s"], b" deep"), ([b" deep"], b" a deep"),
        ([b" a deep"], b"er"),
    ],
)  # fmt: skip
def test_words_of_the_list_may_be_written(said: list[bytes], token: bytes) -> None:
    assert speller(said).allows(IDS[token])


@pytest.mark.parametrize(
    ("said", "token"),
    [
        ([b" deep"], b"ider"), ([b" Me"], b"xican"), ([b" Me"], b"."), ([b" Me"], b""), ([b" Me"], b" deep"),
        ([], b" cap"), ([b" deep", b"er"], b"er"), ([b"."], b"xican"), ([b" a deep"], b"xican"),
        ([b" 19", b"50"], b"xican"),
    ],
)  # fmt: skip
def test_others_may_not(said: list[bytes], token: bytes) -> None:
    assert not speller(said).allows(IDS[token])


def test_words_of_the_input_may_be_written_and_with_an_s() -> None:
    prompt = [b" cap", b"y", b"bara"]
    assert not speller([]).allows(IDS[b" cap"])
    assert speller([], prompt).allows(IDS[b" cap"])
    assert speller([b" cap", b"y"], prompt).allows(IDS[b"bara"])
    assert speller([b" cap", b"y", b"bara"], prompt).allows(IDS[b"."])
    assert speller([b" cap", b"y", b"bara"], prompt).allows(IDS[b"s"])
    assert not speller([b" cap", b"y"], prompt).allows(IDS[b"."])
    assert not speller([b" cap", b"y"], prompt).allows(IDS[b""])


def test_a_part_of_a_letter_may_come_where_a_word_goes_on_with_one() -> None:
    """WORDS has "mée" and none that begins with "medal" or "deep" and a letter with an accent."""
    assert speller([]).allows(IDS[b"\xc3"])
    assert speller([b" m"]).allows(IDS[b"\xc3"])
    assert not speller([b" Me"]).allows(IDS[b"\xc3"])
    assert not speller([b" deep"]).allows(IDS[b"\xc3"])


def test_a_letter_in_parts_lets_anything_follow_up_to_the_next_word() -> None:
    said = [b" m", b"\xc3", b"\xad"]
    assert speller(said).allows(IDS[b"xican"]) and speller(said).allows(IDS[b"."])
    assert not speller([*said, b"."]).allows(IDS[b"xican"])


def test_a_part_of_a_sign_ends_a_word() -> None:
    assert speller([b" deep"]).allows(IDS[b"\xe2\x80"])
    assert not speller([b" Me"]).allows(IDS[b"\xe2\x80"])
    assert speller([b" deep", b"\xe2\x80", b"\x99"]).allows(IDS[b"s"])


def test_a_word_that_nothing_could_spell_holds_up_to_its_end() -> None:
    """Where the likeliest tokens all lead astray, the first stays."""
    astray = [b" deep", b"xican"]
    assert speller(astray).allows(IDS[b"."]) and speller(astray).allows(IDS[b"er"])
    assert not speller([*astray, b" Me"]).allows(IDS[b"."])


@pytest.mark.parametrize(
    ("said", "prompt", "token"),
    [
        ([b" Me"], [], b"dal"),
        ([b" deep"], [], b"er"),
        ([b" cap"], [b" cap", b"y", b"bara"], b"y"),
        ([b" cap", b"y"], [b" cap", b"y", b"bara"], b"bara"),
        ([b" deep", b"er"], [], None),  # the word is whole, and no other begins so
        ([b"."], [], None),
        ([b" deep", b"xican"], [], None),
    ],
)
def test_a_word_goes_on_as_one_of_the_input_or_of_the_list(
    said: list[bytes], prompt: list[bytes], token: bytes | None
) -> None:
    assert speller(said, prompt).going_on() == (None if token is None else IDS[token])


def test_letters_with_accents_are_letters() -> None:
    assert words_of("Salvador Dalí's café, 1950s") == {"salvador", "dalí", "s", "café"}
    made = Speller(Spelling.of([b" m", "ée".encode(), b"ee"], WORDS), [])
    made.add(0)
    assert made.allows(1) and made.allows(2)
