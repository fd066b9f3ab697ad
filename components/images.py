"""Which container image each component runs in, decided when the pipeline is compiled.

`CASBAH_IMAGE_<STAGE>` names one component's image (pin it by digest: the server's cache key holds the image's text, so
a tag that moves gives stale results); `CASBAH_REGISTRY` names where all others come from.
"""

import os

import casbah

REGISTRY = "ghcr.io/casbah"


def image(stage: str) -> str:
    """The image of a stage: `CASBAH_IMAGE_<STAGE>`, else `<registry>/casbah-<stage>:<version of Casbah>`."""
    registry = os.environ.get("CASBAH_REGISTRY") or REGISTRY
    default = f"{registry.rstrip('/')}/casbah-{stage}:{casbah.__version__}"
    return os.environ.get(f"CASBAH_IMAGE_{stage.upper()}") or default
