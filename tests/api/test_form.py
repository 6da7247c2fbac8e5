"""Every field of the form: honoured, or refused by name before any audio is touched."""

from typing import Any

import pytest

from deployments.ingress.form import MAX_PROMPT_CHARS
from tests.api.fakes import AUDIO, MODEL, TRANSCRIPTIONS, Service, error_of

INVALID, UNSUPPORTED, MISSING = "invalid_value", "unsupported_value", "missing_required_parameter"
NO_WORDS = "word_times_unavailable"

BAD_TEMPERATURES = ["1.01", "-0.1", "nan", "inf", "Infinity", "1e999", "0_1", "0x1", "0,5", ".", "-", "1e", "hot"]
BAD_TEMPERATURES += ["", " 0", "0 ", "0\n", "٠"]
TOKEN_BUDGETS = ["max_new_tokens", "max_completion_tokens"]
BAD_TOKENS = ["0", "-1", "4097", "1.0", "1e2", "1_0", "nan", "", " 1", "9" * 250, "١"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"language": "xx"}, "language", "invalid_language_format"),
        ({"language": "e" * 300}, "language", INVALID),
        ({"language": ["en", "en"]}, "language", INVALID),
        ({"prompt": "p" * (MAX_PROMPT_CHARS + 1)}, "prompt", INVALID),
        ({"prompt": ["a", "b"]}, "prompt", INVALID),
        ({"response_format": "diarized_json"}, "response_format", UNSUPPORTED),
        ({"response_format": "xml"}, "response_format", INVALID),
        ({"response_format": "JSON"}, "response_format", INVALID),
        ({"response_format": ""}, "response_format", INVALID),
        *(({"temperature": value}, "temperature", INVALID) for value in BAD_TEMPERATURES),
        *(({name: value}, name, INVALID) for name in TOKEN_BUDGETS for value in BAD_TOKENS),
        ({"max_new_tokens": "8", "max_completion_tokens": "8"}, "max_completion_tokens", INVALID),
        *(({"top_p": value}, "top_p", INVALID) for value in ("0", "1.01", "-0.5", "nan", "")),
        *(({"top_k": value}, "top_k", INVALID) for value in ("-2", "1.5", "1000001", "all")),
        *(({"seed": value}, "seed", INVALID) for value in ("-1", str(2**63), "1e3", "")),
        *(({"repetition_penalty": value}, "repetition_penalty", INVALID) for value in ("0", "0.09", "2.01", "-1", "x")),
        *(
            ({"stream": "true", "response_format": value}, "response_format", UNSUPPORTED)
            for value in ("srt", "vtt", "verbose_json")
        ),
        ({"stream": "yes"}, "stream", INVALID),
        ({"stream": ""}, "stream", INVALID),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities", NO_WORDS),
        ({"timestamp_granularities": "word"}, "timestamp_granularities", NO_WORDS),
        ({"timestamp_granularities[]": ["segment", "word"]}, "timestamp_granularities", NO_WORDS),
        ({"timestamp_granularities[0]": "word"}, "timestamp_granularities", NO_WORDS),
        ({"timestamp_granularities[]": "segment"}, "timestamp_granularities", INVALID),
        ({"timestamp_granularities[]": "phone"}, "timestamp_granularities", INVALID),
        ({"timestamp_granularities[]": '["segment"]'}, "timestamp_granularities", INVALID),
        ({"include[]": "words"}, "include", INVALID),
        ({"include": "logprobs,words"}, "include", INVALID),
        ({"include[]": '["logprobs"]'}, "include", INVALID),
        *(
            ({"include[]": "logprobs", "response_format": value}, "include", INVALID)
            for value in ("text", "srt", "vtt", "verbose_json")
        ),
        ({"languages[]": ["en", "xx"]}, "languages", INVALID),
        ({"languages": "en,de"}, "languages", INVALID),
        ({"languages[]": '["en"]'}, "languages", INVALID),
        ({"languages[]": ["en", "auto"]}, "languages", INVALID),
        ({"languages[]": ""}, "languages", INVALID),
        ({"languages[]": ["en", "de"], "language": "fr"}, "languages", INVALID),
        ({"keywords": "k" * (MAX_PROMPT_CHARS + 1)}, "keywords", INVALID),
        ({"keywords[]": ["k" * 300] * 14}, "keywords", INVALID),
        ({"prompt": "p" * 3000, "hotwords": "h" * 1001}, "hotwords", INVALID),
        ({"url": "https://example.com/a.wav"}, "url", UNSUPPORTED),
        ({"known_speaker_names[]": "Ada"}, "known_speaker_names", UNSUPPORTED),
        ({"known_speaker_names[0]": "Ada"}, "known_speaker_names", UNSUPPORTED),
        ({"known_speaker_references[]": "data:" + "A" * 500_000}, "known_speaker_references", UNSUPPORTED),
    ],
)
async def test_refused(service: Service, fields: dict[str, Any], param: str, code: str) -> None:
    response = await service.transcribe(**fields)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert param in error["message"]
    assert len(error["message"]) < 1500
    assert service.untouched


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": "1"},
        {"temperature": ".5"},
        {"temperature": "5e-1"},
        {"temperature": "-0"},
        {"max_new_tokens": "4096"},
        {"max_completion_tokens": "1"},
        {"top_p": "1e-3", "top_k": "1000000", "seed": str(2**63 - 1), "repetition_penalty": "2"},
        {"top_k": "-1", "seed": "0", "repetition_penalty": ".1"},
        *({"response_format": value} for value in ("json", "text", "srt", "vtt", "verbose_json")),
        {"stream": "0", "response_format": "srt"},
        {"include[]": "logprobs"},
        {"include": ["logprobs", "logprobs"], "response_format": "json"},
        {"languages[]": ["en", "German", "zh-TW"]},
        {"languages": "en", "language": "en"},
        {"keywords[]": ["", "Ada"], "hotwords": "Grace, Katherine"},
        {"keywords[]": [f"name{index}" for index in range(400)]},
        {"prompt": "p" * 3000, "keywords": "k" * 1000},
        {"prompt": "p" * MAX_PROMPT_CHARS},
        {"prompt": ""},
        {"stream": "false"},
        {"stream": "False"},
        {"stream": "null"},
        {"response_format": "verbose_json", "timestamp_granularities[]": "segment"},
        {"response_format": "verbose_json", "timestamp_granularities": ["segment", "segment"]},
    ],
)
async def test_accepted(service: Service, fields: dict[str, Any]) -> None:
    response = await service.transcribe(**fields)
    assert response.status_code == 200
    assert "x-asr-warnings" not in response.headers


@pytest.mark.parametrize("fields", [{}, {"model": ""}])
async def test_missing_model(service: Service, fields: dict[str, str]) -> None:
    response = await service.post_form(fields, {"file": ("a.wav", AUDIO)})
    assert response.status_code == 400
    assert error_of(response) == {
        "message": "you must provide a model parameter",
        "type": "invalid_request_error",
        "param": "model",
        "code": MISSING,
    }


async def test_unknown_model(service: Service) -> None:
    response = await service.transcribe(model="gpt-x")
    assert response.status_code == 404
    assert error_of(response) == {
        "message": "The model `gpt-x` does not exist or you do not have access to it.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({}, MISSING),
        ({"file": ("a.wav", b"")}, INVALID),
        ({"file": (None, "text without a filename")}, INVALID),
        ({"File": ("a.wav", AUDIO)}, MISSING),
    ],
)
async def test_no_usable_file(service: Service, files: dict[str, Any], code: str) -> None:
    response = await service.post_form({"model": MODEL}, files)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["code"]) == ("file", code)


async def test_two_files(service: Service) -> None:
    parts = [("model", (None, MODEL)), ("file", ("a", AUDIO)), ("file", ("b", AUDIO))]
    error = error_of(await service.request("POST", TRANSCRIPTIONS, files=parts))
    assert error["param"] == "file"
    assert "2 times" in error["message"]


@pytest.mark.parametrize("name", ["model", "language", "temperature", "timestamp_granularities[]"])
async def test_file_where_text_is_expected(service: Service, name: str) -> None:
    parts = [(name, ("x.txt", b"segment")), ("file", ("a", AUDIO))]
    if name != "model":
        parts.append(("model", (None, MODEL)))  # type: ignore[arg-type]
    error = error_of(await service.request("POST", TRANSCRIPTIONS, files=parts))
    assert error["param"] == name.removesuffix("[]")
    assert "not an uploaded file" in error["message"]
    assert service.untouched


async def test_the_first_of_several_errors_has_a_fixed_order(service: Service) -> None:
    fields: dict[str, Any] = {"temperature": "x", "language": "xx", "known_speaker_names[]": "Ada"}
    expected = ["model", "model", "file", "known_speaker_names", "language", "temperature"]
    seen = [error_of(await service.post_form(fields))["param"]]
    seen.append(error_of(await service.post_form(fields | {"model": "gpt-x"}))["param"])
    seen.append(error_of(await service.post_form(fields | {"model": MODEL}))["param"])
    for name in ("known_speaker_names[]", "language", "temperature"):
        seen.append(error_of(await service.transcribe(**fields))["param"])
        del fields[name]
    assert seen == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"response_format": "xml"},
            "Invalid response_format 'xml'. Supported values are: 'json', 'text', 'srt', 'verbose_json', 'vtt'.",
        ),
        (
            {"response_format": "diarized_json"},
            "response_format 'diarized_json' is not supported by this service, which does not tell speakers apart. "
            "Use 'verbose_json' instead.",
        ),
        (
            {"timestamp_granularities[]": "segment"},
            "timestamp_granularities[] requires response_format 'verbose_json'.",
        ),
        (
            {"timestamp_granularities[]": "word", "response_format": "verbose_json"},
            "timestamp_granularities[] 'word' needs an aligner, and this server was started without one. "
            "Use 'segment' instead.",
        ),
        ({"include[]": "words"}, "Invalid include[] 'words'. Supported values are: 'logprobs'."),
        (
            {"stream": "true", "response_format": "vtt"},
            "response_format 'vtt' cannot be streamed. Use 'json' or 'text' with stream=true.",
        ),
        ({"top_p": "0"}, "Invalid top_p '0': expected a number above 0 and at most 1."),
        ({"temperature": "2"}, "Invalid temperature '2': expected a number from 0 to 1."),
        ({"seed": "x"}, "Invalid seed 'x': expected an integer from 0 to 9223372036854775807."),
        ({"stream": "yes"}, "Invalid stream 'yes': expected 'true' or 'false'."),
        ({"url": "http://x/"}, "'url' is not enabled on this server; send the recording as 'file'."),
        (
            {"languages[]": "de", "language": "en"},
            "'language' asks for English, which 'languages' does not list.",
        ),
        ({"hotwords": "h" * 4001}, "'hotwords' is too long: 4001 characters, at most 4000 are allowed."),
    ],
)
async def test_messages_say_what_to_do(service: Service, fields: dict[str, Any], message: str) -> None:
    assert error_of(await service.transcribe(**fields))["message"] == message


@pytest.mark.parametrize(
    "body",
    [{"json": {"model": MODEL}}, {"data": {"model": MODEL}}, {"content": b"abc"}, {}],
    ids=["json", "urlencoded", "bytes", "empty"],
)
async def test_other_content_types(service: Service, body: dict[str, Any]) -> None:
    response = await service.request("POST", TRANSCRIPTIONS, **body)
    assert response.status_code == 400
    error = error_of(response)
    assert "multipart/form-data" in error["message"]
    assert error["code"] == INVALID


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"no boundary at all"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nno name\r\n--x--\r\n"),
        ("multipart/form-data; boundary=" + "x" * 5000, b""),
        ("multipart/form-data; boundary=x; charset=utf-7", b"--x--\r\n"),
        ("multipart/form-data; boundary=x; charset=punycode", b"--x--\r\n"),
    ],
)
async def test_broken_multipart(service: Service, content_type: str, body: bytes) -> None:
    response = await service.request("POST", TRANSCRIPTIONS, content=body, headers={"content-type": content_type})
    assert response.status_code == 400
    error = error_of(response)
    assert error["message"].startswith("Could not parse multipart form")
    assert error["code"] == INVALID


@pytest.mark.parametrize("cut", [b"--x--", b"\r\n--x--", b"son\r\n--x--"])
async def test_a_body_without_its_end_is_refused_whatever_it_has_so_far(service: Service, cut: bytes) -> None:
    """The parser alone would take it, without the fields that were cut off."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + MODEL.encode() + b"\r\n"
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + AUDIO + b"\r\n"
        b'--x\r\nContent-Disposition: form-data; name="response_format"\r\n\r\nverbose_json\r\n--x--'
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    whole = await service.request("POST", TRANSCRIPTIONS, content=body + b"\r\n", headers=headers)
    assert whole.status_code == 200
    truncated = await service.request("POST", TRANSCRIPTIONS, content=body.removesuffix(cut), headers=headers)
    assert truncated.status_code == 400
    assert error_of(truncated)["message"].startswith("Could not parse multipart form")


async def test_truncated_multipart(service: Service) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nqwen3-asr-demo\r\n--x\r\nContent-Disp'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = await service.request("POST", TRANSCRIPTIONS, content=body, headers=headers)
    assert response.status_code == 400


@pytest.mark.parametrize(
    "parts",
    [
        [("x", (None, "1"))] * 1001,
        [("x", ("a", b"1"))] * 9,
        [("prompt", (None, "p" * 1_100_000))],
    ],
    ids=["fields", "files", "size"],
)
async def test_bounds_of_the_form(service: Service, parts: list) -> None:
    response = await service.request("POST", TRANSCRIPTIONS, files=parts)
    assert response.status_code == 400
    assert error_of(response)["message"].startswith("Could not parse multipart form")


async def test_unknown_fields_are_ignored_but_told(service: Service) -> None:
    response = await service.transcribe(**{"user": "me", "größe": "1", "max_new_token": ["1", "2"]})
    assert response.status_code == 200
    warnings = response.json()["warnings"]
    assert {warning["code"] for warning in warnings} == {"unknown_field"}
    assert [warning["message"] for warning in warnings] == [
        "The unknown field 'user' was ignored.",
        "The unknown field 'größe' was ignored.",
        "The unknown field 'max_new_token' was ignored.",
    ]
    header = response.headers["x-asr-warnings"]
    assert header.startswith("unknown_field: The unknown field 'user' was ignored.; ")
    assert header.isascii()
    assert header.isprintable()


async def test_control_characters_in_a_field_name(service: Service) -> None:
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % part
        for part in [(b"model", MODEL.encode()), (b"a\x01\x7f\xe2\x80\xa8", b"1"), (b'file"; filename="a', AUDIO)]
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = await service.request("POST", TRANSCRIPTIONS, content=body + b"--x--\r\n", headers=headers)
    assert response.status_code == 200
    assert response.headers["x-asr-warnings"].isprintable()


async def test_warnings_are_bounded(service: Service) -> None:
    response = await service.transcribe(**{f"{index:02}" + "x" * 1000: "1" for index in range(40)})
    warnings = response.json()["warnings"]
    assert len(warnings) == 9
    assert warnings[-1]["message"] == "32 more unknown fields were ignored."
    assert all(len(warning["message"]) < 120 for warning in warnings)
    assert len(response.headers["x-asr-warnings"]) <= 1000


@pytest.mark.parametrize("path", ["/v1/audio/translations"])
async def test_translation_is_refused_after_the_model_check(service: Service, path: str) -> None:
    file = {"file": ("a.wav", AUDIO)}
    assert error_of(await service.post_form({}, file, path))["code"] == MISSING
    assert error_of(await service.post_form({"model": "x"}, file, path))["code"] == "model_not_found"
    response = await service.post_form({"model": MODEL}, file, path)
    assert response.status_code == 400
    assert error_of(response) == {
        "message": f"The model '{MODEL}' does not support translation: it transcribes only. "
        "Use /v1/audio/transcriptions.",
        "type": "invalid_request_error",
        "param": "model",
        "code": UNSUPPORTED,
    }
    assert service.untouched
