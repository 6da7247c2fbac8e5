"""How an utterance shall be decoded: what the caller asked for, validated and free of HTTP."""

from dataclasses import dataclass, replace

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class DecodingOptions:
    """The defaults decode greedily in the language that is heard.

    Those of sampling (`top_p`, `top_k`, `seed`) have no effect at temperature 0.
    """

    language: str | None = None
    """English name of the language to force, or None to let the model detect it."""
    languages: tuple[str, ...] = ()
    """English names of the languages that may be detected; empty for all."""
    prompt: str = ""
    """Context for the system turn of the model's prompt: names, terms, the text before."""
    temperature: float = 0.0
    """0 decodes greedily; above 0 samples."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that together have this probability."""
    top_k: int = 0
    """Sample from this many of the likeliest tokens; 0 from all."""
    seed: int | None = None
    """The same seed gives the same sample, whoever else is being decoded; None gives another each time."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that the answer has already become less likely (CTRL's rule, Keskar et al. 2019)."""
    max_new_tokens: int | None = None
    """Token budget of the answer, or None for the one that grows with the seconds of audio."""
    logprobs: bool = False
    """Return the tokens of the text with their log probabilities."""
    loop_detection: bool = True
    """Stop an answer that goes round in circles, and ask again; False lets it go on until it ends."""

    def of_utterance(self, number: int) -> "DecodingOptions":
        """Those of the utterance of this number in a recording, from 0: else all would draw the same random numbers."""
        if self.seed is None or number == 0:
            return self
        return replace(self, seed=(self.seed + number) % (MAX_SEED + 1))
