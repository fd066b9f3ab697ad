"""Conclude: whatever happened, the run says how it ended and leaves no version that nobody decided on."""

from kfp import dsl
from kfp.dsl import PipelineTaskFinalStatus

from components.images import image


@dsl.component(base_image=image("conclude"), packages_to_install=[], install_kfp_package=False)
def conclude(status: PipelineTaskFinalStatus, name: str, run: str) -> None:
    """Says how the run ended, and brings to an end what a registering that broke off has left in MLflow.

    Args:
        status: How all that came before ended, which Kubeflow fills in.
        name: Name of the registered model.
        run: Id of the pipeline run, which its version names.
    """
    from casbah.pipeline import steps

    steps.conclude(state=status.state, message=status.error_message or "", name=name, run=run)
