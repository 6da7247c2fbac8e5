"""The languages of Qwen3-ASR, and every way a caller may name one.

The model was trained with full English names in its prompt (`language English<asr_text>`), so a name is the internal
form everywhere; codes exist only at the border.
"""

import re

from deployments.exceptions import InvalidRequest

CODE_TO_NAME = {
    "ar": "Arabic",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fa": "Persian",
    "fi": "Finnish",
    "fil": "Filipino",
    "fr": "French",
    "hi": "Hindi",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "mk": "Macedonian",
    "ms": "Malay",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "vi": "Vietnamese",
    "yue": "Cantonese",
    "zh": "Chinese",
}
NAME_TO_CODE = {name: code for code, name in CODE_TO_NAME.items()}

# Codes in wide use that are not the model's own: the qwen-asr package says `cn`, ISO 639-3 calls Mandarin `cmn`,
# and ISO 639-1 calls Filipino `tl`.
_CODES = CODE_TO_NAME | {"cn": "Chinese", "cmn": "Chinese", "tl": "Filipino"}
_NAMES = {name.lower(): name for name in NAME_TO_CODE} | {"mandarin": "Chinese", "tagalog": "Filipino"}
_LANGUAGE_TAG = re.compile(r"([a-z]{2,3})(-[a-z0-9]{1,8})*")


def resolve_language(
    value: str | None, *, param: str = "language", code: str = "invalid_language_format"
) -> str | None:
    """Return the model's English name for `value`, or None where the model shall detect the language.

    Accepts the model's codes (`en`, `yue`, also `cn`), its English names in any case, and BCP-47 tags, which count by
    their language alone (`en-US`, `zh-Hant-TW`; `zh-yue` and `zh-HK` stay Chinese). `auto`, an empty string and None
    mean detection.

    Raises:
        InvalidRequest: any other value, with `param` and `code`; the message lists what is accepted.
    """
    spelling = (value or "").strip().lower().replace("_", "-")
    if spelling in ("", "auto"):
        return None
    tag = _LANGUAGE_TAG.fullmatch(spelling)
    name = _NAMES.get(spelling) or (_CODES.get(tag[1]) if tag else None)
    if name is None:
        choices = ", ".join(f"{code} ({name})" for code, name in CODE_TO_NAME.items())
        raise InvalidRequest(
            f"Invalid {param} {value!r}. Leave it out for automatic detection, or use one of: {choices}.",
            param=param,
            code=code,
        )
    return name
