"""With the demo checkpoint on real recordings: what is served is what transformers' own `generate` answers."""

import pytest
import torch
from transformers import AutoProcessor

from deployments.asr.checkpoint import load
from deployments.asr.engine import Engine
from deployments.asr.linear import pack
from deployments.served_model import DEMO_CHECKPOINT
from deployments.transcription.utterance import Transcription, Utterance
from tests.speech import RECORDINGS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    return [Utterance(recording.waveform) for recording in RECORDINGS]


def _by_generate(utterances: list[Utterance]) -> list[str]:
    checkpoint = load(str(DEMO_CHECKPOINT), dtype=torch.float32, device=CPU)
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    texts = []
    for utterance in utterances:
        inputs = processor.apply_transcription_request(utterance.waveform)
        output = checkpoint.model.generate(**inputs, max_new_tokens=200, do_sample=False)
        texts.append(processor.decode(output[0, inputs["input_ids"].shape[1] :], return_format="transcription_only"))
    return texts


@pytest.mark.parametrize("packed", [False, True])
def test_all_recordings_together_give_what_generate_gives_each(utterances: list[Utterance], packed: bool) -> None:
    checkpoint = load(str(DEMO_CHECKPOINT), dtype=torch.float32, device=CPU)
    if packed:
        pack(checkpoint.model, "none")
    engine = Engine(checkpoint, slots=16, slot_tokens=1024, admission_s=10.0, piece_tokens=32).start()
    try:
        answers = engine.transcribe(utterances)
    finally:
        engine.stop()
    assert [answer.text for answer in answers if isinstance(answer, Transcription)] == _by_generate(utterances)
