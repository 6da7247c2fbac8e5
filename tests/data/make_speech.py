"""Make the recordings in `speech/`: sentences the demo checkpoint never saw in training, by voices it knows.

python -m tests.data.make_speech        (needs espeak-ng and flite)
"""

import json
import random
from pathlib import Path

import numpy as np

from benchmarks.demo_checkpoint import grammar
from benchmarks.demo_checkpoint.grammar import Language
from benchmarks.demo_checkpoint.voices import SAMPLE_RATE, speak, voices
from tests.media import encode

FOLDER = Path(__file__).parent / "speech"
COUNTS: dict[Language, int] = {"English": 14, "Chinese": 8}
PAUSE = np.zeros(round(0.3 * SAMPLE_RATE), dtype=np.float32)


def main() -> None:
    """Write one FLAC a sentence and `speech.json` with what each says."""
    FOLDER.mkdir(exist_ok=True)
    rng = random.Random(2026)
    manifest = []
    for language, count in COUNTS.items():
        speakers = voices(language)
        for i, text in enumerate(grammar.sentences(language, "test", count, seed=22)):
            voice = speakers[i % len(speakers)]
            speech = speak(voice, text, rng).astype(np.float32) / 32768
            name = f"{'en' if language == 'English' else 'zh'}-{i:02d}-{voice.name}.flac"
            (FOLDER / name).write_bytes(encode(np.concatenate([PAUSE, speech, PAUSE]), "flac"))
            manifest.append({"file": name, "language": language, "text": text})
    (FOLDER / "speech.json").write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
