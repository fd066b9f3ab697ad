"""What a task of a pipeline gets from its cluster: store and services by reference, retries, a GPU."""

import os

from kfp import kubernetes
from kfp.dsl import PipelineTask

STORE_SECRET = "casbah-store"  # noqa: S105 - the name of a Secret, not a secret
STORE_KEYS = {"accesskey": "AWS_ACCESS_KEY_ID", "secretkey": "AWS_SECRET_ACCESS_KEY"}
MLFLOW_SECRET = "casbah-mlflow"  # noqa: S105 - likewise
MLFLOW_KEYS = {"username": "MLFLOW_TRACKING_USERNAME", "password": "MLFLOW_TRACKING_PASSWORD"}
SERVICES_CONFIG = "casbah-services"
SERVICES_KEYS = {
    "store-endpoint": "AWS_ENDPOINT_URL",
    "store-region": "AWS_REGION",
    "mlflow-tracking-uri": "MLFLOW_TRACKING_URI",
}

GPU = "nvidia.com/gpu"
GPU_NODE = {"nvidia.com/gpu.present": "true"}
"""Label that NVIDIA's GPU operator puts on nodes with a GPU."""

SHARED_MEMORY = "4Gi"
"""Memory that the workers of a data loader share; a container has 64 MiB otherwise."""

RETRIES = 3


def with_store(task: PipelineTask) -> PipelineTask:
    """Give a step that leaves its pod the object store and MLflow, by reference, and retries."""
    kubernetes.use_secret_as_env(task, secret_name=STORE_SECRET, secret_key_to_env=STORE_KEYS)
    # An MLflow that asks for no user has no such Secret beside it.
    kubernetes.use_secret_as_env(task, secret_name=MLFLOW_SECRET, secret_key_to_env=MLFLOW_KEYS, optional=True)
    kubernetes.use_config_map_as_env(task, config_map_name=SERVICES_CONFIG, config_map_key_to_env=SERVICES_KEYS)
    return task.set_retry(num_retries=RETRIES, backoff_duration="10s", backoff_factor=2.0, backoff_max_duration="300s")


def on_gpu(task: PipelineTask) -> PipelineTask:
    """Ask for one GPU, the nodes that have one, and memory that data loader workers can share.

    Compiled for a cluster without GPUs (`CASBAH_CPU`), only for the memory: a pod that asks for a GPU would wait for
    ever there.
    """
    if not os.environ.get("CASBAH_CPU"):
        task.set_accelerator_type(GPU).set_accelerator_limit(1)
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
