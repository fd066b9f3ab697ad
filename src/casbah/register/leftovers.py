"""What a registering that broke off has left: a version on which nothing was decided."""

from casbah import mlflow_server
from casbah.progress import say
from casbah.register.stage import PROMOTED
from casbah.register.versions import CHAMPION, DECISION, check_name, keep_compared_on, versions_of


def settle(*, name: str, run: str, tracking_uri: str | None = None) -> list[str]:
    """Bring every version of a pipeline's run to an end, and return one sentence for each that was not at one.

    A version gets its decision last, after its alias. One without either is deleted: its model was never compared, and
    running the pipeline again registers it. One that is champion already lacks no more than the word for it. `run` is
    the pipeline run that versions name in `casbah.kfp_run`. Raises `WorldError` where MLflow can't be reached.
    """
    check_name(name)
    uri = mlflow_server.tracking_uri(tracking_uri)
    mlflow_server.check(uri, mlflow_server.SETTLE)
    told = []
    with mlflow_server.talking(uri, mlflow_server.SETTLE):
        import mlflow

        client = mlflow.MlflowClient(uri)
        for version in versions_of(client, name):
            number = str(version.version)
            if version.tags.get("casbah.kfp_run") != run or DECISION in version.tags:
                continue
            if CHAMPION in client.get_model_version(name, number).aliases:
                client.set_model_version_tag(name, number, DECISION, PROMOTED)
                told.append(f"{name} version {number} was promoted by a step that broke off afterwards; it says so now")
            else:
                # Test blocks that it was compared on have been looked at, whatever becomes of it.
                keep_compared_on(client, name, version)
                client.delete_model_version(name, number)
                told.append(f"{name} version {number} was not decided on when its step broke off, and was deleted")
    for sentence in told:
        say(sentence)
    return told
