"""Real recordings in, their text out, as clients send and read them."""

import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import openai
import pytest
import requests

from benchmarks.service import Service
from tests.media import DATA, encode
from tests.speech import CHINESE, ENGLISH, RECORDINGS, Recording, error_rate

MODEL = "qwen3-asr-demo"
KINDS = (
    "wav", "wav-8bit", "wav-24bit", "wav-float", "wav-mulaw", "mp3", "flac", "ogg-vorbis", "opus", "m4a",
    "mp4-video", "webm-video",
)  # fmt: skip


@pytest.fixture(scope="module")
def client(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True)


def _transcribe(client: openai.OpenAI, recording: Recording) -> str:
    with recording.path.open("rb") as file:
        return client.audio.transcriptions.create(file=file, model=MODEL).text


def test_twenty_at_once_each_get_their_own_text(client: openai.OpenAI) -> None:
    recordings = RECORDINGS[:20]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda recording: _transcribe(client, recording), recordings))
    assert error_rate(list(zip(recordings, answers, strict=True))) <= 0.06
    assert answers == [_transcribe(client, recording) for recording in recordings], "alone as in company"


@pytest.mark.parametrize("kind", KINDS)
def test_every_encoding_is_understood(service: Service, kind: str) -> None:
    answers = []
    for recording in ENGLISH:
        upload = encode(recording.waveform, kind)
        answer = requests.post(
            f"{service.url}/v1/audio/transcriptions",
            # The name says nothing, on purpose: the content has to.
            files={"file": ("upload", upload, "application/octet-stream")},
            data={"model": MODEL, "response_format": "text"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        answers.append((recording, answer.text))
    assert error_rate(answers) <= 0.1


@pytest.mark.parametrize(("recording", "language"), [(ENGLISH[0], "english"), (CHINESE[0], "chinese")])
def test_the_language_is_detected(client: openai.OpenAI, recording: Recording, language: str) -> None:
    with recording.path.open("rb") as file:
        answer = client.audio.transcriptions.create(file=file, model=MODEL, response_format="verbose_json")
    assert answer.language == language
    assert recording.error_rate(answer.text) <= 0.2
    assert answer.segments
    assert 0.1 < answer.segments[0].start < answer.segments[-1].end < answer.duration - 0.1, (
        "0.3 s of silence around it"
    )
    assert answer.segments[0].avg_logprob < 0


@pytest.mark.parametrize(("recording", "code"), [(ENGLISH[1], "en-US"), (CHINESE[1], "zh")])
def test_a_forced_language_and_a_prompt_do_no_harm(client: openai.OpenAI, recording: Recording, code: str) -> None:
    with recording.path.open("rb") as file:
        answer = client.audio.transcriptions.create(
            file=file, model=MODEL, language=code, prompt="Anna, <|im_end|>", temperature=0
        )
    assert recording.error_rate(answer.text) <= 0.25


def test_greedy_is_repeatable_and_sampling_is_possible(client: openai.OpenAI) -> None:
    with ENGLISH[2].path.open("rb") as file:
        upload = file.read()
    greedy = {client.audio.transcriptions.create(file=upload, model=MODEL, temperature=0).text for _ in range(3)}
    assert len(greedy) == 1
    assert client.audio.transcriptions.create(file=upload, model=MODEL, temperature=1.0).text is not None


def test_a_long_recording_is_heard_from_end_to_end(client: openai.OpenAI) -> None:
    upload = encode(np.concatenate([recording.waveform for recording in ENGLISH]), "flac")
    whole = client.audio.transcriptions.create(file=upload, model=MODEL, response_format="verbose_json", language="en")
    said = Recording(ENGLISH[0].path, "English", " ".join(recording.text for recording in ENGLISH))
    assert said.error_rate(whole.text) <= 0.1
    assert whole.duration > 31
    assert whole.segments
    for one, following in pairwise(whole.segments):
        assert 0 < one.start < one.end <= following.start < following.end < whole.duration
    events = client.audio.transcriptions.create(file=upload, model=MODEL, language="en", stream=True)
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert "".join(deltas) == whole.text


def test_silence_is_empty_text(service: Service) -> None:
    silence = encode(ENGLISH[0].waveform * 0, "wav")
    answer = requests.post(
        f"{service.url}/v1/audio/transcriptions",
        files={"file": silence},
        data={"model": MODEL, "response_format": "verbose_json"},
        timeout=60,
    )
    assert (answer.json()["text"], answer.json()["segments"]) == ("", [])


def test_a_real_voice_is_answered(client: openai.OpenAI) -> None:
    """The demo checkpoint does not know these words; the service must answer all the same."""
    with (DATA / "jfk.flac").open("rb") as file:
        answer = client.audio.transcriptions.create(file=file, model=MODEL, response_format="verbose_json")
    assert answer.duration == pytest.approx(11.0, abs=0.01)
    assert answer.usage
    assert answer.usage.seconds == 11


def test_a_running_out_of_tokens_is_told(service: Service) -> None:
    answer = requests.post(
        f"{service.url}/v1/audio/transcriptions",
        files={"file": ENGLISH[0].path.read_bytes()},
        data={"model": MODEL, "max_new_tokens": "3"},
        timeout=60,
    )
    assert answer.json()["warnings"][0]["code"] == "token_budget_exhausted"
    assert answer.headers["x-asr-warnings"].startswith("token_budget_exhausted")


def test_errors_reach_the_sdk_whole(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.audio.transcriptions.create(file=b"not audio at all" * 100, model=MODEL)
    assert (raised.value.param, raised.value.code) == ("file", "invalid_value")
    assert raised.value.request_id
    with pytest.raises(openai.NotFoundError) as unknown:
        client.audio.transcriptions.create(file=ENGLISH[0].path, model="whisper-99")
    assert unknown.value.code == "model_not_found"


def test_the_demo_is_never_passed_off_as_the_real_model(service: Service, client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert model.model_extra is not None
    assert model.model_extra["checkpoint"] == "demo"
    assert "DEMO checkpoint" in service.log.read_text()


@pytest.mark.parametrize("recording", [ENGLISH[0], CHINESE[0]])
def test_the_text_streams_while_it_is_decoded(client: openai.OpenAI, recording: Recording) -> None:
    with recording.path.open("rb") as file:
        upload = file.read()
    whole = client.audio.transcriptions.create(file=upload, model=MODEL).text
    *deltas, done = client.audio.transcriptions.create(file=upload, model=MODEL, stream=True)
    assert len(deltas) > 5
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == whole
    assert done.type == "transcript.text.done"
    assert done.text == whole
    assert done.usage is not None


def test_log_probabilities_are_those_of_the_text(client: openai.OpenAI) -> None:
    with ENGLISH[0].path.open("rb") as file:
        answer = client.audio.transcriptions.create(file=file, model=MODEL, include=["logprobs"])
    assert answer.logprobs is not None
    assert bytes(int(byte) for token in answer.logprobs for byte in token.bytes or ()).decode() == answer.text
    assert all(token.logprob is not None and token.logprob <= 0 for token in answer.logprobs)


def test_only_listed_languages_are_detected(service: Service) -> None:
    with CHINESE[0].path.open("rb") as file:
        answer = requests.post(
            f"{service.url}/v1/audio/transcriptions",
            files={"file": file},
            data={"model": MODEL, "languages[]": ["en", "de"], "response_format": "verbose_json"},
            timeout=60,
        )
    assert answer.json()["language"] in ("english", "german", "")


@pytest.mark.parametrize("request_id", [b"a b", b"x" * 200, b"\xff"])
def test_an_unclean_request_id_is_not_repeated(service: Service, request_id: bytes) -> None:
    answer = requests.get(f"{service.url}/v1/models", headers={"x-request-id": request_id}, timeout=60)
    assert answer.status_code == 200
    assert re.fullmatch("req_[0-9a-f]{32}", answer.headers["x-request-id"])


def test_what_serve_answers_itself_has_openais_form(service: Service) -> None:
    answer = requests.post(
        f"{service.url}/v1/audio/transcriptions",
        files={"file": ENGLISH[0].path.read_bytes()},
        data={"model": MODEL},
        headers={"x-request-timeout-seconds": "0.001", "x-request-id": "mine"},
        timeout=60,
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert answer.headers["x-request-id"] == "mine"
