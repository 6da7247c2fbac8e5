"""Everything this service says about a recording it does not take, on one page."""

from deployments.exceptions import InvalidAudio

SUPPORTED = "wav, mp3, flac, ogg, opus, m4a, aac, aiff, amr, wma, or a video with sound (mp4, mov, webm, mkv, avi)"


def empty() -> InvalidAudio:
    """There are no bytes at all."""
    return _invalid("The file is empty. Send a recording.")


def unsupported() -> InvalidAudio:
    """No media file, or one of a kind that is not read. The first words are those of OpenAI's API."""
    return _invalid(f"Audio file might be corrupted or unsupported. Send one of: {SUPPORTED}.")


def no_track() -> InvalidAudio:
    """A video or container without sound."""
    return _invalid("The file has no audio track. Send a recording with sound.")


def unusual(what: str) -> InvalidAudio:
    """A stream parameter (`what`) no recorder produces."""
    return _invalid(f"Audio with {what} is not supported. Convert it to 16 kHz mono, 16-bit WAV.")


def too_much_work() -> InvalidAudio:
    """A file that keeps a processor busy without giving sound."""
    return _invalid("The audio takes too long to decode. Convert it to 16 kHz mono, 16-bit WAV.")


def not_finite() -> InvalidAudio:
    """Float samples that are no numbers."""
    return _invalid("The audio contains samples that are NaN or infinite. Export it again, as 16-bit WAV for instance.")


def too_short(minimum_s: float) -> InvalidAudio:
    """Less than OpenAI's API takes; in its words."""
    return InvalidAudio(
        f"Audio file is too short. Minimum audio length is {minimum_s:g} seconds.", code="audio_too_short"
    )


def too_long(limit_s: float, *, duration_s: float | None = None) -> InvalidAudio:
    """More than is accepted, by `duration_s` of the header or, if that is None, by what was decoded so far."""
    duration = f"{duration_s:.1f} seconds " if duration_s is not None else ""
    return _invalid(f"audio duration {duration}is longer than {limit_s:g} seconds which is the maximum for this model")


def truncated(promised_s: float | None, decoded_s: float) -> InvalidAudio:
    """There should be more sound than the file holds: so much by its header, or None if that does not say."""
    if promised_s is None:
        return _invalid(f"The file is truncated: it breaks off after {decoded_s:.1f} seconds. Upload it again.")
    return _invalid(
        f"The file is truncated: its header promises {promised_s:.1f} seconds but only {decoded_s:.1f} could be "
        "decoded. Upload it again."
    )


def without_index() -> InvalidAudio:
    """An MP4 of which the end is missing, where it says what is in it."""
    return _invalid(
        "The file is truncated: it ends before the index (moov) that an MP4 or M4A cannot be read without. Upload it "
        "again; where it is so on your disk, its recording was never finished."
    )


def damaged(lost_s: float) -> InvalidAudio:
    """Parts of the sound cannot be decoded."""
    return _invalid(f"The file is damaged: {lost_s:.1f} seconds of its audio could not be decoded. Upload it again.")


def damaged_beginning() -> InvalidAudio:
    """The first of the sound cannot be found."""
    return _invalid("The file is damaged: the beginning of its audio could not be read. Upload it again.")


def _invalid(message: str) -> InvalidAudio:
    return InvalidAudio(message, code="invalid_value")
