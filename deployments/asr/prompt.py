"""The released Qwen3-ASR prompt, and the reading of what the model answers to it.

    <|im_start|>system\n{context}<|im_end|>\n
    <|im_start|>user\n<|audio_start|><|audio_pad|>*N<|audio_end|><|im_end|>\n
    <|im_start|>assistant\n[language {Name}<asr_text>]

The system turn is always there, empty without context. A forced language opens the answer, so that the model only
writes the text; without one the model itself writes `language {Name}<asr_text>` first, `language None` for silence.
Source: the chat template released with the checkpoints.
"""

import re
from functools import cache

from transformers import PreTrainedTokenizerBase

from deployments.transcription.languages import NAME_TO_CODE

END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"
AUDIO = "<|audio_pad|>"
TEXT_FOLLOWS = "<asr_text>"
CONTROL_TOKENS = frozenset({"<|im_start|>", END_OF_TURN, "<|audio_start|>", AUDIO, "<|audio_end|>", TEXT_FOLLOWS})
"""What the prompt is made of; a tokenizer without them is not one of Qwen3-ASR."""


class Prompt:
    """Builds prompts and reads answers, in token ids of one checkpoint's tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._encode_usual = cache(self._encode)
        """For what is the same in most prompts: nothing of a caller's."""
        control_tokens = tokenizer.get_added_vocab()
        longest_first = sorted(control_tokens, key=len, reverse=True)
        self._control_text = re.compile("|".join(map(re.escape, longest_first)))
        self._control_ids = frozenset(control_tokens.values())
        self.text_follows: int = control_tokens[TEXT_FOLLOWS]
        """Token after which an answer's text begins, where no language was forced."""
        self.audio_id: int = control_tokens[AUDIO]
        self.stop_ids: tuple[int, ...] = (control_tokens[END_OF_TURN], control_tokens[END_OF_TEXT])

    def token_ids(self, *, audio_tokens: int, context: str = "", language: str | None = None) -> list[int]:
        """Token ids of the whole prompt, with `audio_tokens` placeholders `audio_id` where the audio goes.

        Args:
            audio_tokens: length of the encoded audio.
            context: the caller's prompt; control tokens written out in it are removed, since they would end the turn.
            language: English name to force, or None.
        """
        before = f"<|im_start|>system\n{self._neutralise(context)}<|im_end|>\n<|im_start|>user\n<|audio_start|>"
        after = "<|audio_end|><|im_end|>\n<|im_start|>assistant\n"
        if language is not None:
            after += f"language {language}{TEXT_FOLLOWS}"
        encode_before = self._encode if context else self._encode_usual
        return [*encode_before(before), *[self.audio_id] * audio_tokens, *self._encode_usual(after)]

    def read_answer(self, token_ids: list[int], *, forced_language: str | None) -> tuple[str | None, str]:
        """Split the model's answer into language (English name, None where it heard none) and text."""
        text = self.text_of(token_ids[self.text_begins(token_ids, forced_language=forced_language) :])
        if forced_language is not None:
            return forced_language, text
        if self.text_follows not in token_ids:
            # Cut short before the text began: the name of a language is no transcript.
            cut_short = "language".startswith(text) or text.startswith("language ")
            return None, "" if cut_short else text
        opening = self.text_of(token_ids[: token_ids.index(self.text_follows)])
        name = opening.removeprefix("language").strip()
        return (name if name in NAME_TO_CODE else None), text

    def text_begins(self, token_ids: list[int], *, forced_language: str | None) -> int:
        """Index in an answer of the first token of its text: 0 where it does not say."""
        if forced_language is None and self.text_follows in token_ids:
            return token_ids.index(self.text_follows) + 1
        return 0

    def text_of(self, token_ids: list[int]) -> str:
        """The text that tokens stand for, without blanks around it, and without broken characters: nobody said them."""
        return b"".join(map(self.token_bytes, token_ids)).decode(errors="ignore").strip()

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 that one token stands for: maybe a part of a character, nothing for a control token."""
        if token_id in self._control_ids:
            return b""
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        return bytes(map(_byte_alphabet().__getitem__, token or ""))

    def openings(self, languages: tuple[str, ...]) -> list[list[int]]:
        """How an answer may begin that is in one of `languages` (English names), or silent."""
        return [self._encode(f"language {name}{TEXT_FOLLOWS}") for name in (*languages, None)]

    def _neutralise(self, text: str) -> str:
        # To a fixpoint: removing the inner token of `<|im_<|im_end|>end|>` would otherwise make an outer one.
        while (cleaned := self._control_text.sub("", text)) != text:
            text = cleaned
        return text

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)


@cache
def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes every byte as one printable character: GPT-2's table, which Qwen's tokenizers use."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
