"""How many replicas the policy asks for, and what Ray Serve makes of it."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle
from ray.serve.config import AutoscalingConfig

from deployments.asr import workload as workload_module
from deployments.audio.waveform import SAMPLE_RATE
from deployments.autoscaling import AUDIO_S, DONE_AUDIO_S_PER_S, UTTERANCES, AudioSecondsPolicy
from deployments.transcription.utterance import Utterance

POLICY: dict[str, Any] = {
    "policy_function": "deployments.autoscaling:AudioSecondsPolicy",
    "policy_kwargs": {"audio_s_per_s": 10, "within_s": 10},
}


def context(*replicas: tuple[int, float, float], queued: float = 0.0) -> Any:
    """What Ray tells a policy.

    Args:
        replicas: of each, utterances in it, the seconds of audio they are, and those answered per second.
        queued: utterances that wait in the ingress.
    """
    names = (UTTERANCES, AUDIO_S, DONE_AUDIO_S_PER_S)
    reports = {name: {str(i): float(stats[n]) for i, stats in enumerate(replicas)} for n, name in enumerate(names)}
    return SimpleNamespace(aggregated_metrics=reports if replicas else {}, total_queued_requests=queued)


def asked_for(policy: AudioSecondsPolicy, ctx: Any) -> float:
    replicas, state = policy(ctx)
    assert state == {}
    return replicas


@pytest.fixture
def policy() -> AudioSecondsPolicy:
    return AudioSecondsPolicy(audio_s_per_s=10, within_s=10, utterance_s=5)


def test_what_there_is_to_do_is_shared_out(policy: AudioSecondsPolicy) -> None:
    assert asked_for(policy, context((10, 300.0, 0.0), (2, 20.0, 0.0))) == pytest.approx(3.2)
    assert asked_for(policy, context((0, 0.0, 0.0))) == 0


def test_who_has_little_to_do_because_there_are_many_are_kept(policy: AudioSecondsPolicy) -> None:
    assert asked_for(policy, context((1, 5.0, 9.0), (1, 5.0, 9.0), (1, 5.0, 9.0))) == pytest.approx(2.7)


def test_what_waits_outside_is_as_long_as_what_is_inside(policy: AudioSecondsPolicy) -> None:
    assert asked_for(policy, context((10, 200.0, 0.0), queued=15)) == pytest.approx(5.0)


def test_without_replicas_it_is_as_long_as_it_was(policy: AudioSecondsPolicy) -> None:
    assert asked_for(policy, context(queued=40)) == pytest.approx(2.0)
    asked_for(policy, context((10, 200.0, 0.0)))
    assert asked_for(policy, context(queued=40)) == pytest.approx(8.0)
    assert asked_for(policy, context((0, 0.0, 0.0), queued=40)) == pytest.approx(8.0)


def test_a_replica_that_has_not_reported_yet_has_nothing_to_do(policy: AudioSecondsPolicy) -> None:
    assert asked_for(policy, context()) == 0


@pytest.mark.parametrize("wrong", [{"audio_s_per_s": 0}, {"audio_s_per_s": 1, "within_s": -1}])
def test_impossible_targets_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        AudioSecondsPolicy(**wrong)


def test_ray_finds_it_and_can_run_it_where_this_package_is_not() -> None:
    config = AutoscalingConfig(min_replicas=0, max_replicas=9, policy=POLICY)
    assert config.policy.get_policy()(**POLICY["policy_kwargs"])(context((1, 250.0, 0.0)))[0] == 2.5
    pickled = config.policy.get_serialized_policy_def()
    elsewhere = (
        "import sys, pickle, types; sys.modules['deployments'] = None; "
        f"policy = pickle.loads(bytes.fromhex('{pickled.hex()}'))(audio_s_per_s=10); "
        "print(policy(types.SimpleNamespace(aggregated_metrics={}, total_queued_requests=20))[0])"
    )
    run = subprocess.run([sys.executable, "-c", elsewhere], capture_output=True, text=True, check=False)
    assert run.stdout == "2.0\n", run.stderr
    assert cloudpickle.loads(pickled).__name__ == "AudioSecondsPolicy"


def test_the_load_of_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(workload_module.time, "monotonic", lambda: now)
    load = workload_module.Workload()
    with load.of(_utterance(1.5)), load.of(_utterance(0.1)):
        assert load.report() == {UTTERANCES: 2, AUDIO_S: pytest.approx(1.6), DONE_AUDIO_S_PER_S: 0.0}
    with pytest.raises(RuntimeError, match="lost"), load.of(_utterance(3.0)):
        raise RuntimeError("lost")
    now = 4.0
    assert load.report() == {UTTERANCES: 0, AUDIO_S: 0.0, DONE_AUDIO_S_PER_S: pytest.approx(0.4)}
    now = 8.0
    assert load.report()[DONE_AUDIO_S_PER_S] == 0


def _utterance(seconds: float) -> Utterance:
    return Utterance(np.zeros(round(seconds * SAMPLE_RATE), np.float32))
