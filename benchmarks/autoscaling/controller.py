"""Ray Serve's autoscaler of one deployment, on a simulated clock.

What its controller, its handles and its replicas do in a cluster is done here: reports are recorded and pushed at their
intervals, and the decision is Ray's own code, private parts of it included: this goes with the pinned version of Ray.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

from ray.serve import autoscaling_policy
from ray.serve._private import autoscaling_state
from ray.serve._private.autoscaling_state import DeploymentAutoscalingState
from ray.serve._private.common import (
    RUNNING_REQUESTS_KEY,
    DeploymentHandleSource,
    DeploymentID,
    HandleMetricReport,
    ReplicaID,
    ReplicaMetricReport,
)
from ray.serve._private.constants import RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR
from ray.serve._private.metrics_utils import QUEUED_REQUESTS_KEY, InMemoryMetricsStore
from ray.serve.config import AutoscalingConfig

from benchmarks.autoscaling.fleet import Replica
from deployments.autoscaling import AUDIO_S, DONE_AUDIO_S_PER_S, UTTERANCES

_DEPLOYMENT = DeploymentID("ASR", "asr")
_BEGIN = 1e9
"""Ray's clock at the start: some time after the epoch, as it always is."""


class Controller:
    """Decides on the number of replicas; asked once a second.

    Args:
        config: as in the config file.
    """

    def __init__(self, config: AutoscalingConfig) -> None:
        self._config = config
        self._now = _BEGIN
        self._state = DeploymentAutoscalingState(_DEPLOYMENT)
        self._replicas: dict[str, InMemoryMetricsStore] = {}
        self._handle = InMemoryMetricsStore()
        self._done_audio_s: dict[str, float] = {}
        self._next_record = self._next_push = 0.0
        self._record_every = min(
            config.look_back_period_s * RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR, config.metrics_interval_s
        )
        info = SimpleNamespace(
            deployment_config=SimpleNamespace(autoscaling_config=config, gang_scheduling_config=None),
            target_capacity=None,
            target_capacity_direction=None,
        )
        with self._clock():
            self.target: int = self._state.register(info, config.min_replicas)
        """Replicas there should be."""

    def tick(self, t: float, ready: Sequence[Replica], queued: int) -> int:
        """Return the number of replicas there should be from now on.

        Args:
            t: seconds since the start; never less than at the last call.
            ready: the replicas that run.
            queued: utterances that wait in the ingress.
        """
        self._now = _BEGIN + t
        self._follow({replica.name for replica in ready})
        if t >= self._next_record:
            self._record(ready, queued)
            self._next_record = t + self._record_every
        if t >= self._next_push or (queued and not ready):
            self._push()
            self._next_push = t + self._config.metrics_interval_s
        with self._clock():
            self.target = self._state.get_decision_num_replicas(self.target)
        return self.target

    def _follow(self, names: set[str]) -> None:
        if names == self._replicas.keys():
            return
        for gone in self._replicas.keys() - names:
            self._state.on_replica_stopped(_id(gone))
            self._handle.data.pop(gone, None)
        self._replicas = {name: self._replicas.get(name) or InMemoryMetricsStore() for name in sorted(names)}
        self._state.update_running_replica_ids([_id(name) for name in self._replicas])

    def _record(self, ready: Sequence[Replica], queued: int) -> None:
        self._handle.add_metrics_point({QUEUED_REQUESTS_KEY: float(queued)}, self._now)
        for replica in ready:
            done_before = self._done_audio_s.get(replica.name, 0.0)
            self._done_audio_s[replica.name] = replica.done_audio_s
            stats = {
                UTTERANCES: float(replica.utterances),
                AUDIO_S: replica.audio_s,
                DONE_AUDIO_S_PER_S: (replica.done_audio_s - done_before) / self._record_every,
            }
            self._handle.add_metrics_point({replica.name: float(replica.utterances)}, self._now)
            self._replicas[replica.name].add_metrics_point(stats, self._now)
        for store in (self._handle, *self._replicas.values()):
            store.prune_keys_and_compact_data(self._now - self._config.look_back_period_s)

    def _push(self) -> None:
        for name, store in self._replicas.items():
            self._state.record_request_metrics_for_replica(
                ReplicaMetricReport(
                    replica_id=_id(name),
                    timestamp=self._now,
                    metrics={str(key): list(series) for key, series in store.data.items()},
                )
            )
        running = {
            _id(name).to_full_id_str(): list(self._handle.data[name])
            for name in self._replicas
            if name in self._handle.data
        }
        self._state.record_request_metrics_for_handle(
            HandleMetricReport(
                deployment_id=_DEPLOYMENT,
                handle_id="ingress",
                actor_id=None,
                handle_source=DeploymentHandleSource.REPLICA,
                queued_requests=list(self._handle.data.get(QUEUED_REQUESTS_KEY, [])),
                metrics={RUNNING_REQUESTS_KEY: running},
                timestamp=self._now,
            )
        )

    @contextmanager
    def _clock(self) -> Iterator[None]:
        clock = SimpleNamespace(time=lambda: self._now, monotonic=lambda: self._now)
        with mock.patch.object(autoscaling_state, "time", clock), mock.patch.object(autoscaling_policy, "time", clock):
            yield


def _id(name: str) -> ReplicaID:
    return ReplicaID(name, _DEPLOYMENT)
