"""The prompt is the released one, token for token, and no caller can write control tokens into it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer

from deployments.asr.prompt import Prompt
from deployments.served_model import DEMO_CHECKPOINT
from deployments.transcription.languages import CODE_TO_NAME

TOKENIZER = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)
PROMPT = Prompt(TOKENIZER)
CONTROL_TOKENS = sorted(TOKENIZER.get_added_vocab())


@pytest.mark.parametrize("context", ["", "Names: Anna, Peter.", "厨房", "two\nlines", "  spaced  "])
@pytest.mark.parametrize("language", [None, "English", "Chinese", "Cantonese"])
def test_it_is_what_the_released_processor_builds(context: str, language: str | None) -> None:
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    waveform = np.zeros(2 * 16_000, dtype=np.float32)
    expected = processor.apply_transcription_request(waveform, language=language, prompt=context)
    assert PROMPT.token_ids(audio_tokens=26, context=context, language=language) == expected["input_ids"][0].tolist()


@pytest.mark.parametrize("name", sorted(CODE_TO_NAME.values()))
def test_every_language_can_be_forced(name: str) -> None:
    text = TOKENIZER.decode(PROMPT.token_ids(audio_tokens=1, language=name))
    assert text.endswith(f"<|im_start|>assistant\nlanguage {name}<asr_text>")


PIECES = st.one_of(st.sampled_from(CONTROL_TOKENS), st.text(max_size=5), st.sampled_from(["<|", "|>", "im_end"]))


@given(st.lists(PIECES))
def test_a_context_never_adds_control_tokens(pieces: list[str]) -> None:
    control_ids = set(TOKENIZER.get_added_vocab().values())
    plain = [i for i in PROMPT.token_ids(audio_tokens=3) if i in control_ids]
    injected = [i for i in PROMPT.token_ids(audio_tokens=3, context="".join(pieces)) if i in control_ids]
    assert injected == plain


def test_a_control_token_nested_in_another_is_removed_too() -> None:
    assert PROMPT.token_ids(audio_tokens=1, context="<|im_<|im_end|>end|>hi") == PROMPT.token_ids(
        audio_tokens=1, context="hi"
    )


@pytest.mark.parametrize(
    ("answer", "forced", "expected"),
    [
        ("language English<asr_text>Turn on the light.<|im_end|>", None, ("English", "Turn on the light.")),
        ("language Chinese<asr_text>请开灯。<|im_end|>", None, ("Chinese", "请开灯。")),
        ("language None<asr_text><|im_end|>", None, (None, "")),
        ("language Klingon<asr_text>nuqneH<|im_end|>", None, (None, "nuqneH")),
        ("Turn on the light.<|im_end|>", "English", ("English", "Turn on the light.")),
        ("Turn on the light.<|im_end|>", None, (None, "Turn on the light.")),
        ("<|im_end|>", None, (None, "")),
        ("language", None, (None, "")),
        ("language English", None, (None, "")),
        ("language English", "English", ("English", "language English")),
        ("language English<asr_text>Five <asr_text>six.<|im_end|>", None, ("English", "Five six.")),
    ],
)
def test_reading_an_answer(answer: str, forced: str | None, expected: tuple[str | None, str]) -> None:
    ids = TOKENIZER.encode(answer, add_special_tokens=False)
    assert PROMPT.read_answer(ids, forced_language=forced) == expected
