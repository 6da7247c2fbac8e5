"""espeak-ng as a library: it tells when every word and sound begins, which the program does not."""

import ctypes
from dataclasses import dataclass
from functools import cache

import numpy as np
import soxr

from benchmarks.demo_aligner.said import Said
from benchmarks.demo_checkpoint.voices import SAMPLE_RATE

# Numbers of espeak-ng's speak_lib.h, version 1.51.
_RETRIEVAL_SYNCHRONOUS = 2
_PHONEME_EVENTS = 1
_UTF8 = 1
_RATE, _PITCH = 1, 3
_END_OF_LIST, _WORD, _PHONEME = 0, 1, 7


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("reserved", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Event:
    """Something that begins at a sample of espeak's own rate: a word (its position in the text, from 0) or a sound."""

    sample: int
    word: int | None
    sound: str = ""


def speak(voice: str, text: str, pace: int, pitch: int) -> tuple[np.ndarray, list[Said]]:
    """Say `text`: int16 `(samples,)` at 16 kHz, and its words.

    Args:
        voice: as the program's `-v` takes it.
        text: what to say.
        pace: words a minute.
        pitch: 0 to 99.

    Raises:
        OSError: the library is missing (`apt-get install espeak-ng`).
        ValueError: there is no such voice.
    """
    samples, events = _library().speak(voice, text, pace, pitch)
    rate = _library().rate
    said = words(text, events, len(samples), rate)
    return soxr.resample(samples, rate, SAMPLE_RATE), said


def words(text: str, events: list[Event], samples: int, rate: int) -> list[Said]:
    """The words among the events of `text`. Two that are said as one ("in the") have one event, and become one.

    Args:
        text: what was said.
        events: in their order.
        samples: length of the whole.
        rate: samples per second.
    """
    begins = [index for index, event in enumerate(events) if event.word is not None]
    said = []
    for index, following in zip(begins, [*begins[1:], len(events)], strict=True):
        own = [event for event in events[index + 1 : following] if event.sound]
        # Pauses are sounds whose names begin with an underscore.
        voiced = [number for number, event in enumerate(own) if not event.sound.startswith("_")]
        if not voiced:
            continue
        next_start = events[following].sample if following < len(events) else samples
        after = own[voiced[-1] + 1].sample if voiced[-1] + 1 < len(own) else next_start
        place = events[index].word
        next_place = events[following].word if following < len(events) else None
        said.append(Said(text[place:next_place], events[index].sample / rate, min(after, next_start) / rate))
    return said


class _Library:
    """The loaded library. One a process; it calls back while it speaks."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libespeak-ng.so.1")
        self.rate: int = self._library.espeak_Initialize(_RETRIEVAL_SYNCHRONOUS, 500, None, _PHONEME_EVENTS)
        self._pieces: list[bytes] = []
        self._events: list[Event] = []
        self._callback = _Callback(self._take)  # kept, or it would be freed
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, voice: str, text: str, pace: int, pitch: int) -> tuple[np.ndarray, list[Event]]:
        self._choose(voice)
        self._library.espeak_SetParameter(_RATE, pace, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._pieces, self._events = [], []
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.frombuffer(b"".join(self._pieces), dtype="<i2"), self._events

    def _choose(self, voice: str) -> None:
        # By name, and where that is none by language, as the program does.
        if self._library.espeak_SetVoiceByName(voice.encode()) == 0:
            return
        wanted = _Voice(languages=voice.encode())
        if self._library.espeak_SetVoiceByProperties(ctypes.byref(wanted)) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")

    def _take(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: "ctypes._Pointer[_Event]") -> int:
        if count > 0 and samples:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while (event := events[index]).type != _END_OF_LIST:
            if event.type == _WORD and event.length > 0:  # one of length 0 ends a clause
                self._events.append(Event(event.sample, event.text_position - 1))
            elif event.type == _PHONEME:
                self._events.append(Event(event.sample, None, event.id.string.decode(errors="replace")))
            index += 1
        return 0


@cache
def _library() -> _Library:
    return _Library()
