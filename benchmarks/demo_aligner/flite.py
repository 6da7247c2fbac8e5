"""flite as a library: its utterances keep the times of their sounds, which the program does not put to words."""

import ctypes
from functools import cache

import numpy as np

from benchmarks.demo_aligner.said import Said
from benchmarks.demo_checkpoint.voices import SAMPLE_RATE

# Paths of flite's feature language, from a word to the sounds it is made of.
_START = b"R:SylStructure.daughter1.daughter1.R:Segment.p.end"
_END = b"R:SylStructure.daughtern.daughtern.R:Segment.end"

_POINTER, _TEXT, _FLOAT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float


class _Wave(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("features", ctypes.c_void_p)]


def speak(voice: str, text: str, stretch: float) -> tuple[np.ndarray, list[Said]]:
    """Say `text`: int16 `(samples,)` at 16 kHz, and its words.

    Args:
        voice: short name of a voice that is compiled in, such as `slt`.
        text: what to say.
        stretch: factor on the length of every sound.

    Raises:
        OSError: the library or the voice is missing (`apt-get install flite`).
    """
    library, spoken = _library(), _voice(voice)
    library.feat_set_float(_Voice.from_address(spoken).features, b"duration_stretch", stretch)
    utterance = library.flite_synth_text(text.encode(), spoken)
    try:
        wave: _Wave = library.utt_wave(utterance).contents
        if wave.sample_rate != SAMPLE_RATE:
            raise ValueError(f"the voice {voice!r} speaks at {wave.sample_rate} samples per second")
        samples = np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).astype(np.int16)
        said = []
        item = library.relation_head(library.utt_relation(utterance, b"Word"))
        while item:
            name = library.item_feat_string(item, b"name").decode()
            said.append(Said(name, library.ffeature_float(item, _START), library.ffeature_float(item, _END)))
            item = library.item_next(item)
    finally:
        library.delete_utterance(utterance)
    return samples, said


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libflite.so.1", mode=ctypes.RTLD_GLOBAL)
    for part in ("cmulex", "usenglish"):  # the voices refer to them
        ctypes.CDLL(f"libflite_{part}.so.1", mode=ctypes.RTLD_GLOBAL)
    for name, result, arguments in (
        ("flite_synth_text", _POINTER, [_TEXT, _POINTER]),
        ("utt_wave", ctypes.POINTER(_Wave), [_POINTER]),
        ("utt_relation", _POINTER, [_POINTER, _TEXT]),
        ("relation_head", _POINTER, [_POINTER]),
        ("item_next", _POINTER, [_POINTER]),
        ("item_feat_string", _TEXT, [_POINTER, _TEXT]),
        ("ffeature_float", _FLOAT, [_POINTER, _TEXT]),
        ("feat_set_float", None, [_POINTER, _TEXT, _FLOAT]),
        ("delete_utterance", None, [_POINTER]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.flite_init()
    return library


@cache
def _voice(name: str) -> int:
    _library()
    register = getattr(ctypes.CDLL(f"libflite_cmu_us_{name}.so.1"), f"register_cmu_us_{name}")
    register.restype, register.argtypes = _POINTER, [_TEXT]
    voice: int = register(None)
    return voice
