"""Whatever is sent: the answer is a transcript or an error of OpenAI's shape, never 422, 500 or FastAPI's `detail`."""

import asyncio
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api.fakes import AUDIO, MODEL, TRANSCRIPTIONS, Service, error_of

SERVICE = Service()

NAMES = st.sampled_from(
    [
        *("file", "model", "language", "prompt", "response_format", "temperature", "stream", "max_new_tokens"),
        *("timestamp_granularities", "timestamp_granularities[]", "include", "include[]", "languages[]"),
        *("chunking_strategy", "chunking_strategy[type]", "chunking_strategy[threshold]", "chunking_strategy["),
        *("top_p", "top_k", "seed", "repetition_penalty", "max_completion_tokens", "keywords", "hotwords[]", "url"),
    ]
)
LIKELY = st.sampled_from(
    [
        *(MODEL, "en", "auto", "json", "text", "verbose_json", "srt", "0", "1", "0.5", "4096", "true", "false"),
        *("vtt", "logprobs", "server_vad", '{"type":"server_vad"}', "-1", "1.0"),
        *("segment", "word", "", "nan", "1e400", "٣", "\x00", "a\r\nb", "null", "[]"),
    ]
)
PARTS = st.tuples(
    st.one_of(NAMES, st.text(max_size=20)),
    st.one_of(
        st.one_of(LIKELY, st.text(max_size=40)).map(lambda text: (None, text)),
        st.binary(max_size=40).map(lambda data: ("a.wav", data)),
    ),
)


def check(response: httpx.Response) -> None:
    assert "x-request-id" in response.headers
    if response.status_code == 200:
        assert '"detail"' not in response.text
        assert '"error"' not in response.text
    else:
        assert response.status_code in (400, 404, 413)
        assert error_of(response)["type"] == "invalid_request_error"


def post(**kwargs: Any) -> httpx.Response:
    return asyncio.run(SERVICE.request("POST", TRANSCRIPTIONS, **kwargs))


@settings(max_examples=120, deadline=None)
@given(parts=st.lists(PARTS, max_size=8), complete=st.booleans())
def test_any_fields(parts: list, complete: bool) -> None:
    if complete:  # let the rest of the validation be reached
        parts = [part for part in parts if part[0] not in ("model", "file")]
        parts += [("model", (None, MODEL)), ("file", ("a.wav", AUDIO))]
    check(post(files=parts or [("x", (None, ""))]))


@settings(max_examples=150, deadline=None)
@given(
    body=st.lists(
        st.one_of(
            st.sampled_from([b"--x", b"--x--", b"\r\n", b"\n", b'Content-Disposition: form-data; name="file"'])
            | st.sampled_from([b'; filename="a"', b"; filename*=utf-8''%e2%82", b"\r\n\r\n", b"Content-Type: a/b"]),
            st.binary(max_size=30),
        ),
        max_size=20,
    ),
    content_type=st.one_of(
        st.just(b"multipart/form-data; boundary=x"),
        st.binary(max_size=60).map(lambda tail: b"multipart/form-data; boundary=x" + tail),
        st.binary(max_size=60),
    ),
)
def test_any_bytes(body: list[bytes], content_type: bytes) -> None:
    check(post(content=b"".join(body), headers={b"content-type": content_type}))
