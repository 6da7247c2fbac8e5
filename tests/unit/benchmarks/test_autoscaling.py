"""The simulated fleet does what the rates say, and Ray's own autoscaler decides about it."""

import pytest
from ray.serve.config import AutoscalingConfig

from benchmarks.autoscaling.fleet import Fleet, Setup
from benchmarks.autoscaling.rates import Rates
from benchmarks.autoscaling.simulation import Outcome, simulate
from benchmarks.autoscaling.traces import Recording, Trace, traces

RATES = Rates("a guess", (1, 10), (10.0, 40.0))
SETUP = Setup(RATES, start_s=20.0, slots=20, ongoing=28)


def policy(**options: object) -> AutoscalingConfig:
    ours = {
        "policy_function": "deployments.autoscaling:AudioSecondsPolicy",
        "policy_kwargs": {"audio_s_per_s": 28, "within_s": 10},
    }
    return AutoscalingConfig.model_validate({"min_replicas": 1, "max_replicas": 5, "policy": ours, **options})


def run(recordings: list[Recording], seconds: float = 300.0, **options: object) -> Outcome:
    return simulate(Trace("test", "", seconds, tuple(recordings)), policy(**options), SETUP)


@pytest.mark.parametrize(("together", "audio_s_per_s"), [(1, 10.0), (4, 20.0), (10, 40.0), (200, 40.0)])
def test_rates_between_those_that_were_measured(together: int, audio_s_per_s: float) -> None:
    assert RATES.at(together) == audio_s_per_s


def test_utterances_together_share_what_there_is() -> None:
    fleet = Fleet(SETUP)
    fleet.resize(-20.0, 1)
    fleet.resize(0.0, 1)
    for _ in range(10):
        fleet.arrive(0.0, Recording(0.0, 8.0))
    ends = [fleet.end() for _ in range(10)]
    assert ends == pytest.approx([2.0] * 10)  # 10 x 8 s at 40 a second
    assert fleet.late_s == pytest.approx([2.0 - 0.8] * 10)


def test_nothing_is_late_on_an_idle_fleet() -> None:
    assert run([Recording(10.0, 8.0)]).late_max_s == pytest.approx(0.0)


def test_a_long_recording_has_a_window_of_utterances_on_its_way() -> None:
    fleet = Fleet(SETUP)
    fleet.resize(-20.0, 1)
    fleet.resize(0.0, 1)
    fleet.arrive(0.0, Recording(0.0, 20 * 30.0))
    assert [replica.utterances for replica in fleet.ready] == [SETUP.window]
    for _ in range(20):
        fleet.end()
    assert len(fleet.late_s) == 1


def test_a_replica_that_stops_ends_what_it_has_begun() -> None:
    fleet = Fleet(SETUP)
    fleet.resize(-20.0, 1)
    fleet.resize(0.0, 1)
    fleet.arrive(0.0, Recording(0.0, 8.0))
    fleet.resize(0.0, 0)
    assert not fleet.ready
    assert len(fleet.replicas) == 1
    fleet.end()
    assert len(fleet.late_s) == 1
    fleet.resize(1.0, 0)
    assert fleet.replicas == []


def test_replicas_are_added_after_the_delay_and_the_start_and_removed_again() -> None:
    crowd = [Recording(10.0 + i / 10, 20.0) for i in range(300)]
    quick = run(crowd, upscale_delay_s=5, downscale_delay_s=30, look_back_period_s=15)
    assert quick.most_replicas == 5
    assert quick.unanswered == 0
    assert quick.mean_replicas < 5
    slow = run(crowd, upscale_delay_s=60, downscale_delay_s=30, look_back_period_s=15)
    assert slow.late_p95_s > quick.late_p95_s + 10
    never = run(crowd, max_replicas=1)
    assert (never.most_replicas, never.changes) == (1, 0)
    assert never.late_p95_s > slow.late_p95_s


def test_from_zero_one_replica_is_started_for_what_waits() -> None:
    outcome = run([Recording(100.0, 8.0)], min_replicas=0)
    assert outcome.unanswered == 0
    assert SETUP.start_s <= outcome.late_max_s <= SETUP.start_s + 2
    assert outcome.most_replicas == 1


def test_the_same_figures_every_time() -> None:
    burst = next(trace for trace in traces(4.0) if trace.name == "burst")
    assert simulate(burst, policy(), SETUP) == simulate(burst, policy(), SETUP)
