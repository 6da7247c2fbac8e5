"""Evaluation sets: recordings with what is said in them.

Three kinds are read:

- `demo`: the recordings that come with the project, for the demo checkpoint.
- The SeedTTS-eval layout: a `meta.lst` with lines `id|prompt_text|prompt_wav|text[|wav]`, paths relative to it. Read
  are the prompts, `prompt_wav` with `prompt_text`, as other systems do for speech recognition; or the target sentences,
  `text` with `wav` or `wavs/<id>.wav`. The folder's name (`en`, `zh`) is the language.
- A JSONL manifest: one object a line with `audio` (a path relative to it), `text` and optionally `language`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import scoring
from deployments.exceptions import InvalidRequest
from deployments.transcription.languages import resolve_language

DEMO = "demo"
_DEMO_FOLDER = Path(__file__).parents[1] / "tests" / "data" / "speech"


@dataclass(frozen=True)
class Recording:
    """One recording of an evaluation set."""

    path: Path
    text: str
    language: str | None
    """English name; None where the set does not tell."""


class DatasetError(Exception):
    """An evaluation set cannot be read; one sentence with file and line."""


def read(name: str, *, targets: bool = False) -> list[Recording]:
    """Read an evaluation set.

    Args:
        name: `demo`, a `meta.lst` or the folder with one, or a `.jsonl` file.
        targets: of a `meta.lst`, the target sentences in place of the prompts.

    Raises:
        DatasetError: it is not there, damaged or empty.
    """
    if name == DEMO:
        return _demo()
    path = Path(name) / "meta.lst" if Path(name).is_dir() else Path(name)
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such file; name a meta.lst, a .jsonl manifest or `{DEMO}`.")
    if path.suffix == ".jsonl":
        recordings = list(_manifest(path))
    elif path.suffix == ".lst":
        recordings = list(_seed_tts(path, targets=targets))
    else:
        raise DatasetError(f"{path}: not an evaluation set; name a meta.lst, a .jsonl manifest or `{DEMO}`.")
    if not recordings:
        raise DatasetError(f"{path}: the evaluation set is empty.")
    return recordings


def _demo() -> list[Recording]:
    entries = json.loads((_DEMO_FOLDER / "speech.json").read_text(encoding="utf-8"))
    return [Recording(_DEMO_FOLDER / entry["file"], entry["text"], entry["language"]) for entry in entries]


def _seed_tts(path: Path, *, targets: bool) -> Iterator[Recording]:
    try:
        language = resolve_language(path.absolute().parent.name)
    except InvalidRequest:
        language = None
    for where, line in _lines(path):
        fields = line.split("|")
        if len(fields) not in (4, 5):
            raise DatasetError(f"{where}: {len(fields)} fields; a line is id|prompt_text|prompt_wav|text[|wav].")
        name, prompt_text, prompt_wav, text = fields[:4]
        if targets:
            wav = fields[4] if len(fields) == 5 else f"wavs/{name}.wav"
            yield _recording(where, path.parent / wav, text, language)
        else:
            yield _recording(where, path.parent / prompt_wav, prompt_text, language)


def _manifest(path: Path) -> Iterator[Recording]:
    for where, line in _lines(path):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{where}: not JSON: {error}.") from None
        if not isinstance(entry, dict):
            raise DatasetError(f"{where}: not a JSON object.")
        audio, text = _string(where, entry, "audio"), _string(where, entry, "text")
        try:
            language = resolve_language(_string(where, entry, "language") if entry.get("language") else None)
        except InvalidRequest:
            raise DatasetError(f"{where}: unknown language {entry['language']!r}.") from None
        yield _recording(where, path.parent / audio, text, language)


def _string(where: str, entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise DatasetError(f"{where}: {key!r} must be a string.")
    return value


def _recording(where: str, audio: Path, text: str, language: str | None) -> Recording:
    if not audio.is_file():
        raise DatasetError(f"{where}: there is no file {audio}.")
    if not scoring.units(text, by_character=False):
        raise DatasetError(f"{where}: the text has no words to count.")
    return Recording(audio, text, language)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each with the `file, line n` to name it by."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text: {error}.") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()
