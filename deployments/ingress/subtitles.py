"""Segments as SubRip (srt) and WebVTT (vtt) cues, as players and subtitle editors want them.

A cue has at most two lines of 42 characters, or 20 where they are as wide as Chinese ones. The text of a longer segment
is split into several cues, after the punctuation where possible. Where the times of its words are known, a cue is
shown from its first word to its last. Else the times between cues are estimates: the segment's own time, shared out by
characters, a wide one for two.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from deployments.transcription.join import separator
from deployments.transcription.scripts import CLOSING_QUOTES, LINE_WIDTH, UNSPACED, fitting, width
from deployments.transcription.segments import LONGEST_S
from deployments.transcription.transcript import Segment
from deployments.transcription.words import times_of

_SHORTEST_S = 0.001
"""A cue must take some time, also where the aligner heard none in its words."""
READABLE_S = 5 / 6
"""It stays that long where nothing else is to be shown yet: 20 frames of a film, as Netflix wants it."""
FLASH_S = 0.2
"""Nobody reads what is shown for less: it is shown with the next cue, if both have room in one."""

_CLOSING = "\u3001\u3002\uff0c\uff0e\uff01\uff1f\uff1b\uff1a\u2026\u300d\u300f\u300b\u3009\u3011\uff09\u201d\u2019"
# What a line may not be broken within: a word, or a character of a script that has no blanks, with the punctuation
# that closes it. Korean is wide and has blanks.
_ATOM = re.compile(rf"\s*(?:[{UNSPACED}][{_CLOSING}]*|[^\s{UNSPACED}]+[{_CLOSING}]*)")
_SENTENCE_END = re.compile(rf"[.!?\u3002\uff01\uff1f\u2026\u0964\u06d4\u061f][{CLOSING_QUOTES}]*$")
_CLAUSE_END = re.compile(rf"[,;:\uff0c\u3001\uff1b\uff1a\u060c\u061b][{CLOSING_QUOTES}]*$")


@dataclass(frozen=True)
class Cue:
    """What is shown from `start` to `end`, in seconds."""

    start: float
    end: float
    lines: tuple[str, ...]


def to_srt(segments: Iterable[Segment]) -> str:
    """Render as SubRip: numbered cues, a blank line after each."""
    return "".join(
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{_lines(cue, _plain)}\n\n"
        for number, cue in enumerate(cues(segments), start=1)
    )


def to_vtt(segments: Iterable[Segment]) -> str:
    """Render as WebVTT: its header, then cues without numbers, a blank line after each."""
    return "WEBVTT\n\n" + "".join(
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{_lines(cue, _escaped)}\n\n" for cue in cues(segments)
    )


def cues(segments: Iterable[Segment]) -> Iterator[Cue]:
    """Cut segments into cues, which do not overlap; a segment without text has none."""
    shown: Cue | None = None
    for cue in _spoken(segments):
        if shown is None:
            shown = cue
            continue
        stays = replace(shown, end=max(shown.end, min(round(shown.start + READABLE_S, 3), cue.start)))
        if stays.end - stays.start < FLASH_S and (both := _together(stays, cue)) is not None:
            shown = both
        else:
            yield stays
            shown = cue
    if shown is not None:
        yield shown  # as it was spoken, for after it the recording may end


def _together(one: Cue, following: Cue) -> Cue | None:
    """Both as one, where that is a cue."""
    text = ""
    for line in one.lines + following.lines:
        text += separator(text, line) + line
    atoms = _atoms(text)
    if _count_fitting(atoms) < len(atoms) or following.end - one.start > LONGEST_S:
        return None
    return Cue(one.start, following.end, _wrap(atoms))


def _spoken(segments: Iterable[Segment]) -> Iterator[Cue]:
    """The cues for as long as their words are spoken."""
    last_end = 0.0
    for segment in segments:
        pieces = list(_split(segment.text))
        texts = ["".join(piece) for piece in pieces]
        times = times_of(texts, segment.words) if segment.words else _shared_out(texts, segment)
        for piece, (start, end) in zip(pieces, times, strict=True):
            start = max(round(start, 3), last_end)
            shown_s = max(min(end - start, LONGEST_S), _SHORTEST_S)
            last_end = round(start + shown_s, 3)
            yield Cue(start, last_end, _wrap(piece))


def _shared_out(texts: Sequence[str], segment: Segment) -> Iterator[tuple[float, float]]:
    """The time of the segment, shared out by width."""
    start, shown = segment.start, 0
    widths = [width(text) for text in texts]
    for own in widths:
        shown += own
        end = segment.start + (segment.end - segment.start) * (shown / sum(widths))
        yield start, end
        start = end


def _split(text: str) -> Iterator[list[str]]:
    """Cut the atoms of a text into pieces that fit a cue each, at the best places."""
    atoms = _atoms(text)
    while atoms:
        fitting = _count_fitting(atoms)
        if fitting < len(atoms):
            fitting = _best_cut(atoms[:fitting])
        yield atoms[:fitting]
        atoms = atoms[fitting:]


def _atoms(text: str) -> list[str]:
    """What the text is made of, each with the blank before it; joined they are the text with single blanks."""
    atoms: list[str] = []
    for match in _ATOM.finditer(text):
        blank = " " if match[0][0].isspace() and atoms else ""
        word = match[0].strip()
        while width(word) > LINE_WIDTH:  # no blank in sight: Thai, or nothing a human says
            cut = fitting(word)
            atoms.append(blank + word[:cut])
            blank, word = "", word[cut:]
        atoms.append(blank + word)
    return atoms


def _count_fitting(atoms: list[str]) -> int:
    """How many of the first atoms go into two lines."""
    line, lines = "", 1
    for index, atom in enumerate(atoms):
        if width((line + atom).strip()) <= LINE_WIDTH:
            line += atom
        elif lines == 1:
            line, lines = atom, 2
        else:
            return index
    return len(atoms)


def _best_cut(atoms: list[str]) -> int:
    """After the last sentence, or else clause, that ends in the last two thirds of these; else after all of them."""
    for punctuation in (_SENTENCE_END, _CLAUSE_END):
        for count in range(len(atoms), len(atoms) // 3, -1):
            if punctuation.search(atoms[count - 1]):
                return count
    return len(atoms)


def _wrap(atoms: list[str]) -> tuple[str, ...]:
    """One line if it fits, else two: of like width, rather with punctuation between them."""
    whole = "".join(atoms).strip()
    if width(whole) <= LINE_WIDTH:
        return (whole,)
    pairs = [("".join(atoms[:cut]).strip(), "".join(atoms[cut:]).strip()) for cut in range(1, len(atoms))]
    return min((pair for pair in pairs if max(map(width, pair)) <= LINE_WIDTH), key=_ugliness)


def _ugliness(pair: tuple[str, str]) -> int:
    difference = abs(width(pair[0]) - width(pair[1]))
    at_punctuation = _SENTENCE_END.search(pair[0]) or _CLAUSE_END.search(pair[0])
    return difference - (LINE_WIDTH // 2 if at_punctuation else 0)


def _lines(cue: Cue, write: Callable[[str], str]) -> str:
    return "\n".join(map(write, cue.lines))


def _plain(line: str) -> str:
    return line.replace("-->", "->")  # the arrow would make it a line of times


def _escaped(line: str) -> str:
    """WebVTT is markup: https://www.w3.org/TR/webvtt1/#webvtt-cue-text."""
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"
