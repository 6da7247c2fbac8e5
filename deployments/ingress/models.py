"""What `/v1/models` says about the served model."""

from pathlib import Path

from deployments.ingress.form import MAX_PROMPT_CHARS, RESPONSE_FORMATS
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.languages import CODE_TO_NAME


def model_card(model_id: str, served: ServedModel, settings: Settings) -> dict:
    """OpenAI's four keys, and what a client of this service may want to know before it sends audio.

    `checkpoint` tells what the weights are whatever the id says: `demo` is the small bundled checkpoint.
    """
    is_folder = served.owned_by == "local"
    return {
        "id": model_id,
        "object": "model",
        "created": served.created,
        "owned_by": served.owned_by,
        "checkpoint": Path(served.checkpoint).name if is_folder else settings.model,
        "languages": list(CODE_TO_NAME),
        "response_formats": list(RESPONSE_FORMATS),
        "aligner": settings.aligner is not None,
        "url_input": settings.url_input,
        "max_duration_s": settings.max_duration_s,
        "max_utterance_s": settings.utterance_limit_s,
        "max_upload_bytes": settings.max_upload_bytes,
        "max_prompt_chars": MAX_PROMPT_CHARS,
    }
