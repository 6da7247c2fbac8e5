"""What `kubectl apply -k` would send is valid, fits together and keeps its secrets."""

import copy
import inspect
import itertools
import os
import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray._private import ray_constants
from ray.serve.config import AutoscalingConfig

from benchmarks.autoscaling.__main__ import HEADROOM
from benchmarks.autoscaling.rates import RATES
from benchmarks.service import serve_environment
from deployments.asr.deployment import ASR
from deployments.autoscaling import AudioSecondsPolicy
from deployments.ingress.deployment import Ingress
from deployments.settings import Settings
from tests import manifests, serve_config
from tests.manifests import K8S, OVERLAYS, ROOT, Manifest, check_builtin, check_pod_template, pod_templates, render, the

SCHEMAS = [yaml.safe_load((ROOT / "tests" / "data" / "rayservice.schema.yaml").read_text(encoding="utf-8"))]
if definition := os.environ.get("RAYSERVICE_CRD"):  # KubeRay's own, whole, where it is at hand
    SCHEMAS.append(manifests.schema_of(Path(definition)))
COMPONENTS = sorted(path.parent for path in K8S.glob("components/*/kustomization.yaml"))
CUSTOM = {"RayService", "PodMonitor"}
KEYS = "/etc/asr-keys/api-keys"
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
(HAPROXY,) = (name for name, path in SCRIPTS.items() if path == "deployments.ingress.haproxy:main")

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)


def combine(overlay: Path, components: list[Path], folder: Path) -> list[Manifest]:
    """Render what a user's own kustomization makes of an overlay and components."""
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "qwen3-asr",
        "resources": [os.path.relpath(overlay, folder)],
        "components": [os.path.relpath(component, folder) for component in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(folder)


def cluster_of(rendered: list[Manifest]) -> Manifest:
    cluster: Manifest = the("RayService", rendered)["spec"]["rayClusterConfig"]
    return cluster


def serve_config_of(rendered: list[Manifest], tmp_path: Path) -> tuple[dict[str, Any], Settings]:
    """Return the checked serveConfigV2 and its settings, which read the mounted keys."""
    text = the("RayService", rendered)["spec"]["serveConfigV2"]
    keys = tmp_path / "keys"
    keys.write_text("test:secret")
    config = yaml.safe_load(text)
    return config, serve_config.check(yaml.safe_load(text.replace(KEYS, str(keys))))


def check(rendered: list[Manifest]) -> None:
    """Check all manifests strictly."""
    for schema in SCHEMAS:
        jsonschema.Draft202012Validator(schema).validate(the("RayService", rendered))
    for template in pod_templates(rendered).values():
        check_pod_template(template)
    for manifest in rendered:
        if manifest["kind"] not in CUSTOM:
            check_builtin(manifest)


def cpus(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def mebibytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([MG])i", quantity).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit == "G" else 1)


def test_the_documentation_names_the_overlays_and_components_that_there_are() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    assert set(re.findall(r"k8s/overlays/([\w.-]+)", page)) <= {path.name for path in OVERLAYS}
    assert re.findall(r"^\| `([\w.-]+)` \|", page, re.MULTILINE) == [
        "cpu-demo",
        "qwen3-asr-1.7b",
        "qwen3-asr-0.6b",
        "fault-tolerant",
    ]
    assert {path.name for path in OVERLAYS} == {"cpu-demo", "qwen3-asr-1.7b", "qwen3-asr-0.6b", "fault-tolerant"}
    named = set(re.findall(r"k8s/components/([\w-]+)", page))
    assert named == {path.name for path in COMPONENTS} - {"gcs-fault-tolerance"}, (
        "that is what fault-tolerant is made of"
    )


@each_overlay
def test_overlays_are_valid(overlay: Path) -> None:
    check(render(overlay))


@pytest.mark.parametrize("overlay", ["qwen3-asr-0.6b", "qwen3-asr-1.7b", "fault-tolerant"])
@pytest.mark.parametrize(
    "names",
    [["monitoring"], ["weights-in-image"], ["haproxy"], ["monitoring", "weights-in-image", "haproxy"]],
    ids="+".join,
)
def test_components_go_with_every_overlay(overlay: str, names: list[str], tmp_path: Path) -> None:
    rendered = combine(K8S / "overlays" / overlay, [K8S / "components" / name for name in names], tmp_path)
    check(rendered)
    if "weights-in-image" in names:
        assert "PersistentVolumeClaim" not in {one["kind"] for one in rendered}
        for template in pod_templates(rendered).values():
            (container,) = template["spec"]["containers"]
            environment = {one["name"]: one.get("value") for one in container["env"]}
            assert (environment["HF_HOME"], environment["HF_HUB_OFFLINE"]) == ("/opt/huggingface", "1")
            volumes = {one["name"] for one in template["spec"]["volumes"]}
            assert volumes == {one["name"] for one in container["volumeMounts"]} == {"shared-memory", "api-keys"}
    if "haproxy" in names:
        for template in pod_templates(rendered).values():
            (container,) = template["spec"]["containers"]
            environment = {one["name"]: one.get("value") for one in container["env"]}
            assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
            assert environment["RAY_SERVE_HAPROXY_BINARY_PATH"] == f"/opt/venv/bin/{HAPROXY}"
            assert "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH" in environment, "the replicas' own HTTP servers heed it"
    if "monitoring" in names:
        ports = {
            port["name"] for pod in pod_templates(rendered).values() for port in pod["spec"]["containers"][0]["ports"]
        }
        scraped = the("PodMonitor", rendered)["spec"]["podMetricsEndpoints"]
        assert {endpoint["port"] for endpoint in scraped} <= ports
        assert {tuple(sorted(endpoint)) for endpoint in scraped} == {("interval", "port", "relabelings")}


@pytest.mark.parametrize(
    "place",
    [
        "spec",
        "spec.rayClusterConfig",
        "spec.rayClusterConfig.autoscalerOptions",
        "spec.rayClusterConfig.gcsFaultToleranceOptions",
        "spec.rayClusterConfig.headGroupSpec",
        "spec.rayClusterConfig.headGroupSpec.template.spec",
        "spec.rayClusterConfig.workerGroupSpecs.0",
        "spec.rayClusterConfig.workerGroupSpecs.0.template.metadata",
        "spec.rayClusterConfig.workerGroupSpecs.0.template.spec.containers.0",
        "spec.rayClusterConfig.workerGroupSpecs.0.template.spec.volumes.0.emptyDir",
    ],
)
def test_an_unknown_key_fails(place: str) -> None:
    rendered = copy.deepcopy(render(K8S / "overlays" / "fault-tolerant"))
    target: Any = the("RayService", rendered)
    for step in place.split("."):
        target = target[int(step) if step.isdigit() else step]
    target["minReplica"] = 1
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(rendered)


def test_a_definition_of_a_custom_resource_is_made_strict() -> None:
    schema = manifests.strict(
        {
            "type": "object",
            "properties": {
                "metadata": {"type": "object"},
                "port": {"x-kubernetes-int-or-string": True},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "free": {"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": True},
                "items": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
            },
        }
    )
    good = {"metadata": {"name": "a"}, "port": "http", "labels": {"a": "b"}, "free": {"x": 1}, "items": [{"name": "a"}]}
    jsonschema.validate(good, schema)
    wrong: list[dict[str, Any]] = [{"bogus": 1}, {"items": [{"nmae": "a"}]}, {"labels": {"a": 1}}, {"port": []}]
    for bad in wrong:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


@each_overlay
def test_the_application_is_one_of_ours(overlay: Path, tmp_path: Path) -> None:
    rendered = render(overlay)
    config, settings = serve_config_of(rendered, tmp_path)
    assert config["http_options"] == {"host": "0.0.0.0", "port": 8000}
    assert config["applications"][0]["import_path"] == "deployments.app:build"
    if overlay.name == "cpu-demo":
        assert (settings.model, settings.num_gpus, settings.api_keys) == ("demo", 0, ())
    else:
        size = "0.6B" if "0.6b" in overlay.name else "1.7B"
        assert settings.model == f"Qwen/Qwen3-ASR-{size}"
        assert settings.num_gpus != "auto", "GPU nodes may come later than the application"
        assert [key.name for key in settings.api_keys] == ["test"]


@each_overlay
def test_replicas_fit_into_the_pods(overlay: Path, tmp_path: Path) -> None:
    """Ray takes a pod's limits for its resources; a replica that fits nowhere would wait for ever."""
    rendered = render(overlay)
    config, settings = serve_config_of(rendered, tmp_path)
    ingress, asr = config["applications"][0]["deployments"]
    groups = {group["groupName"]: group for group in cluster_of(rendered)["workerGroupSpecs"]}
    limits = {name: group["template"]["spec"]["containers"][0]["resources"]["limits"] for name, group in groups.items()}
    per_ingress = ingress.get("ray_actor_options", {}).get("num_cpus", 0.5)
    if overlay.name == "cpu-demo":
        assert list(groups) == ["cpu"]
        assert per_ingress + settings.num_cpus <= cpus(limits["cpu"]["cpu"])
        return
    assert isinstance(settings.num_gpus, float)
    per_gpu_pod = int(1 / settings.num_gpus)
    assert per_gpu_pod * settings.num_cpus <= cpus(limits["gpu"]["cpu"])
    assert limits["gpu"]["nvidia.com/gpu"] == "1"
    scaling = asr["autoscaling_config"]
    assert scaling["max_replicas"] == per_gpu_pod * groups["gpu"]["maxReplicas"]
    assert scaling["min_replicas"] <= per_gpu_pod * groups["gpu"]["minReplicas"]
    assert per_ingress <= cpus(limits["cpu"]["cpu"])
    assert ingress["num_replicas"] <= groups["cpu"]["minReplicas"], "one a node: the death of one is not the end"
    assert ingress["max_replicas_per_node"] == 1


@each_overlay
def test_replicas_come_and_go_with_the_seconds_of_audio(overlay: Path, tmp_path: Path) -> None:
    config, settings = serve_config_of(render(overlay), tmp_path)
    (asr,) = [one for one in config["applications"][0]["deployments"] if one["name"] == "ASR"]
    if overlay.name == "cpu-demo":
        assert asr["num_replicas"] == 1
        return
    written = asr["autoscaling_config"]
    assert "target_ongoing_requests" not in written, "that is the other policy's"
    scaling = AutoscalingConfig.model_validate(written)
    assert scaling.policy.get_policy() is AudioSecondsPolicy
    AudioSecondsPolicy(**scaling.policy.policy_kwargs)
    assert isinstance(settings.num_gpus, float)
    a_replica = HEADROOM * RATES[settings.model.removeprefix("Qwen/Qwen3-ASR-")].audio_s_per_s[-1] * settings.num_gpus
    assert scaling.policy.policy_kwargs["audio_s_per_s"] == pytest.approx(a_replica, rel=0.02)
    assert scaling.policy.policy_kwargs.keys() <= inspect.signature(AudioSecondsPolicy).parameters.keys()


@each_overlay
def test_the_cluster_is_as_kuberay_wants_it(overlay: Path) -> None:
    rendered = render(overlay)
    cluster = cluster_of(rendered)
    assert cluster["rayVersion"] == version("ray"), "KubeRay chooses probes by it"
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert the("RayService", rendered)["spec"]["excludeHeadPodFromServeSvc"] is True
    for group in cluster["workerGroupSpecs"]:
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        (shared_memory,) = (one for one in group["template"]["spec"]["volumes"] if one["name"] == "shared-memory")
        assert shared_memory["emptyDir"]["medium"] == "Memory"
        store = int(group["rayStartParams"]["object-store-memory"])
        assert store < mebibytes(shared_memory["emptyDir"]["sizeLimit"]) * 2**20
    for template in pod_templates(rendered).values():
        assert "restartPolicy" not in template["spec"], "refused by the autoscaler, version 2"
        (container,) = template["spec"]["containers"]
        assert not {"livenessProbe", "readinessProbe", "startupProbe"} & set(container), "KubeRay's own are better"
        assert {port["name"]: port["containerPort"] for port in container["ports"]}["serve"] == 8000
        assert container["image"] == f"qwen3-asr-serve:{version('qwen3-asr-serve')}"
        assert {one["name"]: one["mountPath"] for one in container["volumeMounts"]}["shared-memory"] == "/dev/shm"


@each_overlay
def test_a_pod_that_is_stopped_has_time_to_end_what_it_has(overlay: Path) -> None:
    ingress, asr = Ingress._deployment_config, ASR._deployment_config  # type: ignore[attr-defined]
    replica_s = max(ingress.graceful_shutdown_timeout_s, asr.graceful_shutdown_timeout_s)
    for template in pod_templates(render(overlay)).values():
        (container,) = template["spec"]["containers"]
        environment = {one["name"]: one.get("value") for one in container["env"]}
        drain_s = float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert replica_s < drain_s < template["spec"]["terminationGracePeriodSeconds"]
    assert the("RayService", render(overlay))["spec"]["rayClusterDeletionDelaySeconds"] > replica_s
    assert hasattr(ray_constants, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"), "Ray has another name for it now"


@each_overlay
def test_pods_have_the_environment_that_make_serve_gives(overlay: Path) -> None:
    for template in pod_templates(render(overlay)).values():
        (container,) = template["spec"]["containers"]
        environment = {one["name"]: one.get("value") for one in container["env"]}
        assert environment.items() >= serve_environment().items()


@each_overlay
def test_no_pod_has_more_rights_or_resources_than_it_needs(overlay: Path) -> None:
    rendered = render(overlay)
    assert the("Namespace", rendered)["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    pods = [template["spec"] for template in pod_templates(rendered).values()]
    pods += [one["spec"]["template"]["spec"] for one in rendered if one["kind"] == "StatefulSet"]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert pod["enableServiceLinks"] is False, "a Service named asr would set ASR_PORT and more"
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            assert container["resources"]["requests"]["memory"] in (
                container["resources"]["limits"]["memory"],
                *(["3Gi", "2Gi"] if overlay.name == "cpu-demo" else []),  # a laptop's
                *(["256Mi"] if container["name"] == "redis" else []),
            )
            assert ":" in container["image"]
            assert not container["image"].endswith(":latest")
    workers = [template["spec"] for name, template in pod_templates(rendered).items() if name != "head"]
    assert not any(worker["automountServiceAccountToken"] for worker in workers)


@each_overlay
def test_secrets_are_named_and_never_written_down(overlay: Path, tmp_path: Path) -> None:
    rendered = render(overlay)
    assert "Secret" not in {one["kind"] for one in rendered}
    config, _ = serve_config_of(rendered, tmp_path)
    keys_file = config["applications"][0]["args"].get("api_keys_file")
    assert keys_file == (None if overlay.name == "cpu-demo" else KEYS)
    for template in pod_templates(rendered).values():
        (container,) = template["spec"]["containers"]
        (mount,) = (one for one in container["volumeMounts"] if one["name"] == "api-keys")
        assert (mount["mountPath"], mount["readOnly"]) == (str(Path(KEYS).parent), True)
        (token,) = (one for one in container["env"] if one["name"] == "HF_TOKEN")
        assert "value" not in token
        assert token["valueFrom"]["secretKeyRef"]["optional"] is True


@each_overlay
def test_policies_and_budgets_select_the_pods(overlay: Path) -> None:
    rendered = render(overlay)
    labels = {name: template["metadata"]["labels"] for name, template in pod_templates(rendered).items()}

    def selected(selector: Manifest) -> set[str]:
        return {name for name, has in labels.items() if selector["matchLabels"].items() <= has.items()}

    policy = the("NetworkPolicy", rendered, "qwen3-asr")["spec"]
    assert selected(policy["podSelector"]) == set(labels)
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    open_ports = {
        port["port"]
        for rule in policy["ingress"]
        if any(source.get("namespaceSelector") == {} and "podSelector" not in source for source in rule["from"])
        for port in rule["ports"]
    }
    assert open_ports == {8000}, "only the API is for everybody"
    budgets = [one["spec"] for one in rendered if one["kind"] == "PodDisruptionBudget"]
    # Kubernetes knows no number of replicas here, and takes a budget with maxUnavailable or a percentage for zero.
    assert all(set(budget) == {"minAvailable", "selector"} and budget["minAvailable"] == 1 for budget in budgets)
    guarded = list(itertools.chain.from_iterable(selected(budget["selector"]) for budget in budgets))
    assert sorted(guarded) == ([] if overlay.name == "cpu-demo" else ["cpu", "gpu"])


def test_fault_tolerance_finds_its_redis() -> None:
    rendered = render(K8S / "overlays" / "fault-tolerant")
    options = cluster_of(rendered)["gcsFaultToleranceOptions"]
    service, stateful_set = the("Service", rendered), the("StatefulSet", rendered)
    (port,) = service["spec"]["ports"]
    assert options["redisAddress"] == f"{service['metadata']['name']}:{port['port']}"
    assert {one["metadata"].get("namespace") for one in rendered if one["kind"] != "Namespace"} == {"qwen3-asr"}
    pod = stateful_set["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    (password,) = container["env"]
    assert password["valueFrom"] == options["redisPassword"]["valueFrom"]
    subprocess.run(["sh", "-n", "-c", container["args"][0]], check=True)
    policy = the("NetworkPolicy", rendered, "redis")["spec"]["podSelector"]["matchLabels"]
    assert policy.items() <= pod["metadata"]["labels"].items()
    gpu, _ = cluster_of(rendered)["workerGroupSpecs"]
    assert gpu["minReplicas"] == 2
