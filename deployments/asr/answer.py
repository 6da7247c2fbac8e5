"""Reading an answer while the model still writes it."""

import codecs

from deployments.asr.prompt import Prompt
from deployments.transcription.options import DecodingOptions
from deployments.transcription.utterance import Delta, Token


class AnswerReader:
    """Turns the tokens of one answer into deltas, which join to exactly the text of the whole.

    Nothing is told before the text begins; a character is told when its last byte is there, a broken one never, and a
    blank when more text follows it.
    """

    def __init__(self, prompt: Prompt, options: DecodingOptions):
        self._prompt = prompt
        self._with_tokens = options.logprobs
        self._in_text = options.language is not None
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._told = ""
        self._held = ""
        """Blanks that are the end of the text unless something follows."""
        self._tokens: list[Token] = []
        """Not told yet."""

    def read(self, token: int, logprob: float) -> Delta | None:
        """Take the next token; return what it adds to the text, or None."""
        if not self._in_text:
            self._in_text = token == self._prompt.text_follows
            return None
        data = self._prompt.token_bytes(token)
        if data and self._with_tokens:
            self._tokens.append(Token(data, logprob))
        text = self._held + self._decoder.decode(data)
        if not self._told:
            text = text.lstrip()
        ends = len(text.rstrip())
        text, self._held = text[:ends], text[ends:]
        return self._tell(text)

    def finish(self, text: str) -> Delta | None:
        """Return what of the whole `text` was not told yet: all of it if it never began."""
        return self._tell(text[len(self._told) :])

    def _tell(self, text: str) -> Delta | None:
        if not text:
            return None
        self._told += text
        tokens, self._tokens = tuple(self._tokens), []
        return Delta(text, tokens)
