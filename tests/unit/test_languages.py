"""Every way to name one of the model's languages, and a helpful refusal of everything else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

from deployments.exceptions import InvalidRequest
from deployments.transcription.languages import CODE_TO_NAME, NAME_TO_CODE, resolve_language


def test_they_are_the_languages_of_the_model() -> None:
    assert CODE_TO_NAME == LANGUAGE_CODE_TO_NAME
    assert len(CODE_TO_NAME) == 30


@pytest.mark.parametrize(("code", "name"), CODE_TO_NAME.items())
def test_codes_and_names_in_any_case(code: str, name: str) -> None:
    for spelling in (code, code.upper(), name, name.lower(), name.upper(), f" {code} "):
        assert resolve_language(spelling) == name
    assert NAME_TO_CODE[name] == code


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("en-US", "English"),
        ("en_GB", "English"),
        ("zh-CN", "Chinese"),
        ("zh-Hant-TW", "Chinese"),
        ("cn", "Chinese"),
        ("cmn-Hans-CN", "Chinese"),
        ("mandarin", "Chinese"),
        ("yue-HK", "Cantonese"),
        ("pt-BR", "Portuguese"),
        ("tl", "Filipino"),
        ("fil-PH", "Filipino"),
    ],
)
def test_tags_count_by_their_language(tag: str, name: str) -> None:
    assert resolve_language(tag) == name


@pytest.mark.parametrize("value", [None, "", "  ", "auto", "AUTO"])
def test_nothing_and_auto_mean_detection(value: str | None) -> None:
    assert resolve_language(value) is None


@pytest.mark.parametrize("value", ["xx", "sw", "english-US", "en-", "-en", "e", "en US", "none", "en,zh", "中文"])
def test_anything_else_is_refused_with_the_list(value: str) -> None:
    with pytest.raises(InvalidRequest, match=r"en \(English\).*zh \(Chinese\)") as raised:
        resolve_language(value)
    assert raised.value.param == "language"
    assert raised.value.code == "invalid_language_format"


def test_the_refusal_names_the_field_it_is_about() -> None:
    with pytest.raises(InvalidRequest, match="Invalid languages 'xx'") as raised:
        resolve_language("xx", param="languages", code="invalid_value")
    assert (raised.value.param, raised.value.code) == ("languages", "invalid_value")


@given(st.text())
def test_it_answers_a_name_or_refuses(value: str) -> None:
    try:
        name = resolve_language(value)
    except InvalidRequest:
        return
    assert name is None or name in NAME_TO_CODE
