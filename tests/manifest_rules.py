"""What every object of manifests/ must keep to. A rule takes the objects of one rendering and yields complaints."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
Rule = Callable[[Sequence[Object]], Iterator[str]]

LONG_RUNNING = {"Deployment", "StatefulSet", "DaemonSet"}
RESOURCES = ("cpu", "memory", "ephemeral-storage")
SECRETIVE = re.compile(r"KEY|PASSWORD|SECRET|TOKEN|CREDENTIAL", re.IGNORECASE)
IMAGE = re.compile(r"^(?P<name>[^:@\s]+(?::\d+/[^:@\s]+)?)(?::(?P<tag>[\w.-]+))?(?:@sha256:(?P<digest>[0-9a-f]{64}))?$")
STARTS_PODS = {
    "pods", "replicationcontrollers", "replicasets", "deployments", "statefulsets", "daemonsets", "jobs", "cronjobs",
    "trainjobs", "trainingruntimes", "clustertrainingruntimes", "pytorchjobs",
}  # fmt: skip
"""Kinds whose pods can be given any Secret of their namespace by whoever makes or changes them."""

REACHES_SECRETS = "casbah.io/reaches-secrets"
"""The annotation by which a role says that it leads to Secrets without naming them."""

PASSWORD_IN_ADDRESS = re.compile(r"[a-z][a-z0-9+]*://[^\s/@:]+:[^\s/@]+@")


@dataclass(frozen=True)
class Pod:
    """A pod that an object makes."""

    where: str
    kind: str
    namespace: str
    labels: Mapping[str, str]
    spec: Object
    template: Object

    @property
    def containers(self) -> list[Object]:
        """Init containers too."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def name_of(one: Object) -> str:
    """`Deployment/casbah-serve`."""
    return f"{one['kind']}/{one['metadata']['name']}"


def namespace_of(one: Object) -> str:
    """The namespace that an object names, else `default`, which none of ours may be in."""
    return str(one["metadata"].get("namespace", "default"))


def pods(objects: Sequence[Object]) -> Iterator[Pod]:
    """The pods of every workload, those of Kubeflow's training kinds too."""
    for one in objects:
        for part, template in _templates(one):
            labels = template.get("metadata", {}).get("labels", {})
            where = f"{name_of(one)}{part}"
            yield Pod(where, one["kind"], namespace_of(one), labels, template["spec"], template)


def _templates(one: Object) -> Iterator[tuple[str, Object]]:
    kind = one["kind"]
    if kind in LONG_RUNNING | {"Job", "ReplicaSet"}:
        yield "", one["spec"]["template"]
    elif kind == "CronJob":
        yield "", one["spec"]["jobTemplate"]["spec"]["template"]
    elif kind == "Pod":
        yield "", one
    elif kind == "PyTorchJob":
        for role, replicas in one["spec"]["pytorchReplicaSpecs"].items():
            yield f"[{role}]", replicas["template"]
    elif kind in ("TrainingRuntime", "ClusterTrainingRuntime"):
        for job in one["spec"]["template"]["spec"]["replicatedJobs"]:
            yield f"[{job['name']}]", job["template"]["spec"]["template"]


def runs_as_nobody_special(objects: Sequence[Object]) -> Iterator[str]:
    """No container runs as root."""
    for pod in pods(objects):
        outer = pod.spec.get("securityContext", {})
        for container in pod.containers:
            inner = container.get("securityContext", {})
            if not inner.get("runAsNonRoot", outer.get("runAsNonRoot", False)):
                yield f"{pod.where}: {container['name']} may run as root"
            if not inner.get("runAsUser", outer.get("runAsUser", 0)):
                yield f"{pod.where}: {container['name']} names no user, so its image decides"


def gains_nothing(objects: Sequence[Object]) -> Iterator[str]:
    """No container has or gains a privilege, and none sees its node."""
    for pod in pods(objects):
        for word in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(word):
                yield f"{pod.where}: {word}"
        for volume in pod.spec.get("volumes", []):
            if "hostPath" in volume:
                yield f"{pod.where}: the volume {volume['name']} is a directory of the node"
        for container in pod.containers:
            context, where = container.get("securityContext", {}), f"{pod.where}: {container['name']}"
            if context.get("privileged"):
                yield f"{where} is privileged"
            if context.get("allowPrivilegeEscalation") is not False:
                yield f"{where} may gain privileges"
            capabilities = context.get("capabilities", {})
            if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
                yield f"{where} keeps capabilities"


def is_confined(objects: Sequence[Object]) -> Iterator[str]:
    """The container engine's own filter of system calls is on."""
    for pod in pods(objects):
        outer = pod.spec.get("securityContext", {}).get("seccompProfile")
        for container in pod.containers:
            profile = container.get("securityContext", {}).get("seccompProfile", outer) or {}
            if profile.get("type") != "RuntimeDefault":
                yield f"{pod.where}: {container['name']} has no seccomp profile"


def writes_where_it_may(objects: Sequence[Object]) -> Iterator[str]:
    """The root file system is read-only, and what lies beside it on the node has a size."""
    for pod in pods(objects):
        for container in pod.containers:
            if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
                yield f"{pod.where}: {container['name']} can write to its root file system"
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{pod.where}: the volume {volume['name']} has no size"


def has_limits(objects: Sequence[Object]) -> Iterator[str]:
    """Requests and limits of processor, memory and the node's disk."""
    for pod in pods(objects):
        for container in pod.containers:
            for kind in ("requests", "limits"):
                given = container.get("resources", {}).get(kind, {})
                if missing := [resource for resource in RESOURCES if resource not in given]:
                    yield f"{pod.where}: {container['name']} has no {kind} of {', '.join(missing)}"


def is_probed(objects: Sequence[Object]) -> Iterator[str]:
    """What runs for ever says whether it lives and whether it is ready."""
    for pod in pods(objects):
        if pod.kind not in LONG_RUNNING:
            continue
        for container in pod.spec["containers"]:
            for probe in ("livenessProbe", "readinessProbe"):
                if probe not in container:
                    yield f"{pod.where}: {container['name']} has no {probe}"


def has_pinned_images(objects: Sequence[Object]) -> Iterator[str]:
    """An image has a tag that says a version, or a digest."""
    for pod in pods(objects):
        for container in pod.containers:
            image = str(container.get("image", ""))
            found = IMAGE.match(image)
            if found is None or not (found["tag"] or found["digest"]):
                yield f"{pod.where}: {container['name']} has the image {image!r} without a version"
            elif not found["digest"] and not re.search(r"\d", found["tag"]):
                yield f"{pod.where}: {container['name']} has the image {image!r}, whose tag moves"


def has_an_account_without_token(objects: Sequence[Object]) -> Iterator[str]:
    """A workload has an account of its own, made here, and no token of it."""
    accounts = {(namespace_of(one), one["metadata"]["name"]) for one in objects if one["kind"] == "ServiceAccount"}
    for one in objects:
        if one["kind"] == "ServiceAccount" and one.get("automountServiceAccountToken") is not False:
            yield f"{name_of(one)} hands its token to pods"
    for pod in pods(objects):
        account = pod.spec.get("serviceAccountName")
        if (pod.namespace, account) not in accounts:
            yield f"{pod.where} runs as {account}, an account that is not made here"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.where} mounts a token"


def holds_no_secret(objects: Sequence[Object]) -> Iterator[str]:
    """Secrets are named and never written down."""
    for one in objects:
        if one["kind"] == "Secret" and (one.get("data") or one.get("stringData")):
            yield f"{name_of(one)} has values"
        if one["kind"] == "ConfigMap":
            for key in one.get("data", {}):
                if SECRETIVE.search(key):
                    yield f"{name_of(one)} has the key {key}, which is a Secret's"
        for text in _texts(one):
            if PASSWORD_IN_ADDRESS.search(text):
                yield f"{name_of(one)} has an address with a password"
    for pod in pods(objects):
        for container in pod.containers:
            yield from _written_down(f"{pod.where}: {container['name']}", container.get("env", []))
    for one in objects:
        if one["kind"] == "TrainJob":
            yield from _written_down(name_of(one), one["spec"].get("trainer", {}).get("env", []))


def _written_down(where: str, environment: Sequence[Object]) -> Iterator[str]:
    for variable in environment:
        if SECRETIVE.search(variable["name"]) and "value" in variable:
            yield f"{where} has {variable['name']} written down"


def _texts(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for value in part.values():
            yield from _texts(value)
    elif isinstance(part, list):
        for value in part:
            yield from _texts(value)


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects what has these labels."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions", []):
        there, operator = labels.get(term["key"]), term["operator"]
        fits = {
            "In": there in term.get("values", []),
            "NotIn": there not in term.get("values", []),
            "Exists": there is not None,
            "DoesNotExist": there is None,
        }
        if not fits[operator]:
            return False
    return True


def is_closed_by_default(objects: Sequence[Object]) -> Iterator[str]:
    """Nothing may in or out of a namespace but what a policy of the pod itself lets."""
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    for pod in pods(objects):
        here = [one["spec"] for one in policies if namespace_of(one) == pod.namespace]
        for direction in ("Ingress", "Egress"):
            if not any(
                not spec["podSelector"] and direction in spec["policyTypes"] and not spec.get(direction.lower())
                for spec in here
            ):
                yield f"{pod.where}: no policy denies {direction} by default in {pod.namespace}"
        if not any(spec["podSelector"] and selects(spec["podSelector"], pod.labels) for spec in here):
            yield f"{pod.where}: no policy is its own"
    for one in policies:
        for direction, peer in (("ingress", "from"), ("egress", "to")):
            for term in one["spec"].get(direction, []):
                if not term.get(peer) or not term.get("ports"):
                    yield f"{name_of(one)} opens {direction} to everybody, or on every port"


def makes_way(objects: Sequence[Object]) -> Iterator[str]:
    """A Job that is done goes: no Job can change, so that another image could not be applied while it is there."""
    for one in objects:
        if one["kind"] == "Job" and not 0 < one["spec"].get("ttlSecondsAfterFinished", 0) <= 3600:
            yield f"{name_of(one)} stays for more than an hour after it is done"


def meets_its_pods(objects: Sequence[Object]) -> Iterator[str]:
    """Services and disruption budgets select pods, and their ports are open there; an Ingress names services."""
    made = list(pods(objects))
    services = {(namespace_of(one), one["metadata"]["name"]): one for one in objects if one["kind"] == "Service"}
    for one in services.values():
        selector = {"matchLabels": one["spec"].get("selector", {})}
        chosen = [pod for pod in made if pod.namespace == namespace_of(one) and selects(selector, pod.labels)]
        if not one["spec"].get("selector") or not chosen:
            yield f"{name_of(one)} selects no pod"
        for port in one["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            for pod in chosen:
                open_ports = [p for container in pod.spec["containers"] for p in container.get("ports", [])]
                if not any(target in (p.get("name"), p["containerPort"]) for p in open_ports):
                    yield f"{name_of(one)} sends to the port {target}, which {pod.where} has not"
    for one in objects:
        if one["kind"] == "PodDisruptionBudget" and not any(selects(one["spec"]["selector"], p.labels) for p in made):
            yield f"{name_of(one)} selects no pod"
        if one["kind"] == "Ingress":
            for rule in one["spec"]["rules"]:
                for path in rule["http"]["paths"]:
                    backend = path["backend"]["service"]
                    service = services.get((namespace_of(one), backend["name"]))
                    ports = [port.get("name") for port in service["spec"]["ports"]] if service else []
                    if backend["port"].get("name") not in ports:
                        yield f"{name_of(one)} sends to {backend['name']}, which has no such port here"


def is_encrypted(objects: Sequence[Object]) -> Iterator[str]:
    """What is open to the world is open by TLS alone."""
    for one in objects:
        if one["kind"] == "Ingress":
            covered = {host for tls in one["spec"].get("tls", []) for host in tls["hosts"] if tls.get("secretName")}
            for rule in one["spec"]["rules"]:
                if rule.get("host") not in covered:
                    yield f"{name_of(one)} serves {rule.get('host')} without TLS"
        if one["kind"] == "Service" and one["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{name_of(one)} is open to the world beside the Ingress"


def grants_little(objects: Sequence[Object]) -> Iterator[str]:
    """Rights are named one by one, in one namespace, to whom is known here, and what leads to Secrets says so."""
    accounts = {(namespace_of(one), one["metadata"]["name"]) for one in objects if one["kind"] == "ServiceAccount"}
    roles = {(namespace_of(one), one["metadata"]["name"]) for one in objects if one["kind"] == "Role"}
    for one in objects:
        if one["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            yield f"{name_of(one)} reaches the whole cluster"
        if one["kind"] == "Role":
            for rule in one["rules"]:
                words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
                if "*" in words:
                    yield f"{name_of(one)} grants everything of a kind"
                if words & {"secrets", "pods/exec", "escalate", "impersonate", "bind"}:
                    yield f"{name_of(one)} grants what leads to Secrets"
                starts = STARTS_PODS & set(rule["resources"]) and {"create", "update", "patch"} & set(rule["verbs"])
                if starts and REACHES_SECRETS not in one["metadata"].get("annotations", {}):
                    yield f"{name_of(one)} may start pods, which lead to Secrets, and does not say so"
        if one["kind"] == "RoleBinding" and (namespace_of(one), one["roleRef"]["name"]) not in roles:
            yield f"{name_of(one)} binds a role that is not made here"
        for subject in one.get("subjects", []) if one["kind"] == "RoleBinding" else []:
            account = (subject.get("namespace"), subject["name"])
            if subject["kind"] == "ServiceAccount" and account not in accounts:
                yield f"{name_of(one)} binds {account[1]} of {account[0]}, an account that is not made here"


def lives_where_the_standard_is_enforced(objects: Sequence[Object]) -> Iterator[str]:
    """The namespace of every pod refuses pods below the strictest standard."""
    enforced = {
        one["metadata"]["name"]: one["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce")
        for one in objects
        if one["kind"] == "Namespace"
    }
    for pod in pods(objects):
        if enforced.get(pod.namespace) != "restricted":
            yield f"{pod.where}: its namespace {pod.namespace} enforces {enforced.get(pod.namespace)}"


def finds_what_it_mounts(objects: Sequence[Object]) -> Iterator[str]:
    """A ConfigMap that is made here has the keys that pods read, claims are made here, and mounts have volumes."""
    maps = {(namespace_of(one), one["metadata"]["name"]): one for one in objects if one["kind"] == "ConfigMap"}
    claims = {(namespace_of(one), one["metadata"]["name"]) for one in objects if one["kind"] == "PersistentVolumeClaim"}
    own = {
        name_of(one): {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])}
        for one in objects
        if one["kind"] == "StatefulSet"
    }
    for pod in pods(objects):
        for kind, name, key in references(pod):
            found = maps.get((pod.namespace, name))
            if kind == "ConfigMap" and found is not None and key and key not in found.get("data", {}):
                yield f"{pod.where}: ConfigMap {name} has no {key}"
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])} | own.get(pod.where, set())
        for volume in pod.spec.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and (pod.namespace, claim) not in claims:
                yield f"{pod.where}: nothing makes the claim {claim}"
        for container in pod.containers:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{pod.where}: {container['name']} mounts {mount['name']}, which is no volume"


def references(pod: Pod) -> Iterator[tuple[str, str, str]]:
    """Kind, name and key (empty for a whole one) of every ConfigMap and Secret that a pod reads."""
    for container in pod.containers:
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            for kind, word in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
                if word in source:
                    yield kind, source[word]["name"], source[word]["key"]
        for source in container.get("envFrom", []):
            for kind, word in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                if word in source:
                    yield kind, source[word]["name"], ""
    for volume in pod.spec.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"], ""
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"], ""


def made_elsewhere(objects: Sequence[Object]) -> set[tuple[str, str, str]]:
    """The ConfigMaps and Secrets that pods read and an administrator must make: kind, name and key."""
    made = {(one["kind"], namespace_of(one), one["metadata"]["name"]) for one in objects}
    wanted = {
        (kind, name, key)
        for pod in pods(objects)
        for kind, name, key in references(pod)
        if (kind, pod.namespace, name) not in made
    }
    issued = {one["spec"]["secretName"] for one in objects if one["kind"] == "Certificate"}
    for one in objects:
        if one["kind"] == "Ingress":
            wanted |= {("Secret", tls["secretName"], "tls.crt") for tls in one["spec"].get("tls", [])}
    return {reference for reference in wanted if reference[1] not in issued}


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        runs_as_nobody_special,
        gains_nothing,
        is_confined,
        writes_where_it_may,
        has_limits,
        is_probed,
        has_pinned_images,
        has_an_account_without_token,
        holds_no_secret,
        is_closed_by_default,
        makes_way,
        meets_its_pods,
        is_encrypted,
        grants_little,
        lives_where_the_standard_is_enforced,
        finds_what_it_mounts,
    )
}


def complaints(objects: Sequence[Object]) -> list[str]:
    """All that every rule has to say."""
    return [complaint for rule in RULES.values() for complaint in rule(objects)]
