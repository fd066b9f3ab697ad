"""What is applied to a cluster fits Kubernetes' schemas and keeps the rules, and each rule refuses what breaks it."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from manifest_rules import RULES, Object, complaints, made_elsewhere, name_of, pods, references
from tools import missing

import casbah
from components.images import image
from pipelines import placement

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
SCHEMAS = ROOT / "tests" / "schemas"
DOCS = ROOT / "docs" / "deployment.md"

KUBERNETES = "1.32"
"""The release whose schemas the objects are held against."""

OVERLAYS = sorted(path.parent.name for path in (MANIFESTS / "overlays").glob("*/kustomization.yaml"))

COMBINATIONS = {
    "minio": ("minio",),
    "kubeflow-store": ("kubeflow-store",),
    "kubeflow-store-endpoint": ("kubeflow-store-endpoint",),
    "mlflow": ("minio", "mlflow"),
    "serving": ("minio", "mlflow", "serving"),
    "tls": ("minio", "mlflow", "serving", "tls"),
    "cert-manager": ("minio", "mlflow", "serving", "tls", "cert-manager"),
    "gpu": ("minio", "mlflow", "serving", "gpu"),
    "mig": ("kubeflow-store", "mlflow", "serving", "gpu", "mig"),
    "trainer": ("kubeflow-store", "mlflow", "trainer"),
    "trainer-v1": ("minio", "mlflow", "trainer-v1"),
    "airgap": ("minio", "mlflow", "serving", "trainer", "airgap"),
}
"""Each component, with the others that it is of no use without."""

BESIDE = {
    "local": "pipeline-namespace",
    "gpu": "pipeline-namespace",
    "airgapped": "pipeline-namespace",
    "kubeflow-store": "pipeline-namespace-kubeflow-store",
}
"""Each overlay of Casbah's own namespace, and the one of the pipeline's that is applied beside it."""

OWN_KINDS = {
    "TrainJob": "trainjob.json",
    "TrainingRuntime": "trainingruntime.json",
    "PyTorchJob": "pytorchjob.json",
    "Certificate": "certificate.json",
}
"""Kinds that Kubernetes does not know itself, and our schema of each."""


def render(directory: Path) -> list[Object]:
    """The objects that `kubectl apply -k` would send."""
    kubectl = shutil.which("kubectl")
    command = [kubectl, "kustomize"] if kubectl else [shutil.which("kustomize") or "", "build"]
    if not command[0]:
        missing("neither kubectl nor kustomize is installed")
    done = subprocess.run([*command, str(directory)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@cache
def _overlay(name: str) -> str:
    return json.dumps(render(MANIFESTS / "overlays" / name))


def overlay(name: str) -> list[Object]:
    """The objects of an overlay."""
    return list(json.loads(_overlay(name)))


def combined(directory: Path, components: Sequence[str], **more: Any) -> list[Object]:
    """The base with components, as an overlay of somebody's own would have them."""
    # Kustomize takes no absolute path.
    there = os.path.relpath(MANIFESTS, directory.resolve())
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "casbah",
        "resources": [f"{there}/base"],
        "components": [f"{there}/components/{name}" for name in components],
        **more,
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return render(directory)


def faults(objects: Sequence[Object]) -> list[str]:
    """What does not fit its schema: an unknown field counts as much as a wrong value."""
    found = []
    for one in objects:
        try:
            if one["kind"] in OWN_KINDS:
                schema = json.loads((SCHEMAS / OWN_KINDS[one["kind"]]).read_text())
                jsonschema.Draft202012Validator(schema).validate(one)
                for pod in pods([one]):
                    inside = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "inside"}, "spec": pod.spec}
                    kubernetes_validate.validate(inside, KUBERNETES, strict=True)
            else:
                kubernetes_validate.validate(one, KUBERNETES, strict=True)
        except jsonschema.ValidationError as error:
            found.append(f"{name_of(one)}: {error.json_path}: {error.message}")
    return found


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("1", "1 failed")])
def test_without_a_kustomize_nothing_is_validated_and_under_ci_that_is_no_success(
    ci: str, outcome: str, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    path = [str(ROOT / "src"), str(ROOT), str(ROOT / "tests")]
    clean = {"PATH": str(tmp_path / "bin"), "PYTHONPATH": os.pathsep.join(path), "CASBAH_CI": ci}
    test = f"{Path(__file__)}::test_an_overlay_fits_the_schemas_and_keeps_the_rules[local]"
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True)
    assert outcome in done.stdout
    assert "neither kubectl nor kustomize is installed" in done.stdout


def test_every_component_is_tried() -> None:
    assert set(COMBINATIONS) == {path.parent.name for path in (MANIFESTS / "components").glob("*/kustomization.yaml")}


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_fits_the_schemas_and_keeps_the_rules(name: str) -> None:
    objects = overlay(name)
    assert faults(objects) == []
    assert complaints(objects) == []


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_component_fits_the_schemas_and_keeps_the_rules(name: str, tmp_path: Path) -> None:
    objects = combined(tmp_path, COMBINATIONS[name])
    assert faults(objects) == []
    assert complaints(objects) == []


def everything(directory: Path) -> list[Object]:
    """All components, the other job of two that exclude each other, and the namespace of the pipeline's pods."""
    objects = combined(directory, ("minio", "mlflow", "serving", "gpu", "tls", "trainer"))
    older = find(combined(directory, COMBINATIONS["trainer-v1"]), "PyTorchJob/casbah-finetune")
    return [*objects, older, *overlay("pipeline-namespace")]


def find(objects: Sequence[Object], name: str) -> Object:
    """The object `Kind/name`."""
    return next(one for one in objects if name_of(one) == name)


def environment(container: Object) -> dict[str, Any]:
    """Value, or reference, by variable."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", [])}


def test_the_pipeline_finds_secrets_and_addresses_under_the_names_that_it_reads(tmp_path: Path) -> None:
    objects = everything(tmp_path)
    maps = [one for one in objects if name_of(one) == f"ConfigMap/{placement.SERVICES_CONFIG}"]
    assert [one["metadata"]["namespace"] for one in maps] == ["casbah", "kubeflow"]
    for one in maps:
        assert set(one["data"]) == set(placement.SERVICES_KEYS)
        assert one["data"] == maps[0]["data"], "both namespaces mean the same services"
    read = {(name, key) for pod in pods(objects) for kind, name, key in references(pod) if kind == "Secret"}
    for secret, keys in (
        (placement.STORE_SECRET, placement.STORE_KEYS),
        (placement.MLFLOW_SECRET, placement.MLFLOW_KEYS),
    ):
        assert {key for name, key in read if name == secret} == set(keys)
        for place in ("casbah", "kubeflow"):
            assert set(keys) <= set(secrets_of_the_example(tmp_path / "bin")[place, secret])


def test_every_overlay_has_one_beside_it() -> None:
    assert {*BESIDE, *BESIDE.values()} == set(OVERLAYS)
    guide = DOCS.read_text()
    for name in (*OVERLAYS, *COMBINATIONS):
        assert f"`{name}`" in guide, f"the guide has no line on {name}"


@pytest.mark.parametrize("name", BESIDE)
def test_pods_of_the_pipeline_and_pods_of_casbah_use_one_store_which_is_there(name: str) -> None:
    objects = overlay(name)
    ours, theirs = (
        find(found, f"ConfigMap/{placement.SERVICES_CONFIG}")["data"] for found in (objects, overlay(BESIDE[name]))
    )
    assert ours == theirs
    host = re.fullmatch(r"http://([\w-]+)\.([\w-]+)\.svc:9000", ours["store-endpoint"])
    assert host is not None
    services = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in objects if one["kind"] == "Service"}
    assert (host[2], host[1]) in services | {("kubeflow", "minio-service")}
    assert (("casbah", "casbah-store") in services) is (host[1] == "casbah-store"), "no store that nobody uses"


def test_a_profile_is_named_once_and_its_account_is_the_one_that_gets_the_rights(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    place = tmp_path / "manifests" / "overlays" / "pipeline-namespace"
    file = place / "kustomization.yaml"
    file.write_text(file.read_text().replace("namespace: kubeflow", "namespace: my-profile"))
    objects = render(place)
    assert {one["metadata"]["namespace"] for one in objects} == {"my-profile"}
    assert complaints(objects) == []
    (subject,) = find(objects, "RoleBinding/casbah-retrain")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "casbah-retrain", "namespace": "my-profile"}


def test_a_training_and_a_step_of_the_pipeline_get_the_same_variables(tmp_path: Path) -> None:
    wanted = {*placement.STORE_KEYS.values(), *placement.MLFLOW_KEYS.values(), *placement.SERVICES_KEYS.values()}
    trainings = [pod for pod in pods(everything(tmp_path)) if pod.labels["app.kubernetes.io/name"] == "casbah-finetune"]
    assert len(trainings) == 3, "a runtime's, a master and a worker"
    for pod in trainings:
        assert set(environment(pod.spec["containers"][0])) >= wanted
        assert pod.spec["nodeSelector"] == placement.GPU_NODE
        assert pod.spec["tolerations"] == [{"key": placement.GPU, "operator": "Exists", "effect": "NoSchedule"}]


def test_what_an_administrator_must_make_stands_in_the_guide_and_in_the_example(tmp_path: Path) -> None:
    guide, example = DOCS.read_text(), secrets_of_the_example(tmp_path / "bin")
    wanted = made_elsewhere(everything(tmp_path))
    assert {kind for kind, _, _ in wanted} == {"Secret"}, "every ConfigMap is made here"
    for _, name, key in sorted(wanted):
        assert f"`{name}`" in guide, name
        assert f"`{key}`" in guide, f"{name} {key}"
        if name != "casbah-tls":
            assert key in example["casbah", name], f"{name} {key}"


def test_the_example_of_secrets_draws_its_values_and_shows_them_on_no_command_line(tmp_path: Path) -> None:
    made = secrets_of_the_example(tmp_path)
    names = {"accesskey", "username", "root-user"}
    values = [value for keys in made.values() for key, value in keys.items() if key not in names]
    assert len(set(values)) == len(values) - 2, "two are the same in both namespaces, and no other is"
    assert made["casbah", "casbah-store"] == made["kubeflow", "casbah-store"]
    assert made["casbah", "casbah-mlflow"] == made["kubeflow", "casbah-mlflow"]
    assert min(map(len, values)) >= 32
    said = (tmp_path / "asked").read_text() + (MANIFESTS / "secrets.example").read_text()
    assert not [value for value in values if value in said]


def secrets_of_the_example(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Namespace and name -> keys and values, as the script hands them to kubectl."""
    folder.mkdir(exist_ok=True)
    kubectl = folder / "kubectl"
    kubectl.write_text(
        '#!/bin/sh\necho "$@" >> "$(dirname "$0")/asked"\n'
        'test "$7" = --from-env-file=/dev/stdin || exit 1\n{ echo "# $6 $4"; cat; } >> "$(dirname "$0")/given"\n'
    )
    kubectl.chmod(0o755)
    (folder / "given").unlink(missing_ok=True)
    clean = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run(["bash", str(MANIFESTS / "secrets.example")], check=True, env=clean)
    made: dict[tuple[str, str], dict[str, str]] = {}
    for line in (folder / "given").read_text().splitlines():
        if line.startswith("# "):
            namespace, _, name = line.removeprefix("# ").partition(" ")
            found = made.setdefault((namespace, name), {})
        else:
            key, _, value = line.partition("=")
            found[key] = value
    return made


def test_the_password_of_the_database_is_read_from_the_environment(tmp_path: Path) -> None:
    psql = tmp_path / "psql"
    psql.write_text('#!/bin/sh\necho "$@"\ncat\n')
    psql.chmod(0o755)
    script = MANIFESTS / "components" / "mlflow" / "databases.sh"
    clean = {"PATH": f"{tmp_path}:/usr/bin:/bin", "POSTGRES_USER": "postgres", "MLFLOW_PASSWORD": "very secret"}
    done = subprocess.run(["sh", str(script)], env=clean, capture_output=True, text=True, check=True)
    assert "very secret" not in done.stdout
    assert "\\getenv password MLFLOW_PASSWORD\nCREATE ROLE mlflow LOGIN PASSWORD :'password';" in done.stdout


@pytest.mark.parametrize("name", OVERLAYS)
def test_our_images_are_those_of_the_pipeline(name: str) -> None:
    for pod in pods(overlay(name)):
        for container in pod.containers:
            if found := re.search(r"casbah-([a-z]+):", container["image"]):
                assert container["image"].endswith(image(found[1]).rpartition("/")[2])
                assert container["image"].endswith(f":{casbah.__version__}")


def test_mlflow_is_the_one_that_casbah_is_tested_with(tmp_path: Path) -> None:
    pinned = re.search(r"^mlflow==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    objects = everything(tmp_path)
    images = {c["image"] for pod in pods(objects) for c in pod.containers if "/mlflow/" in c["image"]}
    assert images == {f"ghcr.io/mlflow/mlflow:v{pinned[1]}-full"}
    assert find(objects, f"Job/casbah-mlflow-migrate-{pinned[1].replace('.', '-')}"), "a new version is a new Job"


def test_mlflow_asks_for_a_user_and_knows_the_names_by_which_it_is_called(tmp_path: Path) -> None:
    objects = everything(tmp_path)
    server = find(objects, "Deployment/casbah-mlflow")["spec"]["template"]["spec"]["containers"][0]
    assert "--app-name=basic-auth" in server["args"]
    assert "secretKeyRef" in environment(server)["MLFLOW_AUTH_ADMIN_PASSWORD"]
    hosts = find(objects, "ConfigMap/casbah-mlflow")["data"]["allowed-hosts"].split(",")
    address = find(objects, "ConfigMap/casbah-services")["data"]["mlflow-tracking-uri"]
    assert address.removeprefix("http://") in hosts
    assert "mlflow.casbah.example" in hosts
    assert "*" not in hosts


def test_serving_reads_the_champion_with_a_user_who_can_change_nothing_of_ours(tmp_path: Path) -> None:
    objects = everything(tmp_path)
    serve = find(objects, "Deployment/casbah-serve")["spec"]["template"]["spec"]["containers"][0]
    assert environment(serve)["MODEL_URI"] == "models:/casbah-buildings@champion"
    assert environment(serve)["MLFLOW_TRACKING_PASSWORD"]["secretKeyRef"]["name"] == "casbah-mlflow-reader"
    assert environment(serve)["MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"] == "false", "no policy lets it to the store"
    assert find(objects, "ConfigMap/casbah-mlflow")["data"]["basic_auth.ini"].count("default_permission = READ") == 1
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert serve[probe]["httpGet"] == {"path": "/health", "port": "http"}


def test_a_training_says_its_numbers_of_gpus_and_nodes_once_and_the_same(tmp_path: Path) -> None:
    objects = everything(tmp_path)
    old, new = find(objects, "PyTorchJob/casbah-finetune")["spec"], find(objects, "TrainJob/casbah-finetune")["spec"]
    runtime = find(objects, f"{new['runtimeRef']['kind']}/{new['runtimeRef']['name']}")
    (node,) = (pod.spec["containers"][0] for pod in pods([runtime]))
    master, worker = (pod.spec["containers"][0] for pod in pods([find(objects, "PyTorchJob/casbah-finetune")]))
    replicas = sum(role["replicas"] for role in old["pytorchReplicaSpecs"].values())
    for command, arguments, processes, nodes, containers in (
        (new["trainer"]["command"], new["trainer"]["args"], new["trainer"]["numProcPerNode"],
         new["trainer"]["numNodes"], [node]),
        (master["command"], master["args"], int(old["nprocPerNode"]), replicas, [master, worker]),
        (worker["command"], worker["args"], int(old["nprocPerNode"]), replicas, [master, worker]),
    ):  # fmt: skip
        assert command == ["torchrun", "--no-python", "casbah", "finetune"]
        assert f"--set=trainer.devices={processes}" in arguments
        assert f"--set=trainer.num_nodes={nodes}" in arguments
        assert "--set=trainer.strategy=ddp" in arguments
        for container in containers:
            assert container["resources"]["limits"]["nvidia.com/gpu"] == str(processes)
    assert new["suspend"] is True
    assert old["runPolicy"]["suspend"] is True
    assert new["trainer"]["args"] == master["args"], "one command, whoever starts it"


def test_the_command_of_a_training_is_one_that_casbah_knows(tmp_path: Path) -> None:
    from typer.main import get_command

    from casbah.cli import finetune
    from casbah.cli.root import app
    from casbah.finetune import experiment

    assert finetune
    command = get_command(app).commands["finetune"]  # type: ignore[attr-defined]
    arguments = find(everything(tmp_path), "TrainJob/casbah-finetune")["spec"]["trainer"]["args"]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {argument.partition("=")[0] for argument in arguments} <= known
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument and "--set" not in argument)
    settings = [argument.removeprefix("--set=") for argument in arguments if argument.startswith("--set=")]
    read = experiment.read(given["--config"], settings)
    assert (read.settings["trainer"]["devices"], read.settings["trainer"]["num_nodes"]) == (2, 2)


def test_a_slice_of_a_gpu_takes_the_place_of_the_whole_one(tmp_path: Path) -> None:
    objects = combined(tmp_path, COMBINATIONS["mig"])
    (pod,) = (pod for pod in pods(objects) if pod.labels["app.kubernetes.io/name"] == "casbah-serve")
    limits = pod.spec["containers"][0]["resources"]["limits"]
    assert [name for name in limits if name.startswith("nvidia.com/")] == ["nvidia.com/mig-1g.10gb"]
    named = [path for path in (MANIFESTS / "components").rglob("*.yaml") if "mig-1g.10gb" in path.read_text()]
    assert named == [MANIFESTS / "components" / "mig" / "slice.yaml"], "the resource is named in one place"


def test_serving_on_a_gpu_has_its_node_its_toleration_and_shared_memory() -> None:
    (pod,) = (pod for pod in pods(overlay("gpu")) if pod.labels["app.kubernetes.io/name"] == "casbah-serve")
    assert pod.spec["containers"][0]["resources"]["limits"][placement.GPU] == "1"
    assert pod.spec["nodeSelector"] == placement.GPU_NODE
    assert pod.spec["tolerations"] == [{"key": placement.GPU, "operator": "Exists", "effect": "NoSchedule"}]
    assert "/dev/shm" in [mount["mountPath"] for mount in pod.spec["containers"][0]["volumeMounts"]]
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}} in pod.spec["volumes"]


def test_without_the_internet_every_image_is_mirrored_and_nothing_looks_for_a_hub() -> None:
    objects = overlay("airgapped")
    for pod in pods(objects):
        for container in pod.containers:
            assert container["image"].startswith("registry.casbah.example/"), container["image"]
            if re.search(r"casbah-(serve|finetune):", container["image"]):
                assert environment(container)["HF_HUB_OFFLINE"] == "1"
    assert "ipBlock" not in json.dumps(objects), "no policy lets a pod out of the cluster"
    assert "casbah-finetune-hub" in json.dumps(overlay("gpu"))


def test_the_store_of_kubeflow_is_reached_by_its_own_name_and_past_its_own_policy(tmp_path: Path) -> None:
    objects = combined(tmp_path, COMBINATIONS["kubeflow-store"])
    address = find(objects, "ConfigMap/casbah-services")["data"]["store-endpoint"]
    assert address == "http://minio-service.kubeflow.svc:9000"
    labels = find(objects, "Namespace/casbah")["metadata"]["labels"]
    assert labels["app.kubernetes.io/part-of"] == "kubeflow-profile"
    assert not [one for one in objects if one["kind"] in ("StatefulSet", "Service")]


def test_unfinished_uploads_end_after_a_week_in_either_store(tmp_path: Path) -> None:
    theirs, ours = (combined(tmp_path, COMBINATIONS[name]) for name in ("kubeflow-store", "minio"))
    assert find(theirs, "ConfigMap/casbah-store-expiry")["data"]["uploads-days"] == "7"
    assert find(ours, "ConfigMap/casbah-store-expiry")["data"]["uploads-days"] == "0", "MinIO refuses the rule"
    server = find(ours, "StatefulSet/casbah-store")["spec"]["template"]["spec"]["containers"][0]
    assert environment(server)["MINIO_API_STALE_UPLOADS_EXPIRY"] == f"{7 * 24}h"
    for objects in (theirs, ours):
        data = find(objects, "ConfigMap/casbah-store-expiry")["data"]
        assert (data["checkpoints-days"], data["kfp-artifacts-days"]) == ("30", "0")


class FakeAdmin:
    """MinIO's administration, which says so where a user has a policy already."""

    def __init__(self, complaint: str) -> None:
        self.complaint = complaint
        self.policies: dict[str, Any] = {}
        self.users: dict[str, str] = {}

    def policy_add(self, name: str, *, policy: Object) -> None:
        self.policies[name] = policy

    def user_add(self, name: str, password: str) -> None:
        self.users[name] = password

    def attach_policy(self, names: Sequence[str], *, user: str) -> None:
        from minio.error import MinioAdminException

        assert set(names) <= set(self.policies)
        assert user in self.users
        raise MinioAdminException("400", json.dumps({"Code": self.complaint}))


def test_each_user_of_minio_has_one_bucket_and_the_job_may_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from minio.error import MinioAdminException

    script = runpy.run_path(str(MANIFESTS / "setup" / "setup.py"))
    for name in ("PIPELINES", "MLFLOW"):
        monkeypatch.setenv(f"{name}_ACCESS_KEY", name.lower())
        monkeypatch.setenv(f"{name}_SECRET_KEY", f"word of {name.lower()}")
    admin = FakeAdmin("XMinioAdminPolicyChangeAlreadyApplied")
    script["users"](admin)
    assert admin.users == {"pipelines": "word of pipelines", "mlflow": "word of mlflow"}
    for bucket, policy in (("casbah", "casbah-pipelines"), ("mlflow", "casbah-mlflow")):
        for statement in admin.policies[policy]["Statement"]:
            assert statement["Resource"] in ([f"arn:aws:s3:::{bucket}"], [f"arn:aws:s3:::{bucket}/*"])
            assert not [action for action in statement["Action"] if "*" in action]
    with pytest.raises(MinioAdminException):
        script["users"](FakeAdmin("XMinioAdminNoSuchPolicy"))


def test_the_guide_names_every_job_that_stands_in_the_way_of_another_image(tmp_path: Path) -> None:
    (command,) = re.findall(r"^kubectl -n casbah delete job --ignore-not-found (.*)$", DOCS.read_text(), re.MULTILINE)
    jobs = {one["metadata"]["name"] for one in everything(tmp_path) if one["kind"] == "Job"}
    assert set(command.split()) == jobs


def test_nobody_can_reach_the_database_but_mlflow_and_its_migration(tmp_path: Path) -> None:
    clients = {
        pod.labels["app.kubernetes.io/name"]
        for pod in pods(everything(tmp_path))
        if pod.labels.get("casbah.io/database") == "client"
    }
    assert clients == {"casbah-mlflow", "casbah-mlflow-migrate"}


def good() -> list[Object]:
    """A small deployment that keeps every rule."""
    labels = {"app.kubernetes.io/name": "good"}
    metadata = {"name": "good", "namespace": "casbah"}
    container = {
        "name": "good",
        "image": "ghcr.io/casbah/casbah-serve:1.0.0",
        "env": [
            {"name": "STORE_KEY", "valueFrom": {"secretKeyRef": {"name": "elsewhere", "key": "key"}}},
            {"name": "ADDRESS", "valueFrom": {"configMapKeyRef": {"name": "good", "key": "address"}}},
        ],
        "ports": [{"name": "http", "containerPort": 8080}],
        "livenessProbe": {"httpGet": {"path": "/health", "port": "http"}},
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}},
        "resources": {
            "requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"},
            "limits": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    pod = {
        "serviceAccountName": "good",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
    }
    backend = {"service": {"name": "good", "port": {"name": "http"}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    rbac = "rbac.authorization.k8s.io"
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "casbah", "labels": enforced}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "automountServiceAccountToken": False},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"address": "http://store:9000"}},
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        },
        {
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata,
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}},
        },
        {
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata,
            "spec": {
                "tls": [{"hosts": ["good.example"], "secretName": "good-tls"}],
                "rules": [{"host": "good.example", "http": {"paths": paths}}],
            },
        },
        {
            **policy, "metadata": {"name": "deny", "namespace": "casbah"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        },
        {
            **policy, "metadata": metadata,
            "spec": {
                "podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": 8080}]}],
            },
        },
        {
            "apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata,
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
        },
        {
            "apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "good"},
            "subjects": [{"apiGroup": rbac, "kind": "Group", "name": "good"}],
        },
    ]  # fmt: skip


def test_what_keeps_every_rule_is_let_through() -> None:
    objects = good()
    assert faults(objects) == []
    assert complaints(objects) == []
    assert made_elsewhere(objects) == {("Secret", "elsewhere", "key"), ("Secret", "good-tls", "tls.crt")}


Breakage = Callable[[dict[str, Object]], object]


def _pod(found: dict[str, Object]) -> Object:
    spec: Object = found["Deployment"]["spec"]["template"]["spec"]
    return spec


def _container(found: dict[str, Object]) -> Object:
    container: Object = _pod(found)["containers"][0]
    return container


def _sidecar(found: dict[str, Object]) -> None:
    """An init container is a container too."""
    bare = {"name": "bare", "image": "busybox"}
    _pod(found)["initContainers"] = [bare]


BREAKAGES: list[tuple[str, str, Breakage]] = [
    ("runs_as_nobody_special", "non-root", lambda f: _pod(f)["securityContext"].pop("runAsNonRoot")),
    ("runs_as_nobody_special", "user", lambda f: _pod(f)["securityContext"].update(runAsUser=0)),
    ("runs_as_nobody_special", "overruled", lambda f: _container(f)["securityContext"].update(runAsNonRoot=False)),
    ("gains_nothing", "escalation", lambda f: _container(f)["securityContext"].pop("allowPrivilegeEscalation")),
    ("gains_nothing", "capabilities", lambda f: _container(f)["securityContext"].pop("capabilities")),
    ("gains_nothing", "added", lambda f: _container(f)["securityContext"]["capabilities"].update(add=["NET_ADMIN"])),
    ("gains_nothing", "privileged", lambda f: _container(f)["securityContext"].update(privileged=True)),
    ("gains_nothing", "network", lambda f: _pod(f).update(hostNetwork=True)),
    ("gains_nothing", "path", lambda f: _pod(f)["volumes"].append({"name": "a", "hostPath": {"path": "/"}})),
    ("gains_nothing", "init", _sidecar),
    ("is_confined", "seccomp", lambda f: _pod(f)["securityContext"].pop("seccompProfile")),
    ("is_confined", "unconfined", lambda f: _pod(f)["securityContext"]["seccompProfile"].update(type="Unconfined")),
    ("writes_where_it_may", "root", lambda f: _container(f)["securityContext"].pop("readOnlyRootFilesystem")),
    ("writes_where_it_may", "size", lambda f: _pod(f)["volumes"][0]["emptyDir"].pop("sizeLimit")),
    ("has_limits", "cpu", lambda f: _container(f)["resources"]["limits"].pop("cpu")),
    ("has_limits", "disk", lambda f: _container(f)["resources"]["limits"].pop("ephemeral-storage")),
    ("has_limits", "requests", lambda f: _container(f)["resources"].pop("requests")),
    ("has_limits", "init", _sidecar),
    ("is_probed", "liveness", lambda f: _container(f).pop("livenessProbe")),
    ("is_probed", "readiness", lambda f: _container(f).pop("readinessProbe")),
    ("has_pinned_images", "latest", lambda f: _container(f).update(image="ghcr.io/casbah/casbah-serve:latest")),
    ("has_pinned_images", "none", lambda f: _container(f).update(image="ghcr.io/casbah/casbah-serve")),
    ("has_pinned_images", "port", lambda f: _container(f).update(image="registry.example:5000/casbah-serve")),
    ("has_pinned_images", "moving", lambda f: _container(f).update(image="postgres:bookworm")),
    ("has_pinned_images", "init", _sidecar),
    ("has_an_account_without_token", "token", lambda f: _pod(f).pop("automountServiceAccountToken")),
    ("has_an_account_without_token", "account", lambda f: _pod(f).pop("serviceAccountName")),
    ("has_an_account_without_token", "its", lambda f: f["ServiceAccount"].pop("automountServiceAccountToken")),
    ("holds_no_secret", "literal", lambda f: _container(f)["env"].append({"name": "AWS_SECRET", "value": "a"})),
    ("holds_no_secret", "key", lambda f: _container(f)["env"].append({"name": "ACCESS_KEY_ID", "value": "a"})),
    ("holds_no_secret", "token", lambda f: _container(f)["env"].append({"name": "HF_TOKEN", "value": "a"})),
    ("holds_no_secret", "password", lambda f: _container(f)["env"].append({"name": "PGPASSWORD", "value": ""})),
    ("holds_no_secret", "data", lambda f: f["Role"].update(kind="Secret", data={"a": "YQ=="})),
    ("holds_no_secret", "stringData", lambda f: f["Role"].update(kind="Secret", stringData={"a": "a"})),
    ("holds_no_secret", "map", lambda f: f["ConfigMap"]["data"].update(password="a")),
    ("holds_no_secret", "address", lambda f: f["ConfigMap"]["data"].update(address="https://me:word@mlflow")),
    ("is_closed_by_default", "deny", lambda f: f["deny"]["spec"]["policyTypes"].remove("Egress")),
    ("is_closed_by_default", "allow", lambda f: f["deny"]["spec"].update(ingress=[{}])),
    ("is_closed_by_default", "own", lambda f: f["NetworkPolicy"]["spec"]["podSelector"].update(matchLabels={"a": "b"})),
    ("is_closed_by_default", "ports", lambda f: f["NetworkPolicy"]["spec"]["ingress"][0].pop("ports")),
    ("is_closed_by_default", "everybody", lambda f: f["NetworkPolicy"]["spec"]["ingress"][0].pop("from")),
    ("makes_way", "stays", lambda f: f["Deployment"].update(kind="Job")),
    ("meets_its_pods", "selector", lambda f: f["Service"]["spec"].update(selector={"app": "other"})),
    ("meets_its_pods", "port", lambda f: f["Service"]["spec"]["ports"][0].update(targetPort="grpc")),
    ("meets_its_pods", "budget", lambda f: f["PodDisruptionBudget"]["spec"]["selector"].update(matchLabels={"a": "b"})),
    ("meets_its_pods", "ingress", lambda f: f["Service"]["metadata"].update(name="other")),
    ("is_encrypted", "tls", lambda f: f["Ingress"]["spec"].pop("tls")),
    ("is_encrypted", "host", lambda f: f["Ingress"]["spec"]["rules"][0].update(host="other.example")),
    ("is_encrypted", "open", lambda f: f["Service"]["spec"].update(type="NodePort")),
    ("grants_little", "star", lambda f: f["Role"]["rules"][0].update(verbs=["*"])),
    ("grants_little", "secrets", lambda f: f["Role"]["rules"][0].update(resources=["secrets"])),
    ("grants_little", "pods", lambda f: f["Role"]["rules"][0].update(resources=["trainjobs"], verbs=["create"])),
    ("grants_little", "cluster", lambda f: f["Role"].update(kind="ClusterRole")),
    ("grants_little", "binding", lambda f: f["RoleBinding"]["roleRef"].update(name="cluster-admin")),
    ("grants_little", "account", lambda f: f["RoleBinding"]["subjects"].append(
        {"kind": "ServiceAccount", "name": "good", "namespace": "elsewhere"})),
    ("lives_where_the_standard_is_enforced", "label", lambda f: f["Namespace"]["metadata"].pop("labels")),
    ("lives_where_the_standard_is_enforced", "place", lambda f: f["Deployment"]["metadata"].pop("namespace")),
    ("finds_what_it_mounts", "key", lambda f: f["ConfigMap"]["data"].pop("address")),
    ("finds_what_it_mounts", "volume", lambda f: _pod(f).pop("volumes")),
    ("finds_what_it_mounts", "claim", lambda f: _pod(f)["volumes"].append(
        {"name": "a", "persistentVolumeClaim": {"claimName": "nobodys"}})),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "part", "damage"), BREAKAGES, ids=[f"{rule}-{part}" for rule, part, _ in BREAKAGES])
def test_a_rule_refuses_what_breaks_it(rule: str, part: str, damage: Breakage) -> None:
    objects = good()
    found = {one["kind"]: one for one in objects} | {one["metadata"]["name"]: one for one in objects[7:8]}
    damage(found)
    assert list(RULES[rule](objects)), f"{rule} does not see {part}"


def test_every_rule_is_broken_once() -> None:
    assert {rule for rule, _, _ in BREAKAGES} == set(RULES)


def test_a_label_selector_is_read_as_kubernetes_reads_it() -> None:
    from manifest_rules import selects

    labels = {"app": "seaweedfs"}
    assert selects({}, labels), "an empty one selects all"
    for operator, values, expected in (
        ("In", ["seaweedfs", "minio"], True),
        ("In", ["minio"], False),
        ("NotIn", ["minio"], True),
        ("Exists", [], True),
        ("DoesNotExist", [], False),
    ):
        term = {"key": "app", "operator": operator, "values": values}
        assert selects({"matchExpressions": [term]}, labels) is expected, operator


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("Deployment/casbah-serve", ("spec", "replica"), 1),
        ("Deployment/casbah-serve", ("spec", "template", "spec", "containers", 0, "readynessProbe"), {}),
        ("Deployment/casbah-serve", ("spec", "replicas"), "two"),
        ("StatefulSet/casbah-store", ("spec", "serviceNam"), "a"),
        ("NetworkPolicy/casbah-dns", ("spec", "egres"), []),
        ("Ingress/casbah", ("spec", "rules", 0, "hots"), "a"),
        ("TrainJob/casbah-finetune", ("spec", "trainer", "numProcPerNode"), "auto"),
        ("TrainJob/casbah-finetune", ("spec", "podTemplateOverrides"), []),
        ("TrainingRuntime/casbah-finetune", ("spec", "mlPolicy", "numNode"), 2),
        ("TrainingRuntime/casbah-finetune", ("spec", "template", "spec", "replicatedJobs", 0, "name"), "worker"),
        (
            "TrainingRuntime/casbah-finetune",
            ("spec", "template", "spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "nodeSelectors"),
            {},
        ),
        ("PyTorchJob/casbah-finetune", ("spec", "nprocPerNode"), 2),
        ("PyTorchJob/casbah-finetune", ("spec", "pytorchReplicaSpecs", "Master", "replicas"), 2),
        ("PyTorchJob/casbah-finetune", ("spec", "pytorchReplicaSpecs", "Worker", "template", "spec", "volume"), []),
        ("Certificate/casbah-tls", ("spec", "dnsName"), "a"),
        ("Certificate/casbah-tls", ("spec", "issuerRef", "kind"), "Issuers"),
    ],
)
def test_a_field_that_no_schema_knows_is_refused(
    name: str, path: tuple[str | int, ...], value: object, tmp_path: Path
) -> None:
    training = "trainer-v1" if name.startswith("PyTorchJob") else "trainer"
    one = find(combined(tmp_path, ("minio", "mlflow", "serving", "tls", "cert-manager", training)), name)
    assert faults([one]) == []
    place: Any = one
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert len(faults([one])) == 1
