"""Holds the manifests of deploy/kubernetes against the schemas of Kubernetes.

    pip install kubernetes-validate pyyaml
    python3 scripts/scale/manifests.py

Kinds that are no part of Kubernetes (llm-d's) have no schema there and are named as left out. Beyond the schemas it is
checked that selectors meet labels, that ports named by probes and services are there, and that volumes are declared.
"""

import pathlib
import sys

import kubernetes_validate
import yaml

VERSION = "1.31"
FOREIGN = {"InferencePool", "HTTPRoute"}


def pods(document: dict):
    template = document.get("spec", {}).get("template")
    return [template] if isinstance(template, dict) else []


def problems(documents: list) -> list:
    found = []
    templates = [(d, t) for d in documents for t in pods(d)]
    labels = [t["metadata"]["labels"] for _, t in templates]
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        selector = document.get("spec", {}).get("selector")
        selector = (selector or {}).get("matchLabels", selector) or {}
        if document["kind"] in {"Service", "StatefulSet", "Deployment", "PodDisruptionBudget"}:
            if not any(selector.items() <= of.items() for of in labels):
                found.append(f"{name}: no pod has the labels {selector}")
    for document, template in templates:
        name = f"{document['kind']} {document['metadata']['name']}"
        spec = template["spec"]
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
        for container in spec["containers"]:
            ports = {port["name"] for port in container.get("ports", [])}
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    found.append(f"{name}: there is no volume {mount['name']}")
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if port is not None and port not in ports:
                    found.append(f"{name}: {probe} asks the port {port}, which there is not")
    return found


def main():
    folder = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
    failed, checked, everything = [], 0, []
    for path in sorted(folder.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            name = f"{path.name}: {document['kind']} {document['metadata']['name']}"
            everything.append(document)
            if document["kind"] in FOREIGN:
                print(f"{name}: left out, no part of Kubernetes")
                continue
            try:
                kubernetes_validate.validate(document, VERSION, strict=True)
                checked += 1
            except kubernetes_validate.ValidationError as error:
                failed.append(f"{name}: {error.message}")
    failed += problems([document for document in everything if document["kind"] not in FOREIGN])
    print("\n".join(failed) or f"{checked} objects are of the form that Kubernetes {VERSION} wants")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
