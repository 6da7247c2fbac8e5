"""How fast a replica is: audio seconds per second, by how many utterances it decodes together."""

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Throughput at some numbers of utterances together; between them it is interpolated, beyond them it is flat."""

    source: str
    """Who measured it, where."""
    together: tuple[int, ...]
    audio_s_per_s: tuple[float, ...]

    def at(self, utterances: int) -> float:
        """Audio seconds per second of all of them together."""
        i = bisect_left(self.together, utterances)
        if i == len(self.together):
            return self.audio_s_per_s[-1]
        low_n, low = (self.together[i - 1], self.audio_s_per_s[i - 1]) if i else (0, 0.0)
        share = (utterances - low_n) / (self.together[i] - low_n)
        return low + share * (self.audio_s_per_s[i] - low)

    def shared(self, share: float) -> "Rates":
        """Those of a share of the card, or of one so much slower."""
        return Rates(self.source, self.together, tuple(share * rate for rate in self.audio_s_per_s))


REPORT = (
    "Qwen3-ASR technical report (January 2026), table 2: vLLM 0.14, one GPU that it does not name, not measured here"
)
RATES = {
    "0.6B": Rates(REPORT, (1, 8, 16, 32, 64, 128), (106, 543, 826, 1099, 1471, 2000)),
    "1.7B": Rates(REPORT, (1, 8, 16, 32, 64, 128), (67, 400, 606, 806, 1031, 1220)),
}
