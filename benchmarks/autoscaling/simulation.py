"""One trace under one policy."""

from dataclasses import dataclass

import numpy as np
from ray.serve.config import AutoscalingConfig

from benchmarks.autoscaling.controller import Controller
from benchmarks.autoscaling.fleet import Fleet, Setup
from benchmarks.autoscaling.traces import Trace

GIVE_UP_S = 3600.0
"""What is not answered so long after the trace's end never is."""


@dataclass(frozen=True)
class Outcome:
    """What became of a trace."""

    recordings: int
    unanswered: int
    mean_replicas: float
    """While the trace lasted."""
    most_replicas: int
    late_p50_s: float
    """Seconds until the answer beyond those that the recording would have taken alone."""
    late_p95_s: float
    late_max_s: float
    replica_hours: float
    """While the trace lasted; starting and stopping replicas cost as well."""
    changes: int
    """How often the number of replicas was changed."""


def simulate(trace: Trace, config: AutoscalingConfig, setup: Setup) -> Outcome:
    """Run a trace through a fleet that starts with as many replicas as the configuration says, all ready."""
    fleet, controller = Fleet(setup), Controller(config)
    fleet.resize(-setup.start_s, controller.target)
    fleet.replica_s = 0.0
    arrivals = iter(trace.recordings)
    arrival = next(arrivals, None)
    cost_s, most, changes, second = 0.0, controller.target, 0, 0
    while second < trace.seconds + GIVE_UP_S:
        now = float(second)
        while True:
            t = min(fleet.next_end, arrival.arrives if arrival else now)
            if t >= now:
                break
            if arrival and arrival.arrives <= fleet.next_end:
                fleet.arrive(arrival.arrives, arrival)
                arrival = next(arrivals, None)
            else:
                fleet.end()
        before = controller.target
        target = controller.tick(now, fleet.ready, len(fleet.queue))
        changes += target != before
        fleet.resize(now, target)
        if now < trace.seconds:
            cost_s, most = fleet.replica_s, max(most, len(fleet.replicas))
        elif len(fleet.late_s) == len(trace.recordings):
            break
        second += 1
    late = np.array(fleet.late_s) if fleet.late_s else np.array([np.nan])
    p50, p95, longest = (float(np.quantile(late, q)) for q in (0.5, 0.95, 1.0))
    return Outcome(
        recordings=len(trace.recordings),
        unanswered=len(trace.recordings) - len(fleet.late_s),
        mean_replicas=cost_s / trace.seconds,
        most_replicas=most,
        late_p50_s=p50,
        late_p95_s=p95,
        late_max_s=longest,
        replica_hours=cost_s / 3600,
        changes=changes,
    )
