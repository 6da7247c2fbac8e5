"""Splitting a text into the words that the forced aligner was trained to find."""

from transformers import Qwen3ASRProcessor

from deployments.exceptions import EngineFailure
from deployments.transcription.words import check_alignable


def split(processor: Qwen3ASRProcessor, text: str, language: str) -> list[str]:
    """The words of `text` without punctuation, as the released processor splits it; none where nothing is said.

    Chinese and Cantonese are split into characters, Japanese by nagisa, Korean by soynlp, the others at spaces.

    Args:
        processor: of the checkpoint.
        text: as it was recognised.
        language: English name.

    Raises:
        UnalignableLanguage: there are no word times in this language, or an optional package is missing.
        EngineFailure: the optional package is broken.
    """
    check_alignable(language)
    try:
        words: list[str] = processor.split_words_for_alignment(text, language)
    except ImportError as error:  # there, but not to be imported
        raise EngineFailure(f"There are no word times in {language}: its words cannot be told apart here.") from error
    return words
