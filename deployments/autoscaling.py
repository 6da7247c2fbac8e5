"""How many ASR replicas there should be: an autoscaling policy that counts seconds of audio, not requests.

Ray Serve pickles this module by value and runs it in its controller, whose environment may not have this package: it
imports nothing of the house. Configured in `autoscaling_config` of the ASR deployment, see `docs/scaling.md`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

UTTERANCES = "utterances"
AUDIO_S = "audio_s"
DONE_AUDIO_S_PER_S = "done_audio_s_per_s"
"""What a replica's `record_autoscaling_stats` reports: utterances waiting and running in it, the seconds of audio they
are, and the seconds of audio it has answered per second since its last report. All are averaged over
`look_back_period_s` before they come here."""


class AudioSecondsPolicy:
    """As many replicas as it takes to keep up, and to be through with what there is in `within_s` seconds.

    Keeping up is counted by the audio that is being answered: what is waiting and running says too little of it, since
    a replica that has less to do at a time answers each utterance sooner, and one that is nearly idle looks idler
    than it is. By that alone replicas would be removed until the rest fall behind, and be added again.

    Utterances that wait in the ingress for a place in some replica count as well. How long they are is not known there:
    they are taken for as long as those in the replicas, or, where there are none, as `utterance_s`.

    What this returns goes through Ray Serve's own minimum, maximum, factors and delays. Without a single replica it is
    Ray Serve that starts the first one, as soon as anything waits.

    Args:
        audio_s_per_s: seconds of audio that one replica shall answer per second: some 70 % of what it can.
        within_s: seconds in which it shall be through with all that is waiting and running. No less than the longest
            utterance takes on a replica that is well occupied.
        utterance_s: how long an utterance is, in seconds, until one was seen.

    Raises:
        ValueError: one of them is not positive.
    """

    def __init__(self, audio_s_per_s: float, within_s: float = 10.0, utterance_s: float = 10.0) -> None:
        if not (audio_s_per_s > 0 and within_s > 0 and utterance_s > 0):
            raise ValueError("audio_s_per_s, within_s and utterance_s must be positive numbers")
        self._audio_s_per_s = audio_s_per_s
        self._within_s = within_s
        self._utterance_s = utterance_s

    def __call__(self, ctx: "AutoscalingContext") -> tuple[float, dict[str, float]]:
        """Return the number of replicas there should be, a fraction included, and no state: Ray keeps its own."""
        reported = ctx.aggregated_metrics or {}
        utterances, audio_s, done = (
            sum(reported.get(name, {}).values()) for name in (UTTERANCES, AUDIO_S, DONE_AUDIO_S_PER_S)
        )
        if utterances > 0:
            self._utterance_s = audio_s / utterances
        to_do_s = audio_s + ctx.total_queued_requests * self._utterance_s
        return max(done, to_do_s / self._within_s) / self._audio_s_per_s, {}
