"""What the tests of the library in C share."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch

from deployments.asr.native import library as library_module
from deployments.asr.native.library import library

CPU = torch.device("cpu")
FENCE = 16_384
"""Numbers behind a tensor that nobody may write."""

needs_library = pytest.mark.skipif(library() is None, reason="needs AVX-512 BF16 and a C compiler")


def build(folder: Path, *replaced: tuple[str, str], more: str = "") -> Path:
    """Build the library with changes, and with more code behind its encoder, as the installation does it.

    Returns the library.
    """
    sources = {
        path.name: path.read_text(encoding="utf-8") for path in Path(library_module.__file__).parent.glob("*.[ch]")
    }
    sources["encoder.c"] += more
    for old, new in replaced:
        assert any(old in source for source in sources.values())
        sources = {name: source.replace(old, new) for name, source in sources.items()}
    for name, source in sources.items():
        (folder / name).write_text(source, encoding="utf-8")
    built = folder / f"_native{EXTENSION_SUFFIXES[0]}"
    options = ["-O1", "-std=c11", "-fopenmp", "-fPIC", "-shared"]
    units = [str(folder / name) for name in ("decoder.c", "encoder.c")]
    subprocess.run(["cc", *options, *units, "-o", str(built), "-lm"], check=True)
    return built


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def fences() -> Iterator[None]:
    """What is allocated meanwhile has a fence behind it, which nobody may have written at the end."""
    built: list[torch.Tensor] = []

    def fenced(*shape: int | tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        sizes = torch.Size(shape[0] if isinstance(shape[0], tuple) else shape)  # type: ignore[arg-type]
        room = torch.full((sizes.numel() + FENCE,), 77, dtype=dtype)
        built.append(room[sizes.numel() :])
        return room[: sizes.numel()].view(sizes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", fenced)
        yield
    assert built
    assert all((fence == 77).all() for fence in built)
