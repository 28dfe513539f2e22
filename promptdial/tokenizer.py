"""Byte-level BPE with control tokens that no text can produce.

Control tokens hold the first ids. Encoding a text treats `<task:tags>` in it as plain characters: the switch
`encode_special_tokens` of the tokenizers library is set on every tokenizer that this module hands out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from promptdial.command import DEFAULT_FORMAT, END, OUT, PAD, Command, CommandFormat


class PromptTokenizer:
    """Turns commands and texts into token ids and back."""

    def __init__(self, tokenizer: Tokenizer, format: CommandFormat = DEFAULT_FORMAT) -> None:
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.format = format
        missing = [token for token in format.special_tokens() if tokenizer.token_to_id(token) is None]
        if missing:
            raise ValueError(f"the tokenizer lacks {len(missing)} control tokens, the first is {missing[0]}")
        self._special_ids = frozenset(self.token_id(token) for token in format.special_tokens())
        self.pad_id = self.token_id(PAD)
        self.out_id = self.token_id(OUT)
        self.end_id = self.token_id(END)

    @classmethod
    def load(cls, path: Path, format: CommandFormat = DEFAULT_FORMAT) -> PromptTokenizer:
        """Read `tokenizer.json`. Raises ValueError when it lacks a control token of the format."""
        return cls(Tokenizer.from_file(str(path)), format)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocabulary: int, format: CommandFormat = DEFAULT_FORMAT
    ) -> PromptTokenizer:
        """Learn a byte-level BPE of `vocabulary` entries, control tokens and 256 bytes included."""
        tokenizer = Tokenizer(models.BPE())
        # The space before the first word makes it the same token at the start of an input and amid an output.
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(format.special_tokens()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer, format)

    def save(self, path: Path) -> None:
        """Write `tokenizer.json`."""
        path.write_text(self.to_text(), encoding="utf-8")

    def to_text(self) -> str:
        """What `save` writes."""
        return str(self._tokenizer.to_str(pretty=True))

    @property
    def vocabulary(self) -> int:
        """Number of token ids, control tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of all control tokens."""
        return self._special_ids

    def token_id(self, token: str) -> int:
        """Id of one token by its exact form. Raises KeyError when there is none."""
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise KeyError(token)
        return int(token_id)

    def word_ids(self) -> list[int]:
        """Ids of the entries that begin a word and hold letters only."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        return sorted(i for entry, i in vocabulary.items() if entry[0] == "\u0120" and entry[1:].isalpha())

    def token_bytes(self) -> list[bytes]:
        """What each id stands for: joined and read as UTF-8, the bytes of an output are its text.

        Control tokens stand for nothing.
        """
        entries = (self._tokenizer.id_to_token(token) or "" for token in range(self.vocabulary))
        return [b"" if i in self._special_ids else _entry_bytes(entry) for i, entry in enumerate(entries)]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; never a control token."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_with_places(self, text: str) -> tuple[list[int], list[int]]:
        """`encode`, and the character that each token ends before."""
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return list(found.ids), [end for _, end in found.offsets]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts at once, on all cores."""
        return [list(row.ids) for row in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def frame(self, command: Command, input_ids: Sequence[int]) -> list[int]:
        """What the model reads: command, input, `<out>`. Its output follows and ends with `<end>`."""
        return [*(self.token_id(token) for token in self.format.tokens(command)), *input_ids, self.out_id]

    def prompt(self, command: Command, text: str) -> list[int]:
        """`frame` of a text: what serving sends, and what training rows begin with."""
        return self.frame(command, self.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without control tokens and outer white space."""
        text = self._tokenizer.decode(
            [i for i in ids if i not in self._special_ids], skip_special_tokens=False
        )
        return str(text).strip()


def _entry_bytes(entry: str) -> bytes:
    """Bytes of an entry of the vocabulary, in which each byte is written as one character."""
    if all(character in BYTE_OF for character in entry):
        return bytes(BYTE_OF[character] for character in entry)
    return entry.encode()  # an entry that was added as it is, not learnt


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE's alphabet: visible Latin-1 characters are themselves, the other bytes follow at 256."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    codes = [*visible, *range(256, 256 + len(others))]
    return {chr(code): byte for code, byte in zip(codes, [*visible, *others], strict=True)}


BYTE_OF = _byte_of_character()
