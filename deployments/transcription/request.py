"""What the caller asked for, validated and free of HTTP."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TranscriptionOptions:
    """How a recording shall be transcribed."""

    language: str | None = None
    """English name, or None for detection."""
    prompt: str = ""
    temperature: float = 0.0
    max_new_tokens: int | None = None
