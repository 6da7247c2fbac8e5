"""The faults, each with the cluster it happens in, what does it, and when its part is whole again."""

import asyncio
import copy
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psutil
import yaml

from benchmarks.faults.cluster import Cluster
from benchmarks.service import ROOT

REQUEST_TIMEOUT_S = 60
"""The service's deadline while it is hurt."""

Where = Literal["head", "worker"]
Whole = Callable[[], Awaitable[bool]]
"""Whether what was hurt is whole again."""


@dataclass(frozen=True)
class Fault:
    """One fault."""

    name: str
    what: str
    """As in the table."""
    inject: Callable[[Cluster], Awaitable[Whole]]
    asr: int = 1
    """Replicas."""
    ingress: int = 1
    head_cpus: float = 8
    workers: Sequence[float] = ()
    """CPUs of each."""
    asr_on_workers: bool = False
    keeps_state: bool = False
    """See `Cluster`."""
    proxies: tuple[Where, ...] = ("head",)
    """Of which nodes requests go to; there is one on each where there is a replica, and on the head."""

    def config(self) -> dict[str, Any]:
        """`serve_config.yaml` for it."""
        config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        config["proxy_location"] = "EveryNode" if "worker" in self.proxies else "HeadOnly"
        (application,) = config["applications"]
        # One thread for each model: the cores are shared by them all, and by the load.
        application["args"] |= {"request_timeout_s": REQUEST_TIMEOUT_S, "torch_threads": 1}
        for deployment in application["deployments"]:
            deployment["num_replicas"] = {"ASR": self.asr, "Ingress": self.ingress}[deployment["name"]]
            if deployment["name"] == "ASR" and self.asr_on_workers:
                # Half of a worker's, so that another replica could join it.
                deployment["ray_actor_options"] = {"num_cpus": 1, "num_gpus": 0, "resources": {"worker": 0.5}}
                deployment["max_replicas_per_node"] = 1
        return config


def _signalled(deployment: str, what: signal.Signals) -> Callable[[Cluster], Awaitable[Whole]]:
    async def inject(cluster: Cluster) -> Whole:
        replicas = await asyncio.to_thread(cluster.replicas, deployment)
        os.kill(replicas[0], what)
        return _replaced(cluster, deployment, lost=replicas[:1], number=len(replicas))

    return inject


def _replaced(cluster: Cluster, deployment: str, *, lost: Sequence[int], number: int) -> Whole:
    async def whole() -> bool:
        replicas = await asyncio.to_thread(cluster.replicas, deployment)
        return len(replicas) == number and not set(replicas) & set(lost)

    return whole


async def _out_of_memory(cluster: Cluster) -> Whole:
    """No page more for the replica: whatever it allocates from now on fails."""
    (replica,) = await asyncio.to_thread(cluster.replicas, "ASR")
    held = psutil.Process(replica).memory_info().vms
    resource.prlimit(replica, resource.RLIMIT_AS, (held, held))
    return _replaced(cluster, "ASR", lost=[replica], number=1)


def _killed_on_head(title: str) -> Callable[[Cluster], Awaitable[Whole]]:
    async def inject(cluster: Cluster) -> Whole:
        (killed,) = await asyncio.to_thread(cluster.head.processes, title)
        killed.kill()

        async def whole() -> bool:
            if not await asyncio.to_thread(cluster.head.processes, title):
                return False
            return await asyncio.to_thread(cluster.is_listening)

        return whole

    return inject


async def _worker_killed(cluster: Cluster) -> Whole:
    replicas = await asyncio.to_thread(cluster.replicas, "ASR")
    node = await asyncio.to_thread(cluster.node_of, replicas[0])
    await asyncio.to_thread(node.kill)
    return _replaced(cluster, "ASR", lost=replicas[:1], number=len(replicas))


async def _head_restarted(cluster: Cluster) -> Whole:
    await asyncio.to_thread(cluster.head.kill)
    cluster.start_head_again()

    async def whole() -> bool:
        return await asyncio.to_thread(cluster.status, "asr") == "RUNNING"

    return whole


async def _batching_changed(cluster: Cluster) -> Whole:
    replicas = await asyncio.to_thread(cluster.replicas, "ASR")
    config = copy.deepcopy(cluster.config)
    _deployment(config, "ASR")["user_config"] = {"max_batch_size": 4, "batch_wait_timeout_s": 0.02}
    await asyncio.to_thread(cluster.deploy, config)

    async def whole() -> bool:
        if await asyncio.to_thread(cluster.status, "asr") != "RUNNING":
            return False
        return await asyncio.to_thread(cluster.replicas, "ASR") == replicas

    return whole


async def _settings_changed(cluster: Cluster) -> Whole:
    old = {name: await asyncio.to_thread(cluster.replicas, name) for name in ("ASR", "Ingress")}
    config = copy.deepcopy(cluster.config)
    config["applications"][0]["args"]["slots"] = 8
    await asyncio.to_thread(cluster.deploy, config)
    checks = [_replaced(cluster, name, lost=pids, number=len(pids)) for name, pids in old.items()]

    async def whole() -> bool:
        return all([await check() for check in checks])

    return whole


async def _scaled_down(cluster: Cluster) -> Whole:
    config = copy.deepcopy(cluster.config)
    for name in ("ASR", "Ingress"):
        _deployment(config, name)["num_replicas"] = 1
    await asyncio.to_thread(cluster.deploy, config)

    async def whole() -> bool:
        return all([len(await asyncio.to_thread(cluster.replicas, name)) == 1 for name in ("ASR", "Ingress")])

    return whole


def _deployment(config: dict[str, Any], name: str) -> dict[str, Any]:
    deployments: list[dict[str, Any]] = config["applications"][0]["deployments"]
    return next(deployment for deployment in deployments if deployment["name"] == name)


FAULTS = (
    Fault("asr-killed", "the only ASR replica: SIGKILL", _signalled("ASR", signal.SIGKILL)),
    Fault("asr-killed-of-two", "one of two ASR replicas: SIGKILL", _signalled("ASR", signal.SIGKILL), asr=2),
    Fault("asr-hangs", "the only ASR replica: SIGSTOP", _signalled("ASR", signal.SIGSTOP)),
    Fault("asr-hangs-of-two", "one of two ASR replicas: SIGSTOP", _signalled("ASR", signal.SIGSTOP), asr=2),
    Fault("asr-out-of-memory", "the only ASR replica: no more memory (RLIMIT_AS)", _out_of_memory),
    Fault("ingress-killed", "the only ingress replica: SIGKILL", _signalled("Ingress", signal.SIGKILL)),
    Fault(
        "ingress-killed-of-two",
        "one of two ingress replicas: SIGKILL",
        _signalled("Ingress", signal.SIGKILL),
        ingress=2,
    ),
    Fault(
        "ingress-hangs-of-two",
        "one of two ingress replicas: SIGSTOP",
        _signalled("Ingress", signal.SIGSTOP),
        ingress=2,
    ),
    Fault("proxy-killed", "the only proxy: SIGKILL", _killed_on_head("ray::ProxyActor")),
    Fault(
        "proxy-killed-of-two",
        "one of two proxies, on two nodes: SIGKILL",
        _killed_on_head("ray::ProxyActor"),
        head_cpus=0,
        workers=(4,),
        proxies=("head", "worker"),
    ),
    Fault("controller-killed", "Serve's controller: SIGKILL", _killed_on_head("ray::ServeController")),
    Fault(
        "node-killed",
        "the node of the only ASR replica; there is another",
        _worker_killed,
        head_cpus=1,
        workers=(2, 2),
        asr_on_workers=True,
    ),
    Fault(
        "node-killed-of-two",
        "the node of one of two ASR replicas",
        _worker_killed,
        asr=2,
        head_cpus=1,
        workers=(2, 2, 2),
        asr_on_workers=True,
    ),
    Fault(
        "head-restarted",
        "the head, with its state in Redis; replicas and proxy are on a worker",
        _head_restarted,
        head_cpus=0,
        workers=(4,),
        keeps_state=True,
        proxies=("worker",),
    ),
    Fault("batching-changed", "`serve deploy`: another `user_config`", _batching_changed),
    Fault("settings-changed", "`serve deploy`: other `args`, one replica of each", _settings_changed),
    Fault(
        "settings-changed-of-two",
        "`serve deploy`: other `args`, two replicas of each",
        _settings_changed,
        asr=2,
        ingress=2,
    ),
    Fault("scaled-down", "`serve deploy`: one replica of each in place of two", _scaled_down, asr=2, ingress=2),
)
