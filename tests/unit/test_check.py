"""What is wrong with a config file is told in one sentence."""

import sys
from pathlib import Path

import pytest

from deployments.check import main

OURS = """
http_options: {port: 0}
applications:
  - import_path: deployments.app:build
    args: {model: demo}
"""


def _check(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["check", str(config_file)])
    main()


def test_what_will_be_served_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(OURS)
    _check(config, monkeypatch)
    assert capsys.readouterr().out.startswith("Serving qwen3-asr-demo, the bundled DEMO checkpoint")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("applications: [", "is no YAML: .*line 1, column"),
        ("applications:\n\t- x", "is no YAML: .*line 2, column 1"),
        ("a: \x00", "is no YAML: "),
        (b"\xff\xfe\xff", "is no YAML: "),
        ("", "is no config of Ray Serve: it holds no keys"),
        ("- applications", "is no config of Ray Serve: it holds no keys"),
        ("applications:", "is no config of Ray Serve: applications: Input should be a valid list"),
        ("applications: [asr]", r"is no config of Ray Serve: applications\.0: "),
        (f"{OURS}http_options: 8000", "is no config of Ray Serve: http_options: "),
        (OURS.replace("port: 0", "port: 70000"), r"is no config of Ray Serve: http_options\.port: "),
        (OURS.replace("{model: demo}", "demo"), r"is no config of Ray Serve: applications\.0\.args: "),
        (OURS.replace("app:build", "bpp:build"), "has no application with import_path: deployments.app:build"),
        (OURS.replace("model", "modle"), "The settings are wrong: modle: Extra inputs are not permitted"),
        (OURS.replace("{model: demo}", "{api_keys_file: 5}"), "cannot read 5: No such file"),
    ],
)
def test_every_mistake_is_told_in_one_sentence(
    content: str | bytes, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit, match=problem) as caught:
        _check(config, monkeypatch)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="No such file"):
        _check(tmp_path / "missing.yaml", monkeypatch)


def test_without_an_argument_it_says_what_it_wants(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["check"])
    with pytest.raises(SystemExit):
        main()
    assert "usage: python -m deployments.check [-h] config_file" in capsys.readouterr().err
