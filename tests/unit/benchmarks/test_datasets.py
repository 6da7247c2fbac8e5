"""Evaluation sets: what is read, and what is said of those that cannot be."""

import json
from pathlib import Path

import pytest

from benchmarks import datasets
from benchmarks.datasets import DatasetError, Recording
from tests.speech import RECORDINGS


def _wav(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"RIFF")
    return path


def test_the_demo_set_is_the_recordings_of_the_tests() -> None:
    assert [(r.path, r.text, r.language) for r in datasets.read("demo")] == [
        (r.path, r.text, r.language) for r in RECORDINGS
    ]


def test_seed_tts(tmp_path: Path) -> None:
    folder = tmp_path / "en"
    prompt = _wav(folder, "prompt-wavs/p1.wav")
    spoken, named = _wav(folder, "wavs/a.wav"), _wav(folder, "elsewhere.wav")
    lines = [
        "a|Said before.|prompt-wavs/p1.wav|Said now.",
        "",
        "b|Said before.|prompt-wavs/p1.wav|And now.|elsewhere.wav",
    ]
    (folder / "meta.lst").write_text("\n".join(lines) + "\n")
    assert datasets.read(str(folder)) == [Recording(prompt, "Said before.", "English")] * 2
    assert datasets.read(str(folder / "meta.lst"), targets=True) == [
        Recording(spoken, "Said now.", "English"),
        Recording(named, "And now.", "English"),
    ]


def test_the_folder_of_a_meta_lst_need_not_be_a_language(tmp_path: Path) -> None:
    wav = _wav(tmp_path, "p.wav")
    (tmp_path / "meta.lst").write_text("a|Hello.|p.wav|x\n")
    assert datasets.read(str(tmp_path)) == [Recording(wav, "Hello.", None)]


def test_manifest(tmp_path: Path) -> None:
    wav = _wav(tmp_path, "clips/a.wav")
    entries = [{"audio": "clips/a.wav", "text": "你好。", "language": "zh"}, {"audio": str(wav), "text": "Hi", "id": 3}]
    path = tmp_path / "set.jsonl"
    path.write_text("\ufeff" + "\n\n".join(map(json.dumps, entries)), encoding="utf-8")
    assert datasets.read(str(path)) == [Recording(wav, "你好。", "Chinese"), Recording(wav, "Hi", None)]


GOOD_LST = "a|Said.|p.wav|x\n"
GOOD_JSONL = '{"audio": "p.wav", "text": "Said."}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("meta.lst", GOOD_LST + "b|only three|p.wav\n", r"meta\.lst, line 2: 3 fields; a line is id\|prompt_text"),
        ("meta.lst", "\n" + "b|Said.|gone.wav|x\n", r"meta\.lst, line 2: there is no file .*gone\.wav\."),
        ("meta.lst", "b| ... |p.wav|x\n", r"line 1: the text has no words to count\."),
        ("meta.lst", "", r"meta\.lst: the evaluation set is empty\."),
        ("set.jsonl", GOOD_JSONL + "{broken\n", r"set\.jsonl, line 2: not JSON: "),
        ("set.jsonl", "[1]\n", r"line 1: not a JSON object\."),
        ("set.jsonl", '{"audio": "p.wav"}\n', r"line 1: 'text' must be a string\."),
        ("set.jsonl", '{"audio": 3, "text": "x"}\n', r"line 1: 'audio' must be a string\."),
        ("set.jsonl", '{"audio": "p.wav", "text": "x", "language": "xx"}\n', r"line 1: unknown language 'xx'\."),
        ("set.jsonl", '{"audio": "p.wav", "text": "x", "language": 5}\n', r"line 1: 'language' must be a string\."),
        ("set.csv", "a,b\n", r"set\.csv: not an evaluation set; name a meta\.lst"),
    ],
)
def test_a_malformed_set_is_told_in_one_sentence(tmp_path: Path, name: str, content: str, message: str) -> None:
    _wav(tmp_path, "p.wav")
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=message):
        datasets.read(str(tmp_path / name))


def test_what_is_not_text_or_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "meta.lst").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"meta\.lst: not UTF-8 text: "):
        datasets.read(str(tmp_path))
    with pytest.raises(DatasetError, match="there is no such file"):
        datasets.read(str(tmp_path / "gone.jsonl"))
