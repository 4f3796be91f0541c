"""`prolong launch kubernetes`: the manifests against Kubernetes' schemas, and what their containers will run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prolong.common.config.run_files import load_config
from prolong.common.errors import UserError
from prolong.common.transport.keys import load_buffer_keys, load_client_keys
from prolong.launch.cli import main
from prolong.launch.recipes import compose

from tests.support.kubernetes_schemas import schema_errors

Manifest = dict[str, Any]


def launch(folder: Path, *arguments: str, recipe: str = "demo_pools") -> list[Manifest]:
    assert main(["launch", "kubernetes", recipe, "--out", str(folder), *arguments]) == 0
    return [each for name in ("run.yaml", "keys.yaml") for each in yaml.safe_load_all((folder / name).read_text())]


def of_kind(manifests: list[Manifest], kind: str, end: str = "") -> Manifest:
    (found,) = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"].endswith(end)]
    return found


def container_of(manifest: Manifest) -> Manifest:
    spec = manifest["spec"]
    if manifest["kind"] == "JobSet":
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    return spec["template"]["spec"]["containers"][0]


WORKLOADS = ("StatefulSet", "JobSet", "Deployment")
ARGUMENTS = [
    (),
    ("--learner-nodes", "2", "--set", "queue=team", "--set", "large:select.gpu/product=A10", "--set", "mount.models=/work"),
    ("--set", "large:request.nvidia.com/gpu=2", "--set", "tolerate=spot,nvidia.com/gpu", "--set", "large:priority=low"),
]


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("recipe", ["demo", "demo_pools"])
def test_every_manifest_is_what_kubernetes_and_jobset_take(tmp_path: Path, recipe: str, arguments: tuple[str, ...]) -> None:
    if recipe == "demo":
        arguments = tuple(each.replace("large:", "actors:") for each in arguments)
    manifests = launch(tmp_path, *arguments, recipe=recipe)
    assert {each["kind"] for each in manifests} >= {*WORKLOADS, "Secret", "ConfigMap", "Service", "NetworkPolicy"}
    for manifest in manifests:
        assert schema_errors(manifest) == []
        assert manifest["metadata"]["namespace"] == "default"


def test_the_schemas_refuse_what_kubernetes_does_not_know(tmp_path: Path) -> None:
    for manifest in launch(tmp_path):
        if "spec" in manifest:
            manifest["spec"]["replica"] = 1
            assert schema_errors(manifest)


def test_every_container_runs_a_command_that_prolong_understands(tmp_path: Path) -> None:
    manifests = launch(tmp_path, "--learner-nodes", "2")
    of_pods = tmp_path / "pods.yaml"
    of_pods.write_text(of_kind(manifests, "ConfigMap")["data"]["config.yaml"])
    assert load_config(of_pods) == compose(str(tmp_path / "config.yaml"))
    roles = []
    for manifest in manifests:
        if manifest["kind"] in WORKLOADS:
            script, role, recipe, *rest = container_of(manifest)["args"]
            assert script.startswith("/etc/prolong/")
            assert recipe == "--recipe=/etc/prolong/config.yaml"
            settings = [each.replace("$(POD_IP)", "10.0.0.7") for each in rest if not each.startswith("--")]
            cfg = compose(str(of_pods), settings)
            roles.append(role)
            expected = "tcp://0.0.0.0:5710" if role == "buffer" else "tcp://demo-pools-buffer:5710"
            assert cfg.buffer.address == expected
            assert cfg.weights.host == ("127.0.0.1" if role == "buffer" else "10.0.0.7")
            assert {"name": "http", "containerPort": cfg.run.http_port} in container_of(manifest)["ports"]
            assert (cfg.run.root, cfg.buffer.keys) == ("/runs", "/run/prolong/keys")
    assert roles == ["buffer", "learner", "actor", "actor"]


def test_a_stuck_process_is_started_again_and_one_that_waits_is_not(tmp_path: Path) -> None:
    for manifest in launch(tmp_path):
        if manifest["kind"] in WORKLOADS:
            container = container_of(manifest)
            for probe in ("startupProbe", "livenessProbe"):
                assert container[probe]["httpGet"] == {"path": "/healthz", "port": "http"}
            assert container["readinessProbe"].get("tcpSocket", {"port": "buffer"}) == {"port": "buffer"}


def test_actors_and_nodes_name_themselves_by_their_pod(tmp_path: Path) -> None:
    manifests = launch(tmp_path, "--learner-nodes", "2")
    small = container_of(of_kind(manifests, "Deployment", "small"))["args"]
    assert {"--pool=small", "--name=$(POD_NAME)"} <= set(small)
    learner = container_of(of_kind(manifests, "JobSet"))["args"]
    meets = "--rendezvous=demo-pools-learner-node-0-0.demo-pools-learner:29500"
    assert {"--nodes=2", "--node-rank=$(JOB_COMPLETION_INDEX)", meets} <= set(learner)
    job = of_kind(manifests, "JobSet")["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"]) == (2, 2)
    assert of_kind(manifests, "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_each_component_gets_its_own_keys_and_the_buffer_alone_its_secret(tmp_path: Path) -> None:
    manifests = launch(tmp_path)
    held = {each["metadata"]["name"]: set(each["stringData"]) for each in manifests if each["kind"] == "Secret"}
    client = {"client.key", "server.pub"}
    allowed = {f"allowed_{name}.pub" for name in ("large", "small", "learner", "local")}
    assert held.pop("demo-pools-buffer") == {"server.key", *client, *allowed}
    assert held == {f"demo-pools-{name}": client for name in ("large", "small", "learner")}
    secrets = [
        of_kind(manifests, "Secret", name)["stringData"]["client.key"] for name in ("large", "small", "learner", "buffer")
    ]
    assert len(set(secrets)) == 4
    assert (tmp_path / "keys.yaml").stat().st_mode & 0o777 == 0o600
    for text in secrets:
        assert text.strip() not in (tmp_path / "run.yaml").read_text()


def test_a_dry_run_writes_nothing_and_prints_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "kubernetes", "demo_pools", "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "kind: JobSet" in printed
    assert "client.key: |" not in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("component", "loads"), [("buffer", load_buffer_keys), ("small", load_client_keys)])
def test_the_start_script_makes_of_a_mounted_secret_what_prolong_takes(tmp_path: Path, component: str, loads: Any) -> None:
    manifests = launch(tmp_path / "launch")
    mounted, keys = tmp_path / "secret", tmp_path / "keys"
    keys.mkdir()
    pod = of_kind(manifests, "StatefulSet" if component == "buffer" else "Deployment", component)["spec"]["template"]["spec"]
    (items,) = [volume["secret"]["items"] for volume in pod["volumes"] if volume["name"] == "secret"]
    # as the kubelet lays them: links into a hidden folder, read by the group
    for item in items:
        path = mounted / "..data" / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(of_kind(manifests, "Secret", component)["stringData"][item["key"]])
        path.chmod(0o440)
    for path in (mounted / "..data").iterdir():
        (mounted / path.name).symlink_to(path)
    places = {str(mounted): "/run/prolong/secret", str(keys): "/run/prolong/keys"}
    with run_script(manifests, "start.sh", tmp_path, places) as started:
        assert started.wait(60) == 0
    assert loads(str(keys)) is not None


def run_script(manifests: list[Manifest], name: str, folder: Path, places: dict[str, str], code: str = "") -> subprocess.Popen:
    """Start a script of the ConfigMap, with a `prolong` that runs `code`, and other folders than those of a pod."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "prolong").write_text(f"#!/bin/sh\n{code}\n")
    (folder / "bin" / "prolong").chmod(0o755)
    for script, text in of_kind(manifests, "ConfigMap")["data"].items():
        for here, there in {**places, str(folder): "/etc/prolong"}.items():
            text = text.replace(there, here)
        (folder / script).write_text(text)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return subprocess.Popen(["sh", str(folder / name), "learner"], env={"PATH": path}, stdout=subprocess.PIPE, text=True)


ENDS = [
    ("exit 0", 143),  # told to leave, or lost the buffer: another pod goes on
    ("touch SUMMARY; exit 0", 0),
    ("exit 2", 2),
    ("kill -9 $$", 137),
]


@pytest.mark.parametrize(("code", "expected"), ENDS)
def test_a_learner_is_done_only_when_its_run_is(tmp_path: Path, code: str, expected: int) -> None:
    manifests = launch(tmp_path / "launch")
    for name in ("secret", "keys", "runs/demo-pools"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "secret" / "client.key").write_text("x")
    code = code.replace("SUMMARY", str(tmp_path / "runs" / "demo-pools" / "summary.json"))
    with run_script(manifests, "learner.sh", tmp_path, places_in(tmp_path), code) as started:
        assert started.wait(60) == expected


def places_in(folder: Path) -> dict[str, str]:
    return {f"{folder}/secret": "/run/prolong/secret", f"{folder}/keys": "/run/prolong/keys", f"{folder}/runs": "/runs"}


def test_sigterm_reaches_the_learner_and_its_pod_ends_when_it_has_saved(tmp_path: Path) -> None:
    manifests = launch(tmp_path / "launch")
    for name in ("secret", "keys"):
        (tmp_path / name).mkdir()
    (tmp_path / "secret" / "client.key").write_text("x")
    saves = f"trap 'touch {tmp_path}/saved; kill $!; exit 0' TERM; sleep 600 & echo up; wait"
    with run_script(manifests, "learner.sh", tmp_path, places_in(tmp_path), saves) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "up\n"
        started.send_signal(signal.SIGTERM)
        assert started.wait(60) == 143
    assert (tmp_path / "saved").exists()


def test_settings_of_the_cluster_reach_the_components_that_they_name(tmp_path: Path) -> None:
    arguments = ("--set", "image=registry/prolong:7", "--set", "large:request.nvidia.com/gpu=2", "--set", "queue=team")
    manifests = launch(
        tmp_path, *arguments, "--set", "small:queue=", "--set", "large:select.zone=a", "--set", "env.HF_HOME=/hf"
    )
    large, small = (of_kind(manifests, "Deployment", name) for name in ("large", "small"))
    assert container_of(large)["image"] == container_of(of_kind(manifests, "JobSet"))["image"] == "registry/prolong:7"
    assert container_of(large)["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert "limits" not in container_of(small)["resources"]
    assert large["spec"]["template"]["spec"]["nodeSelector"] == {"zone": "a"}
    assert {"name": "HF_HOME", "value": "/hf"} in container_of(small)["env"]
    queued = {each["metadata"]["name"] for each in manifests if "kueue.x-k8s.io/queue-name" in each["metadata"]["labels"]}
    assert queued == {"demo-pools-buffer", "demo-pools-learner", "demo-pools-large"}


def test_claims_of_the_cluster_are_mounted_whatever_their_names(tmp_path: Path) -> None:
    mounts = {"run": "/models", "data.v2": "/data"}
    manifests = launch(tmp_path, *(f"--set=mount.{claim}={path}" for claim, path in mounts.items()))
    pod = of_kind(manifests, "Deployment", "small")["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert len(volumes) == len(pod["volumes"])
    assert not any("." in name for name in volumes)
    places = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
    assert {claim: places[path]["persistentVolumeClaim"]["claimName"] for claim, path in mounts.items()} == {
        claim: claim for claim in mounts
    }


def test_a_recipe_for_gpus_asks_for_the_gpus_of_each_process(tmp_path: Path) -> None:
    manifests = launch(tmp_path, "model=m", "launch.learner_ranks=4", "actor.tensor_parallel=2", recipe="prorl_1_5b")
    limits = [container_of(of_kind(manifests, kind))["resources"]["limits"] for kind in ("JobSet", "Deployment")]
    assert limits == [{"nvidia.com/gpu": "4"}, {"nvidia.com/gpu": "2"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "imagge=x"], "--set imagge: Kubernetes has no such setting"),
        (["--set", "large:request.=1"], "--set large:request."),
        (["--set", "learner:namespace=x"], "Kubernetes has no such setting of learner; expected namespace"),
        (["--set", "small:disk=1Ti"], "Kubernetes has no such setting of small; expected disk or buffer:disk or learner:disk"),
        (["run.name=" + "x" * 50], "run.name = "),
        (["run.name=___"], "run.name = "),
        (["pools.Small={count: 1}"], "two of these names are one name"),
    ],
)
def test_what_kubernetes_cannot_take_is_refused_in_a_sentence(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", "kubernetes", "demo_pools", "--out", str(tmp_path), *arguments]) == UserError.exit_code
    assert message in capsys.readouterr().err
