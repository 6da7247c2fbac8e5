"""The Aligner deployment as an `Aligns`, behind a handle."""

import asyncio
import logging
from typing import cast

from ray.serve.handle import DeploymentHandle

from deployments.audio.waveform import Waveform
from deployments.ingress.ray_errors import REPLICA_LOST, own_errors, restarting
from deployments.transcription.words import Reading, Word

logger = logging.getLogger("ray.serve.asr")


class RemoteAligner:
    """Finds words on some replica of the Aligner."""

    def __init__(self, aligner: DeploymentHandle):
        self._aligner = aligner

    async def align(self, waveform: Waveform, text: str, language: str) -> tuple[Word, ...]:
        """The words of `text` with their times, see `Aligns`.

        A replica that dies with the reading is replaced by another one, once: aligning twice does no harm.

        Raises:
            UnalignableLanguage: there are no word times in this language.
            ServiceError: the words cannot be found, or no replica can take it now.
        """
        reading = Reading(waveform, text, language)
        try:
            return await self._align_once(reading)
        except REPLICA_LOST as error:
            logger.warning("an Aligner replica died with a reading, trying another: %r", error)
        try:
            return await self._align_once(reading)
        except REPLICA_LOST:
            raise restarting() from None

    async def _align_once(self, reading: Reading) -> tuple[Word, ...]:
        response = self._aligner.align.remote(reading)
        try:
            with own_errors():
                return cast(tuple[Word, ...], await response)
        except asyncio.CancelledError:
            response.cancel()  # the caller has gone
            raise
