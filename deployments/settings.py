"""Every knob of the service: typed, documented, unknown keys refused.

The values come from `args:` in `serve_config.yaml`; an environment variable `ASR_<NAME>` of the process that runs
`serve run` beats the file, so that one file serves every machine. What can be changed while the service runs (batch
size and wait) is not here but in the `user_config` of the ASR deployment, see `deployments/asr/deployment.py`.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from deployments.api_keys import ApiKey, parse_api_keys, read_api_keys
from deployments.budget import least_slot_tokens
from deployments.transcription.languages import resolve_language

ENVIRONMENT_PREFIX = "ASR_"
DEMO = "demo"
"""The `model` and the `aligner` that come with the project."""
UTTERANCE_S = 30.0
DEMO_UTTERANCE_S = 12.0
"""`max_utterance_s` where it is `auto`."""
LONGEST_ALIGNED_S = 180.0
"""Seconds that a released forced aligner takes in one go; the released package cuts longer recordings."""
MAX_AUTO_SLOTS = {"cpu": 16, "cuda": 256}
"""`slots` where it is `auto` and there is memory enough."""
_SERVICE_LINK = re.compile(
    rf"{ENVIRONMENT_PREFIX}(\w+_)?"
    r"(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT=(tcp|udp|sctp)://|PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?=)"
)
"""What Kubernetes puts into every pod of a namespace for a Service that is called `asr`, or begins so."""
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?|\*")


class Settings(BaseSettings):
    """Configuration of one application. Field descriptions are the documentation (`docs/configuration.md`)."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        hide_input_in_errors=True,  # keys are among it
    )

    model: str = Field(
        default=DEMO,
        min_length=1,
        description="What to serve: a Hugging Face hub id (`Qwen/Qwen3-ASR-1.7B`), a folder with a checkpoint, or "
        "`demo`, the tiny bundled checkpoint that knows a few hundred words.",
    )
    served_model_name: str | None = Field(
        default=None,
        min_length=1,
        description="The id clients send as `model`. By default the hub id, the folder's name, or `qwen3-asr-demo`.",
    )
    model_aliases: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Further ids that clients may send as `model`, such as `whisper-1`; in the environment, a comma "
        "list.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto",
        description="Number format of the weights, the aligner's too. `auto`: bfloat16 where the hardware computes in "
        "it, else float32.",
    )
    quantization: Literal["none", "int8"] = Field(
        default="none",
        description="`int8`, on a CPU: weights rounded to 8 bits, faster and smaller, a little less accurate.",
    )
    cuda_graphs: bool = Field(
        default=True,
        description="On a GPU, replay each decode step as one recorded graph in place of launching its kernels.",
    )
    torch_compile: bool = Field(
        default=False,
        description="On a GPU, compile what the language model computes between its matrix products into one kernel "
        "each: faster, but a replica starts later and needs a C compiler in its image.",
    )
    num_gpus: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        default="auto",
        description="GPUs per ASR replica, at most 1: more cards take more replicas. A fraction lets replicas share a "
        "card, 0 means CPU. `auto`: 1 if the cluster has a GPU when the application is built, else 0. Say it outright "
        "where GPU nodes join later.",
    )
    num_cpus: float = Field(default=1, gt=0, description="CPUs that Ray reserves for one ASR replica.")
    torch_threads: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto",
        description="Threads torch computes with in one ASR or Aligner replica. `auto`: all cores the replica may run "
        "on when it computes on the CPU, one when it computes on a GPU.",
    )
    slots: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto",
        description="Utterances that one ASR replica decodes together at most; more wait. `auto`: as many as the free "
        "memory holds, up to 16 on a CPU and 256 on a GPU.",
    )
    slot_tokens: int = Field(
        default=2048,
        ge=256,
        description="Tokens that one utterance may need: 13 per second of audio, the prompt, 64 + 12 per second for "
        "the answer, or `max_new_tokens`. A request that needs more for `max_utterance_s` is a 400. The cache takes "
        "`slots` times as many, 112 KiB each for the released models in bfloat16.",
    )
    admission_s: Literal["auto"] | Annotated[float, Field(ge=0)] = Field(
        default="auto",
        description="Seconds of audio that may join the running utterances between two decode steps, which wait for "
        "it; the first 8 always may. `auto`: 10 on a CPU, up to 600 on a GPU, as its memory allows.",
    )
    aligner: str | None = Field(
        default=None,
        min_length=1,
        description="Forced aligner that tells the times of words: a hub id (`Qwen/Qwen3-ForcedAligner-0.6B`), a "
        "folder, or `demo`, the bundled one for the demo checkpoint. None: no word times.",
    )
    aligner_num_gpus: float = Field(
        default=0,
        ge=0,
        le=1,
        description="GPUs per Aligner replica, at most 1; a fraction lets it share a card, 0 means CPU.",
    )
    # With the ASR replica's 1 and the ingress' 0.5 it fits on a laptop of two cores.
    aligner_num_cpus: float = Field(default=0.5, gt=0, description="CPUs that Ray reserves for one Aligner replica.")
    default_language: str | None = Field(
        default=None,
        description="Language to force when a request names none, as code or English name. None detects it.",
    )
    loop_detection: bool = Field(
        default=True,
        description="Stop an answer that repeats itself over and over while it is decoded, and decode it again. "
        "`false` is for measuring models with random weights, which do little else.",
    )
    max_utterance_s: Literal["auto"] | Annotated[float, Field(ge=1, le=1200)] = Field(
        default="auto",
        description="Longest stretch of a recording, in seconds, that is decoded in one go; a longer recording is cut "
        "at its pauses. `auto`: 30, and 12 for the demo checkpoint, which is best at a sentence or two.",
    )
    max_duration_s: float = Field(default=21_600.0, ge=1, description="Longest recording, in seconds.")
    utterance_window: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="Utterances of one recording that are decoded at the same time, on all replicas together. More "
        "make long recordings faster, fewer leave room for the short ones; the ingress' memory grows with it.",
    )
    max_upload_bytes: int = Field(
        default=26_214_400, gt=0, description="Largest request body in bytes (OpenAI's limit: 25 MiB)."
    )
    upload_stall_s: float = Field(
        default=30.0,
        gt=0,
        description="Seconds for which nothing may come of an upload before it is answered with a 408. All waiting for "
        "it together may take as long, and a second for every 1,000 bytes that came.",
    )
    request_timeout_s: float = Field(
        default=540.0,
        gt=0,
        description="Seconds a request may take, its upload included, before it is answered with a 504; below the 600 "
        "after which OpenAI's SDKs give up and send the file again.",
    )
    max_concurrent_requests: int = Field(
        default=256,
        ge=1,
        description="Requests that one ingress replica has in hand at a time, from the first byte of an upload to the "
        "last of its answer. More are answered with a 429 and `Retry-After` before their upload is read.",
    )
    decode_threads: int = Field(
        default=4, ge=1, description="Recordings that one ingress replica decodes at the same time."
    )
    log_transcripts: bool = Field(
        default=False,
        description="Put what was said into the log, with each request's line. Off, no log holds a word of it.",
    )

    api_keys: Annotated[tuple[ApiKey, ...], NoDecode] = Field(
        default=(),
        description="Keys that clients must send, as `key` or `name:key` (the name is for the logs), separated by "
        "commas. A secret: from the environment only, as `ASR_API_KEYS`, `API_KEYS` or both. Without any key the "
        "service is open to everybody who reaches it.",
    )
    api_keys_file: Path | None = Field(
        default=None,
        description="A file with more keys, such as a mounted secret: one a line, `#` begins a comment. Read once, "
        "when the application is built.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins whose web pages may call the service from a browser, such as `https://app.example.com`, "
        "or `*` for all; in the environment, a comma list. By default none.",
    )
    url_input: bool = Field(
        default=False,
        description="Let clients send a `url` in place of a file. It is fetched by http or https, up to "
        "`max_upload_bytes`, and never from a private, loopback, link-local or reserved address.",
    )
    url_timeout_s: float = Field(
        default=30.0, gt=0, le=600, description="Seconds that fetching a `url` may take, redirects included."
    )

    @model_validator(mode="before")
    @classmethod
    def _gather_api_keys(cls, values: dict[str, Any]) -> dict[str, Any]:
        try:
            keys = parse_api_keys(values.get("api_keys", ""))
        except ValueError as error:
            raise ValueError(f"api_keys: {error}") from None
        if (file := values.get("api_keys_file")) is not None:
            if file == "":  # a placeholder that nobody filled in must not open the service
                raise ValueError("api_keys_file is empty: name a file, or leave it out")
            keys += read_api_keys(Path(str(file)))
        return values | {"api_keys": keys}

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: write scheme and host, such as https://app.example.com")
        return value

    @field_validator("model_aliases", "cors_origins", mode="before")
    @classmethod
    def _split_comma_list(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("default_language")
    @classmethod
    def _name_of_language(cls, value: str | None) -> str | None:
        try:
            return resolve_language(value, param="default_language")
        except Exception as error:
            raise ValueError(str(error)) from None

    @property
    def utterance_limit_s(self) -> float:
        """`max_utterance_s` in seconds."""
        if self.max_utterance_s != "auto":
            return self.max_utterance_s
        return DEMO_UTTERANCE_S if self.model == DEMO else UTTERANCE_S

    @model_validator(mode="after")
    def _fit_the_longest_utterance(self) -> Self:
        limit_s = self.utterance_limit_s
        needed = least_slot_tokens(limit_s)
        if self.slot_tokens < needed:
            raise ValueError(f"slot_tokens must be at least {needed} for max_utterance_s={limit_s:g}")
        return self

    @model_validator(mode="after")
    def _align_whole_utterances(self) -> Self:
        if self.aligner is not None and self.utterance_limit_s > LONGEST_ALIGNED_S:
            raise ValueError(f"max_utterance_s must be at most {LONGEST_ALIGNED_S:g} with an aligner")
        return self

    @model_validator(mode="after")
    def _refuse_unknown_environment(self) -> Self:
        known = {f"{ENVIRONMENT_PREFIX}{name}".upper() for name in type(self).model_fields}
        unknown = sorted(
            name
            for name, value in os.environ.items()
            if name.startswith(ENVIRONMENT_PREFIX)
            and name.upper() not in known
            and not _SERVICE_LINK.match(f"{name}={value}")
        )
        if unknown:
            raise ValueError(f"unknown setting in the environment: {', '.join(unknown)}; known: {sorted(known)}")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first: it is the operator at this machine, the file is everybody's default.

        Keys come from the environment alone; `API_KEYS` is what other services call them. Those under either name
        count, so that neither hides the other's.
        """
        if "api_keys" in init_settings():
            raise ValueError("api_keys is a secret: set ASR_API_KEYS in the environment, or api_keys_file")
        under_both_names = f"{env_settings().get('api_keys', '')}\n{os.environ.get('API_KEYS', '')}"
        keys = InitSettingsSource(settings_cls, {"api_keys": under_both_names})
        return keys, env_settings, init_settings
