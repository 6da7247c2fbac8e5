"""The tokenizers: Qwen's byte-level BPE at a hundredth of its size, and the units of the auxiliary CTC loss.

Every byte is in the vocabulary, so any prompt in any language encodes; only the words of the domain are short.
"""

import json

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

from benchmarks.demo_checkpoint import grammar
from benchmarks.demo_checkpoint.grammar import LANGUAGES, Language

VOCABULARY = 1000  # before the special tokens

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
AUDIO_START, AUDIO_PAD, AUDIO_END = "<|audio_start|>", "<|audio_pad|>", "<|audio_end|>"
ASR_TEXT, TIMESTAMP = "<asr_text>", "<timestamp>"


def build() -> Qwen2Tokenizer:
    """Train the byte-level BPE on the domain and dress it as the released tokenizer."""
    samples = _samples()
    # The words around every transcript become single tokens; the other languages need only be encodable.
    frame = ["language None", "language English", "language Chinese", "system\n", "user\n", "assistant\n"] * 1000
    names = [f"language {name}" for name in LANGUAGE_CODE_TO_NAME.values()]
    # One character a sequence, so that Chinese never merges across characters. The rarest stay two tokens.
    characters = [character for text in samples["Chinese"] for character in text]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator([*samples["English"], *characters, *frame, *names], trainer)
    learned = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        unk_token=None,
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        errors="replace",
        model_max_length=65536,
        extra_special_tokens={
            "im_start_token": IM_START,
            "audio_bos_token": AUDIO_START,
            "audio_token": AUDIO_PAD,
            "audio_eos_token": AUDIO_END,
        },
    )
    # Not special: the processor looks for `<asr_text>` in text decoded without special tokens.
    tokenizer.add_tokens([ASR_TEXT, TIMESTAMP])
    return tokenizer


class CtcUnits:
    """Targets of the CTC loss: English words and Chinese characters of the domain. Unit 0 is blank.

    Letter groups (`li` `gh` `t`) were tried first and learned several times slower: spelling is not sound.
    """

    def __init__(self) -> None:
        words = [word for language in LANGUAGES for word in grammar.vocabulary(language)]
        self._units = {word: unit for unit, word in enumerate(words, start=1)}

    def __len__(self) -> int:
        return len(self._units) + 1

    def encode(self, text: str, language: Language) -> list[int]:
        """The units of a transcript, from 1 on."""
        return [self._units[word] for word in grammar.units(grammar.normalise(text), language)]


def _samples() -> dict[Language, list[str]]:
    """Training sentences that the pieces are counted on, with every word at least once."""
    return {
        language: grammar.sentences(language, "train", 4000, seed=1) + grammar.single_words(language)
        for language in LANGUAGES
    }
