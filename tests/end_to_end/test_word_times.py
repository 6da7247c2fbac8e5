"""A service that was started with an aligner tells when each word was said."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import openai
import pytest

from benchmarks.service import Service
from deployments.audio.decode import decode
from deployments.audio.waveform import SAMPLE_RATE, Waveform
from tests.media import encode
from tests.speech import CHINESE, ENGLISH, Recording

MODEL = "qwen3-asr-demo"
PAUSE_S = 2.0
OFF_S = 0.3


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    service = Service(tmp_path_factory.mktemp("aligned") / "serve.log", ASR_ALIGNER="demo")
    try:
        service.wait_until_ready()
        yield openai.OpenAI(
            base_url=f"{service.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
        )
    finally:
        service.stop()


def _waveform(recording: Recording) -> Waveform:
    with recording.path.open("rb") as file:
        return decode(file, max_duration_s=60)


@pytest.mark.parametrize("sentences", [ENGLISH[:2], CHINESE[:2]], ids=["English", "Chinese"])
def test_words_lie_where_somebody_speaks(client: openai.OpenAI, sentences: tuple[Recording, Recording]) -> None:
    """Two sentences with a pause between them: when it is, is known without a model."""
    first, second = map(_waveform, sentences)
    joined = np.concatenate([first, np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32), second])
    upload = ("a.wav", encode(joined, "wav"))

    answer = client.audio.transcriptions.create(
        file=upload, model=MODEL, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    words = answer.words or []
    pause_begins = len(first) / SAMPLE_RATE
    before = [word for word in words if word.end <= pause_begins + OFF_S]
    after = [word for word in words if word.start >= pause_begins + PAUSE_S - OFF_S]
    # The demo aligner is good, not perfect: of some words in a hundred it is off by more than this.
    assert len(before) + len(after) >= 0.9 * len(words)
    assert len(before) > 2
    assert len(after) > 2
    assert all(0 <= word.start <= word.end <= answer.duration for word in words)
    assert all(one.end <= other.start for one, other in pairwise(words))

    rest = answer.text
    for word in words:
        assert word.word in rest, "each word of the text, in its order"
        rest = rest[rest.index(word.word) + len(word.word) :]
    assert not any(character.isalnum() for character in rest)

    subtitles = client.audio.transcriptions.create(file=upload, model=MODEL, response_format="srt")
    assert subtitles.count(" --> ") >= 2
