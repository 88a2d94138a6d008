"""The files of examples/cluster: `ray up` accepts one, KubeRay knows the fields of the other, and `loop` accepts the commands of both."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from configs.loading import read_given
from configs.schema import RunConfig
from loop.commands.main import make_parser

PROJECT = Path(__file__).parents[2]
EXAMPLES = PROJECT / "examples" / "cluster"
FIELDS = {
    "RayJob": {"apiVersion", "kind", "metadata", "spec"},
    "RayJobSpec": {
        *("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint", "entrypointNumCpus"),
        *("entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata", "rayClusterSpec", "runtimeEnvYAML"),
        *("shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate", "suspend", "ttlSecondsAfterFinished"),
    },
    "RayClusterSpec": {
        *("authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec"),
        *("headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs"),
    },
    "HeadGroupSpec": {"enableIngress", "headService", "rayStartParams", "serviceType", "template"},
    "WorkerGroupSpec": {
        *("groupName", "idleTimeoutSeconds", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas"),
        *("scaleStrategy", "suspend", "template"),
    },
}
"""The fields of ray.io/v1 in KubeRay's API reference (docs/reference/api.md there; `authOptions` since 1.5.1)."""


def loop_command(words: list[str]) -> RunConfig:
    """The config of a `python -m loop run` command."""
    options = make_parser().parse_args(words[words.index("loop") + 1 :])
    return read_given(options.config, options.settings, name=options.name, num_rounds=options.rounds).resolve()


@pytest.fixture(scope="module")
def job():
    return yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text(encoding="utf-8"))


def test_ray_up_accepts_the_cluster_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((EXAMPLES / "cluster.yaml").read_text(encoding="utf-8"))
    validate_config(prepared := prepare_config(config))
    (kind,) = prepared["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == len(config["provider"]["worker_ips"]) == 2
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert all("/shared/loop/.venv/bin/ray" in command for command in commands) and "RAY_AUTH_MODE=token" in commands[-1]


def test_the_start_commands_are_those_of_ray():
    """Ray's command line knows every option."""
    from ray.scripts.scripts import start

    known = {name for parameter in start.params for name in parameter.opts}
    config = yaml.safe_load((EXAMPLES / "cluster.yaml").read_text(encoding="utf-8"))
    for command in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        options = {word.split("=")[0] for word in shlex.split(command.partition("ray start")[2])}
        assert options and options <= known


def test_kuberay_knows_every_field(job):
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    for part, kind in ((job, "RayJob"), (spec, "RayJobSpec"), (cluster, "RayClusterSpec"), (cluster["headGroupSpec"], "HeadGroupSpec")):
        assert part.keys() <= FIELDS[kind], kind
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() <= FIELDS["WorkerGroupSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # KubeRay refuses numbers there


def test_all_pods_mount_the_storage_that_the_command_uses(job):
    cluster = job["spec"]["rayClusterSpec"]
    config = loop_command(shlex.split(job["spec"]["entrypoint"]))
    paths = [config.base.model, config.data.source, "/shared/runs"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            mounts = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in volumes]
            assert all(any(path.startswith(f"{mount}/") for mount in mounts) for path in paths)


def test_there_is_a_pod_with_a_gpu_for_each_worker(job):
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    runtime = loop_command(shlex.split(job["spec"]["entrypoint"])).runtime
    (container,) = group["template"]["spec"]["containers"]
    assert runtime.address == "auto" and runtime.workers == group["replicas"] == group["minReplicas"]
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1" and container["resources"]["limits"]["cpu"] == str(runtime.threads)


def test_the_version_of_ray_is_the_one_that_is_pinned(job):
    (pinned,) = re.findall(r"^ray==(.*)$", (PROJECT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    page = (PROJECT / "docs" / "cluster.md").read_text(encoding="utf-8")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned
    assert re.findall(r"rayproject/ray:([\d.]+)-", page) == [pinned]


def test_the_command_of_the_page_can_be_typed():
    page = (PROJECT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"(python -m loop run.*?)\n(?!    )", page.replace("\\\n", ""), re.DOTALL)
    assert loop_command(shlex.split(command)).runtime.workers == 2
