"""How many tokens an utterance takes: what the settings require room for, and the engine goes by."""

import math

CHUNK_TOKENS = 13
"""Audio embeddings of one whole chunk, a second."""
PROMPT_TOKENS = 64
"""Room for a prompt: what is in every one takes 15, and a forced language a few more."""
ANSWER_TOKENS = 64
ANSWER_TOKENS_PER_SECOND = 12


def token_budget(seconds: float) -> int:
    """Tokens that the answer to an utterance may have: fast speech stays under 8 a second, a loop ends soon."""
    return ANSWER_TOKENS + math.ceil(ANSWER_TOKENS_PER_SECOND * seconds)


def least_slot_tokens(seconds: float) -> int:
    """Tokens that a slot must hold for utterances of so many seconds."""
    return math.ceil(CHUNK_TOKENS * seconds) + PROMPT_TOKENS + token_budget(seconds)
