"""What a task of a pipeline gets from its cluster: store and services by reference, resources, retries, a GPU."""

import os
from typing import NamedTuple

from kfp import kubernetes
from kfp.dsl import PipelineTask

STORE_SECRET = "casbah-store"  # noqa: S105 - the name of a Secret, not a secret
STORE_KEYS = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
MLFLOW_SECRET = "casbah-mlflow"  # noqa: S105 - the name of a Secret, not a secret
MLFLOW_KEYS = {"username": "MLFLOW_TRACKING_USERNAME", "password": "MLFLOW_TRACKING_PASSWORD"}
SERVICES_CONFIG = "casbah-services"
SERVICES_KEYS = {
    "store-endpoint": "AWS_ENDPOINT_URL",
    "store-region": "AWS_REGION",
    "mlflow-tracking-uri": "MLFLOW_TRACKING_URI",
}

GPU = "nvidia.com/gpu"
"""A whole GPU, and the taint of nodes that have one. `CASBAH_GPU` names a slice of one to ask for in its place."""

GPU_NODE = {"nvidia.com/gpu.present": "true"}
"""Label that NVIDIA's GPU operator puts on nodes with a GPU."""

SHARED_MEMORY = "4Gi"
"""Memory that the workers of a data loader share; a container has 64 MiB otherwise."""

USER, GROUP = 10001, 0
"""Whom a pod runs as: the user of the images. Compiled with `CASBAH_ANY_USER`, whom the cluster chooses, as OpenShift
does for each namespace."""


class Needs(NamedTuple):
    """What a step asks its node for, and how often it is tried again."""

    cpu: str
    memory: str
    """Of a node that is to run it."""
    limit: str
    """Memory at which it is killed."""
    retries: int
    """Steps that talk to the world fail with it; those that only compute lose their node at most."""


NEEDS = {
    "preflight": Needs("250m", "512Mi", "2Gi", 1),
    "ingest": Needs("2", "4Gi", "12Gi", 3),
    "label": Needs("1", "2Gi", "12Gi", 3),
    "tile": Needs("1", "2Gi", "12Gi", 1),
    "finetune": Needs("4", "16Gi", "48Gi", 5),
    "evaluate": Needs("2", "4Gi", "16Gi", 1),
    "select": Needs("250m", "256Mi", "2Gi", 1),
    "compare": Needs("1", "4Gi", "16Gi", 1),
    "register": Needs("1", "4Gi", "16Gi", 3),
    "fetch": Needs("250m", "1Gi", "4Gi", 3),
    "plan": Needs("250m", "512Mi", "2Gi", 1),
    "predict": Needs("4", "8Gi", "32Gi", 3),
    "merge": Needs("2", "2Gi", "8Gi", 1),
    "footprints": Needs("1", "4Gi", "16Gi", 1),
    "publish": Needs("250m", "512Mi", "4Gi", 3),
    "conclude": Needs("250m", "512Mi", "2Gi", 3),
}
"""A finetune that is preempted goes on from its checkpoint, so that more tries cost little.

Kubeflow tries again whatever a step failed with, a wrong parameter too. So what looks at what a person typed has one
more try (it asks a store that does not answer several times by itself), and what costs a node is looked at there first;
`fetch`, whose one parameter is looked at before a run is submitted, downloads and has more.
"""

ON_CPU = {"finetune": Needs("2", "4Gi", "16Gi", 5), "predict": Needs("2", "4Gi", "16Gi", 3)}
"""What is else for a cluster without GPUs, whose experiments are small."""


def placed(task: PipelineTask, stage: str) -> PipelineTask:
    """Give a step of a stage its resources, its retries and a user that is no root."""
    needs = (ON_CPU.get(stage) if os.environ.get("CASBAH_CPU") else None) or NEEDS[stage]
    task.set_cpu_request(needs.cpu).set_memory_request(needs.memory).set_memory_limit(needs.limit)
    if os.environ.get("CASBAH_ANY_USER"):
        kubernetes.set_security_context(task, run_as_non_root=True)
    else:
        kubernetes.set_security_context(task, run_as_user=USER, run_as_group=GROUP, run_as_non_root=True)
    return task.set_retry(
        num_retries=needs.retries, backoff_duration="10s", backoff_factor=2.0, backoff_max_duration="300s"
    )


def with_store(task: PipelineTask) -> PipelineTask:
    """Give a step that leaves its pod the object store and MLflow, by reference."""
    kubernetes.use_secret_as_env(task, secret_name=STORE_SECRET, secret_key_to_env=STORE_KEYS)
    # An MLflow that asks for no user has no such Secret beside it.
    kubernetes.use_secret_as_env(task, secret_name=MLFLOW_SECRET, secret_key_to_env=MLFLOW_KEYS, optional=True)
    return kubernetes.use_config_map_as_env(task, config_map_name=SERVICES_CONFIG, config_map_key_to_env=SERVICES_KEYS)


def on_gpu(task: PipelineTask) -> PipelineTask:
    """Ask for one GPU or a slice of one, the nodes that have it, and memory that data loader workers can share.

    Compiled for a cluster without GPUs (`CASBAH_CPU`), only for the memory: a pod that asks for a GPU would wait for
    ever there.
    """
    if not os.environ.get("CASBAH_CPU"):
        task.set_accelerator_type(os.environ.get("CASBAH_GPU") or GPU).set_accelerator_limit(1)
        for key, value in GPU_NODE.items():
            kubernetes.add_node_selector(task, key, value)
        kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")
    return kubernetes.empty_dir_mount(
        task,
        volume_name="shared-memory",
        mount_path="/dev/shm",  # noqa: S108 - a mount, not a temporary file
        medium="Memory",
        size_limit=SHARED_MEMORY,
    )
