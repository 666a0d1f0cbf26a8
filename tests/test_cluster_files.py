"""Files for clusters: accepted by the schema they are for, and naming only what exists."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ray_brats
from ray_brats import cli
from ray_brats.engine import jobs
from ray_brats.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "cluster"
FILES = sorted(FOLDER.glob("*.yaml"))
TEXTS = {path.name: path.read_text() for path in FILES}
KUBERAY = ("raycluster.yaml", "rayjob-train.yaml", "rayjob-score.yaml", "rayservice.yaml")
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
CHALLENGE = (FOLDER / "challenge.Dockerfile").read_text()
APPTAINER = (FOLDER / "challenge.def").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()

# Fields of ray.io/v1 as of KubeRay 1.6, from its API reference (docs.ray.io, KubeRay CRD API
# reference) and ray-operator/apis/ray/v1/*_types.go.
AUTOSCALER_FIELDS = frozenset(
    [
        "env",
        "envFrom",
        "idleTimeoutSeconds",
        "image",
        "imagePullPolicy",
        "resources",
        "securityContext",
        "upscalingMode",
        "version",
        "volumeMounts",
    ]
)
FAULT_TOLERANCE_FIELDS = frozenset(
    ["externalStorageNamespace", "redisAddress", "redisPassword", "redisUsername"]
)
CLUSTER_FIELDS = frozenset(
    [
        "authOptions",
        "autoscalerOptions",
        "enableInTreeAutoscaling",
        "gcsFaultToleranceOptions",
        "headGroupSpec",
        "headServiceAnnotations",
        "managedBy",
        "rayVersion",
        "suspend",
        "workerGroupSpecs",
    ]
)
GROUP_FIELDS = frozenset(["rayStartParams", "template", "resources", "labels"])
HEAD_FIELDS = GROUP_FIELDS | {"enableIngress", "headService", "serviceType"}
WORKER_FIELDS = GROUP_FIELDS | frozenset(
    [
        "groupName",
        "idleTimeoutSeconds",
        "maxReplicas",
        "minReplicas",
        "numOfHosts",
        "replicas",
        "scaleStrategy",
        "suspend",
    ]
)
JOB_FIELDS = frozenset(
    [
        "activeDeadlineSeconds",
        "backoffLimit",
        "clusterSelector",
        "deletionStrategy",
        "entrypoint",
        "entrypointNumCpus",
        "entrypointNumGpus",
        "entrypointResources",
        "jobId",
        "managedBy",
        "metadata",
        "preRunningDeadlineSeconds",
        "rayClusterSpec",
        "runtimeEnvYAML",
        "shutdownAfterJobFinishes",
        "submissionMode",
        "submitterConfig",
        "submitterPodTemplate",
        "suspend",
        "ttlSecondsAfterFinished",
    ]
)
SERVICE_FIELDS = frozenset(
    [
        "excludeHeadPodFromServeSvc",
        "rayClusterConfig",
        "serveConfigV2",
        "serveService",
        "suspend",
        "upgradeStrategy",
    ]
)
# Of a Kubernetes 1.30 pod and its containers, what these files use (kubernetes.io, Pod v1 core).
POD_FIELDS = frozenset(
    [
        "affinity",
        "containers",
        "restartPolicy",
        "serviceAccountName",
        "tolerations",
        "automountServiceAccountToken",
        "volumes",
        "nodeSelector",
    ]
)
CONTAINER_FIELDS = frozenset(
    [
        "command",
        "args",
        "env",
        "image",
        "name",
        "ports",
        "resources",
        "securityContext",
        "volumeMounts",
    ]
)


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(TEXTS[name]))


def cluster_of(name: str) -> dict[str, Any]:
    document = documents(name)[0]
    spec: dict[str, Any] = document["spec"]
    key = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(document["kind"])
    return spec[key] if key else spec


def pods(name: str) -> list[dict[str, Any]]:
    cluster = cluster_of(name)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"] for group in groups]


def containers(name: str) -> list[dict[str, Any]]:
    return [item for pod in pods(name) for item in pod["spec"]["containers"]]


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_each_file_parses_and_says_its_command_on_top(name: str) -> None:
    assert all(documents(name))
    head = [line for line in TEXTS[name].splitlines() if line.startswith("#")]
    assert TEXTS[name].startswith("#")
    assert f"cluster/{name}" in "\n".join(head[:2])


@pytest.mark.parametrize("name", [*sorted(TEXTS), "Dockerfile"])
def test_files_that_are_named_exist(name: str) -> None:
    text = DOCKERFILE if name == "Dockerfile" else TEXTS[name]
    for path in re.findall(r"\b(?:cluster|jobs)/[\w.-]+", text):
        assert (ROOT / path).exists(), path


def test_the_cluster_launcher_accepts_aws() -> None:
    pytest.importorskip("jsonschema")
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = documents("aws.yaml")[0]
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="Additional properties"):
        validate_config({**prepare_config(config), "no_such_field": 1})


def test_aws_workers_are_spot_with_roles_and_tokens() -> None:
    config = documents("aws.yaml")[0]
    kinds = config["available_node_types"]
    assert not [
        name for name, kind in kinds.items() if "IamInstanceProfile" not in kind["node_config"]
    ]
    for name in ("cpu", "gpu", "gpu8"):
        assert kinds[name]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in kinds["gpu_on_demand"]["node_config"]
    assert kinds["gpu_on_demand"]["resources"] == kinds["gpu"]["resources"]
    assert [kinds[name]["resources"]["GPU"] for name in ("gpu", "gpu8")] == [1, 8]
    assert {kind.get("min_workers", 0) for kind in kinds.values()} == {0}, "none before a job asks"
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_ray_start_knows_the_options_of_aws() -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    config = documents("aws.yaml")[0]
    for command in [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]:
        assert set(re.findall(r"--[a-z-]+", command)) <= known


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_fields_are_known(name: str) -> None:
    document = documents(name)[0]
    assert document["apiVersion"] == "ray.io/v1"
    own = {"RayJob": JOB_FIELDS, "RayService": SERVICE_FIELDS, "RayCluster": CLUSTER_FIELDS}
    assert set(document["spec"]) <= own[document["kind"]]
    cluster = cluster_of(name)
    assert set(cluster) <= CLUSTER_FIELDS
    assert set(cluster["headGroupSpec"]) <= HEAD_FIELDS
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= WORKER_FIELDS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for pod in pods(name):
        assert set(pod["spec"]) <= POD_FIELDS
    for container in containers(name):
        # No probes: those that KubeRay gives know of its tokens.
        assert set(container) <= CONTAINER_FIELDS
    assert set(cluster.get("autoscalerOptions", {})) <= AUTOSCALER_FIELDS
    assert set(cluster.get("gcsFaultToleranceOptions", {})) <= FAULT_TOLERANCE_FIELDS


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_clusters_are_safe_and_bounded(name: str) -> None:
    cluster = cluster_of(name)
    assert cluster["authOptions"] == {"mode": "token"}
    (policy, account) = documents("networkpolicy.yaml")
    labels = policy["spec"]["podSelector"]["matchLabels"]
    for pod in pods(name):
        assert labels.items() <= pod["metadata"]["labels"].items()
        assert pod["spec"]["serviceAccountName"] == account["metadata"]["name"]
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["runAsNonRoot"]
            limits = container["resources"]["limits"]
            assert {"cpu", "memory", "ephemeral-storage"} <= set(limits)
            # Kubernetes evicts a pod that writes more than it asked for.
            room = volumes["tmp"]["emptyDir"]["sizeLimit"]
            assert int(room.removesuffix("Gi")) < int(
                limits["ephemeral-storage"].removesuffix("Gi")
            )
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert set(mounts.values()) <= set(volumes)
            assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"


@pytest.mark.parametrize("name", ["rayjob-train.yaml", "rayjob-score.yaml"])
def test_retried_jobs_go_on_where_they_ended(name: str) -> None:
    (document,) = documents(name)
    assert document["spec"]["backoffLimit"] > 0
    variables = yaml.safe_load(document["spec"]["runtimeEnvYAML"])["env_vars"]
    assert variables == {jobs.STOPS: "1"}
    needed = {"rayjob-train.yaml": "--resume", "rayjob-score.yaml": "--max-rejected"}[name]
    assert needed in shlex.split(document["spec"]["entrypoint"])


def test_serve_accepts_its_configurations() -> None:
    from ray.serve.schema import ServeDeploySchema

    (alone,) = documents("serve.yaml")
    (service, *_) = documents("rayservice.yaml")
    inside = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert inside == alone, "one application, deployed in two ways"
    parsed = ServeDeploySchema.model_validate(alone)
    module, _, name = parsed.applications[0].import_path.partition(":")
    assert hasattr(importlib.import_module(module), name)
    mounts = {m["mountPath"] for c in containers("rayservice.yaml") for m in c["volumeMounts"]}
    assert str(Path(alone["applications"][0]["args"]["api_keys"]).parent) in mounts


def test_the_service_outlives_its_head() -> None:
    service, *redis = documents("rayservice.yaml")
    options = service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    names = {one["kind"]: one for one in redis}
    host, _, port = options["redisAddress"].partition(":")
    assert host == names["Service"]["metadata"]["name"]
    assert int(port) == names["Service"]["spec"]["ports"][0]["port"]
    pod = names["StatefulSet"]["spec"]["template"]
    assert names["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    assert container["env"][0]["valueFrom"] == options["redisPassword"]["valueFrom"]
    assert "--appendonly yes" in container["command"][-1]


@pytest.mark.parametrize("name", KUBERAY)
def test_a_head_is_large_enough_and_does_no_work(name: str) -> None:
    head = cluster_of(name)["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    (container,) = head["template"]["spec"]["containers"]
    assert container["resources"]["requests"].items() >= {"cpu": "8", "memory": "32Gi"}.items()


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob-train.yaml", "rayjob-score.yaml"])
def test_jobs_ask_for_nodes_and_clusters_begin_without_any(name: str) -> None:
    cluster = cluster_of(name)
    assert cluster["enableInTreeAutoscaling"]
    assert {group["minReplicas"] for group in cluster["workerGroupSpecs"]} == {0}
    calls = [call for file, call in called() if file == name]
    assert calls
    for call in calls:
        assert "--device gpu" in " ".join(call)


def test_a_machine_of_eight_gpus_has_room_for_eight_ranks() -> None:
    for name in ("raycluster.yaml", "rayjob-train.yaml"):
        groups = {group["groupName"]: group for group in cluster_of(name)["workerGroupSpecs"]}
        pod = groups["gpu8"]["template"]["spec"]
        volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 8
        shared = int(volumes["shm"]["sizeLimit"].removesuffix("Gi"))
        store = int(groups["gpu8"]["rayStartParams"]["object-store-memory"])
        assert (shared << 30) - store >= 8 * (4 << 30)
    call = next(call for file, call in called() if file == "rayjob-train.yaml")
    cache = int(call[call.index("--cache-gib") + 1])
    assert cache < int(volumes["tmp"]["sizeLimit"].removesuffix("Gi"))


def test_images_are_installed_from_one_list_of_versions() -> None:
    text = (FOLDER / "constraints.txt").read_text()
    pins = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.+!-]+", pin) for pin in pins)
    versions = dict(pin.split("==") for pin in pins)
    project = tomllib.loads(PYPROJECT)["project"]
    for needed in map(Requirement, project["dependencies"]):
        assert versions[canonicalize_name(needed.name)] in needed.specifier, needed
    assert {"boto3", "nvidia-cudnn-cu12"} <= set(versions)
    for dockerfile in (DOCKERFILE, CHALLENGE):
        assert "--constraint /wheels/constraints.txt" in dockerfile


def test_images_are_the_ones_that_the_dockerfile_builds() -> None:
    built = set(re.findall(r"-t (\S+)", DOCKERFILE))
    assert built == {
        f"ray-brats:{ray_brats.__version__}",
        f"ray-brats:{ray_brats.__version__}-cuda",
    }
    named = {item["image"] for name in KUBERAY for item in containers(name)}
    named.add(documents("aws.yaml")[0]["docker"]["image"])
    for name in ("rayjob-train.yaml", "rayjob-score.yaml"):
        submitter = documents(name)[0]["spec"]["submitterPodTemplate"]["spec"]["containers"][0]
        named.add(submitter["image"])
    assert named <= built


def test_versions_are_those_of_the_package() -> None:
    assert {cluster_of(name)["rayVersion"] for name in KUBERAY} == set(
        re.findall(r'"ray\[.*\]==([\d.]+)"', PYPROJECT)
    )
    (pinned,) = re.findall(r'"(tensorflow)==([\d.]+)"', PYPROJECT)
    for text in (DOCKERFILE, CHALLENGE):
        assert f"tensorflow[and-cuda]=={pinned[1]}" in text


def test_a_challenge_starts_the_same_call_in_both_containers() -> None:
    start, default = (
        json.loads(re.findall(rf"^{word} (\[.*\])$", CHALLENGE, re.MULTILINE)[0])
        for word in ("ENTRYPOINT", "CMD")
    )
    for more in ([], ["--task", "gli-post"], ["--json"]):
        parsed = cli.parse([*start, *default, *more][1:])
        assert parsed.command.name == "score"
        asked = parsed.options
        assert (asked.cohort, asked.predictions, asked.flat) == ("/input", "/output", True)
        assert asked.bundles.bundle == ("/bundle",)
    (run,) = re.findall(r"^ +exec (.*)$", APPTAINER, re.MULTILINE)
    assert shlex.split(run) == [*start, "$@"]
    assert f"set -- {' '.join(default)}" in APPTAINER


@pytest.mark.parametrize(
    ("text", "user", "last"), [(DOCKERFILE, "ray", "CMD"), (CHALLENGE, "brats", "ENTRYPOINT")]
)
def test_the_dockerfiles_are_small_and_not_root(text: str, user: str, last: str) -> None:
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert all(
        base == "${VARIANT}" or re.fullmatch(r"python:3\.\d+-slim-\w+", base) for base in bases
    )
    final = text.rpartition("FROM ")[2]
    assert final.index(f"USER {user}") < final.index(last)
    for source in re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", text, re.MULTILINE):
        default = re.findall(r"^ARG BUNDLE=([^/\s]+)", text, re.MULTILINE)
        for path in source.replace("${BUNDLE}", "".join(default)).split():
            assert (ROOT / path).exists(), path
            ignored = (ROOT / ".dockerignore").read_text()
            assert f"!{path}" in ignored.splitlines(), path


# --- commands, parsed by the real parser without being run --------------------------------


def called() -> Iterator[tuple[str, list[str]]]:
    """Every call of ray-brats or of a job that a file of this folder makes."""
    offered = (
        "check|preprocess|train|export|score|evaluate|submit|show|run|demo|doctor|plan|key|serve"
    )
    for name, text in {**TEXTS, "Dockerfile": DOCKERFILE.replace('", "', " ")}.items():
        for call in re.findall(rf"(?<![\w./])ray-brats ((?:{offered})\b[^#`&|()\"\n]*)", text):
            yield name, shlex.split(call)


CALLS = [pytest.param(call, id=f"{name}: {call[0]}") for name, call in called()]


@pytest.mark.parametrize("call", CALLS)
def test_the_command_line_accepts_each_call(call: list[str]) -> None:
    assert cli.parse(call).command.name == call[0]


def test_the_parser_refuses_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="--no-such-option"):
        cli.parse(["train", "a", "b", "--no-such-option"])
    assert {"train", "score", "run", "doctor"} <= {call[0] for _, call in called()}


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_each_job_is_a_thin_entry_point(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert "ray_brats" in text
    assert f"jobs/{path.name}" in text
