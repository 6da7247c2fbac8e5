"""One field, every way a client may write it: the SDKs, other languages' clients, curl and hand-written forms."""

import json
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.audio.speech import SpeechOptions
from tests.api.fakes import AUDIO, MODEL, TRANSCRIPTIONS, Service, error_of

VAD = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 200}


@pytest.mark.parametrize(
    "fields",
    [
        {"chunking_strategy": "auto"},
        {"chunking_strategy": '"auto"'},
        {"chunking_strategy": "null"},
        {"chunking_strategy": '{"type":"server_vad"}'},
        {"chunking_strategy": json.dumps(VAD)},
        {"chunking_strategy": json.dumps(VAD, indent=2)},
        {"chunking_strategy[type]": "server_vad"},
        {f"chunking_strategy[{key}]": str(value) for key, value in VAD.items()},
        {"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "1"},
        {"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": ".25"},
        {"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "1."},
        {"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "5E-1"},
    ],
)
async def test_chunking_strategy(service: Service, fields: dict[str, str]) -> None:
    response = await service.transcribe(**fields)
    assert response.status_code == 200
    assert "x-asr-warnings" not in response.headers


@pytest.mark.parametrize(
    ("fields", "speech"),
    [
        ({}, SpeechOptions(threshold=0.5, padding_s=0.3, silence_s=0.2)),
        ({"": "auto"}, SpeechOptions()),
        ({"[type]": "server_vad"}, SpeechOptions()),
        (
            {"[type]": "server_vad", "[threshold]": ".25", "[prefix_padding_ms]": "0", "[silence_duration_ms]": "1500"},
            SpeechOptions(threshold=0.25, padding_s=0.0, silence_s=1.5),
        ),
        (
            {"": '{"type":"server_vad","threshold":1,"prefix_padding_ms":100}'},
            SpeechOptions(threshold=1, padding_s=0.1),
        ),
    ],
)
async def test_chunking_strategy_says_what_speech_is(
    service: Service, fields: dict[str, str], speech: SpeechOptions
) -> None:
    await service.transcribe(**{f"chunking_strategy{key}": value for key, value in fields.items()})
    assert service.transcriber.speech == speech


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"": "none"}, "must be 'auto' or an object with type 'server_vad', not 'none'"),
        ({"": ""}, "must be 'auto'"),
        ({"": "AUTO"}, "must be 'auto'"),
        ({"": "{"}, "must be 'auto'"),
        ({"": "[]"}, "must be 'auto'"),
        ({"": "1"}, "must be 'auto'"),
        ({"": "[" * 200}, "must be 'auto'"),
        ({"": "{}"}, "needs a type: 'server_vad'"),
        ({"": '{"type":null}'}, "has type 'None'; the only one is 'server_vad'"),
        ({"": '{"type":"semantic_vad"}'}, "has type 'semantic_vad'"),
        ({"": '{"type":"server_vad","threshold":1.5}'}, "has threshold '1.5'; expected a number from 0 to 1"),
        ({"": '{"type":"server_vad","threshold":NaN}'}, "has threshold 'nan'"),
        ({"": '{"type":"server_vad","threshold":"0.5"}'}, "has threshold '0.5'"),
        ({"": '{"type":"server_vad","threshold":true}'}, "has threshold 'True'"),
        ({"": '{"type":"server_vad","prefix_padding_ms":0.5}'}, "has prefix_padding_ms '0.5'"),
        ({"": '{"type":"server_vad","silence_duration_ms":-1}'}, "expected an integer from 0 to 60000"),
        ({"": '{"type":"server_vad","silence_duration_ms":60001}'}, "has silence_duration_ms '60001'"),
        ({"": '{"type":"server_vad","padding":1}'}, "has no parameter 'padding'"),
        ({"[threshold]": "0.5"}, "needs a type"),
        ({"[type]": "auto"}, "has type 'auto'"),
        ({"[type]": "server_vad", "[threshold]": "-0.5"}, "has threshold '-0.5'"),
        ({"[type]": "server_vad", "[threshold]": ""}, "has threshold ''"),
        ({"[type]": "server_vad", "[threshold]": "1e999"}, "has threshold 'inf'"),
        ({"[type]": "server_vad", "[threshold]": "e-5"}, "has threshold 'e-5'"),
        ({"[type]": "server_vad", "[prefix_padding_ms]": "3e2"}, "has prefix_padding_ms '300.0'"),
        ({"[type]": "server_vad", "[prefix_padding_ms]": "1.0"}, "has prefix_padding_ms '1.0'"),
        ({"[type]": "server_vad", "[prefix_padding_ms]": "٣"}, "has prefix_padding_ms '٣'"),
        ({"[type]": "server_vad", "[eagerness]": "low"}, "has no parameter 'eagerness'"),
        ({"[type]": "server_vad", "[a][b]": "1"}, "has no parameter 'a][b'"),
        ({"[type]": "server_vad", "": "auto"}, "was sent both whole and by key; send it once"),
    ],
)
async def test_bad_chunking_strategy(service: Service, fields: dict[str, str], problem: str) -> None:
    response = await service.transcribe(**{f"chunking_strategy{key}": value for key, value in fields.items()})
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["code"]) == ("chunking_strategy", "invalid_value")
    assert error["message"].startswith("'chunking_strategy' ")
    assert problem in error["message"]
    assert service.untouched


@pytest.mark.parametrize("spelling", ["languages", "languages[]"])
@pytest.mark.parametrize("values", [["en"], ["en", "zh"]])
async def test_arrays_with_and_without_brackets(service: Service, spelling: str, values: list[str]) -> None:
    await service.transcribe(**{spelling: values})
    assert service.transcriber.calls[0][1].languages == ("English", "Chinese")[: len(values)]


@pytest.mark.parametrize("spellings", [("languages", "languages[]"), ("languages[0]", "languages[1]")])
async def test_several_spellings_together(service: Service, spellings: tuple[str, str]) -> None:
    response = await service.transcribe(**dict(zip(spellings, ("en", "zh"), strict=True)))
    assert service.transcriber.calls[0][1].languages == ("English", "Chinese")
    assert "x-asr-warnings" not in response.headers


async def test_only_arrays_have_brackets(service: Service) -> None:
    response = await service.transcribe(**{"language[0]": "en", "languages[a]": "en", "keywords[0][1]": "Ada"})
    assert [warning["code"] for warning in response.json()["warnings"]] == ["unknown_field"] * 3
    [(_, options)] = service.transcriber.calls
    assert (options.language, options.languages, options.prompt) == (None, (), "")


@pytest.mark.parametrize("position", range(4))
async def test_the_file_in_any_place(service: Service, position: int) -> None:
    parts: list[Any] = [("model", (None, MODEL)), ("language", (None, "de")), ("stream", (None, "false"))]
    parts.insert(position, ("file", ("a.wav", AUDIO)))
    assert (await service.request("POST", TRANSCRIPTIONS, files=parts)).status_code == 200
    assert service.transcriber.calls[0][1].language == "German"


@pytest.mark.parametrize(
    "part",
    [
        ("a.mp3", AUDIO, "audio/mpeg"),
        ("upload", AUDIO, "application/octet-stream"),
        ("blob", AUDIO),
        ("größe 你好.wav", AUDIO, "audio/wav"),
        ("a.txt", AUDIO, "text/plain"),
        ("no-extension", AUDIO, ""),
    ],
)
async def test_the_name_and_type_of_the_file_do_not_matter(service: Service, part: tuple) -> None:
    assert (await service.transcribe(file=part)).status_code == 200
    assert service.decoder.contents == [AUDIO]


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="%b"',
        b'content-disposition: form-data; name="%b"\r\nContent-Type: text/plain; charset=utf-8',
        b"Content-Disposition: form-data; name=%b",
        b'Content-Type: text/plain\r\nContent-Length: 99\r\nContent-Disposition: form-data; name="%b"',
    ],
)
async def test_hand_written_forms(service: Service, head: bytes) -> None:
    fields = [(b"model", MODEL.encode()), (b"language", b"de"), (b"temperature", b"0.5")]
    body = b"".join(b"--x\r\n" + head.replace(b"%b", name) + b"\r\n\r\n" + value + b"\r\n" for name, value in fields)
    body += b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + AUDIO + b"\r\n--x--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = await service.request("POST", TRANSCRIPTIONS, content=body, headers=headers)
    assert response.status_code == 200
    [(_, options)] = service.transcriber.calls
    assert (options.language, options.temperature) == ("German", 0.5)


async def test_every_field_through_the_sdk(service: Service, sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.audio.transcriptions.with_raw_response.create(
        file=("a.wav", AUDIO),
        model=MODEL,
        chunking_strategy={"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300},
        include=["logprobs"],
        language="en",
        prompt="Names.",
        response_format="json",
        temperature=0.5,
        extra_body={
            "languages": ["en", "zh"],
            "keywords": ["Ada", "Grace"],
            "seed": 7,
            "top_p": 0.9,
            "top_k": 50,
            "repetition_penalty": 1.1,
            "max_new_tokens": 100,
        },
    )
    assert "x-asr-warnings" not in answer.headers
    [(_, options)] = service.transcriber.calls
    assert (options.language, options.languages, options.logprobs) == ("English", ("English", "Chinese"), True)
    assert options.prompt == "Names.\nAda, Grace"
    assert (options.seed, options.top_p, options.top_k) == (7, 0.9, 50)
    assert (options.temperature, options.repetition_penalty, options.max_new_tokens) == (0.5, 1.1, 100)


@pytest.mark.parametrize("threshold", [1.0, 0.25, 1e-5, 5e-324])
async def test_numbers_of_the_sdk(service: Service, sdk: openai.AsyncOpenAI, threshold: float) -> None:
    """It writes them as Python does, small ones with an exponent."""
    await sdk.audio.transcriptions.create(
        file=AUDIO, model=MODEL, chunking_strategy={"type": "server_vad", "threshold": threshold}
    )
    assert service.transcriber.speech == SpeechOptions(threshold=threshold)


async def test_arrays_of_the_sdk(service: Service, sdk: openai.AsyncOpenAI) -> None:
    await sdk.audio.transcriptions.create(
        file=AUDIO, model=MODEL, response_format="verbose_json", timestamp_granularities=["segment"]
    )
    with pytest.raises(openai.BadRequestError, match="started without one") as caught:
        await sdk.audio.transcriptions.create(
            file=AUDIO, model=MODEL, response_format="verbose_json", timestamp_granularities=["word", "segment"]
        )
    assert (caught.value.param, caught.value.code) == ("timestamp_granularities", "word_times_unavailable")


SERVICE = Service()


@given(number=st.floats(0, 1), exponent=st.booleans())
async def test_any_number_in_range(number: float, exponent: bool) -> None:
    SERVICE.transcriber.calls.clear()
    response = await SERVICE.transcribe(temperature=f"{number:.17e}" if exponent else f"{number:.20f}")
    assert response.status_code == 200
    assert SERVICE.transcriber.calls[0][1].temperature == pytest.approx(number, abs=1e-18)


@given(st.integers(0, 2**63 - 1))
async def test_any_seed(seed: int) -> None:
    SERVICE.transcriber.calls.clear()
    assert (await SERVICE.transcribe(seed=str(seed))).status_code == 200
    assert SERVICE.transcriber.calls[0][1].seed == seed


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40), max_size=6))
async def test_any_keywords(keywords: list[str]) -> None:
    SERVICE.transcriber.calls.clear()
    assert (await SERVICE.transcribe(**{"keywords[]": keywords})).status_code == 200
    said = [" ".join(keyword.split()) for keyword in keywords]
    assert SERVICE.transcriber.calls[0][1].prompt == ", ".join(filter(None, said))


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
        lambda children: (
            st.lists(children, max_size=3)
            | st.dictionaries(st.sampled_from([*VAD, "x"]), children | st.just("server_vad"), max_size=4)
        ),
        max_leaves=6,
    )
)
async def test_any_chunking_strategy(strategy: Any) -> None:
    response = await SERVICE.transcribe(chunking_strategy=json.dumps(strategy)[:256])
    assert response.status_code == 200 or error_of(response)["param"] == "chunking_strategy"
