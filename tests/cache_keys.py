"""By what a Kubeflow Pipelines server of version 2.17 caches the steps of a run, worked out from the compiled YAML.

After kubeflow/pipelines: `getFingerPrint` in `backend/src/v2/driver/cache.go` gathers the image, the command with its
arguments and the names of volume claims; `GenerateCacheKey` in `backend/src/v2/cacheutils/cache.go` adds the names of
the input artifacts, the values of the input parameters and the specifications of the outputs; `GenerateFingerPrint`
there is the sha256 of that as Go writes JSON. Nothing else is in it: no variable of the environment, no Secret, no
ConfigMap, no resources, no name of the step. (Later servers add the variables that stand in the YAML, and still no
Secret.) A key is looked for among the runs of the same pipeline name and namespace.

The name of an artifact is its number in the server's database, a new one for each execution; a step from the cache
hands on those of the execution that it reuses. Here it is a digest of the producer's key, which is new when that is.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

Document = Mapping[str, Any]

HTML = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
"""What Go's JSON escapes beyond what JSON asks for."""


def fingerprint(key: Document) -> str:
    """`GenerateFingerPrint`: sha256 of a cache key, given as the JSON of its message."""
    text = json.dumps(_numbers(key), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for letter, escaped in HTML.items():
        text = text.replace(letter, escaped)
    return hashlib.sha256(text.encode()).hexdigest()


def keys(
    documents: list[Document], given: Mapping[str, Any], *, said: Mapping[str, Any] | None = None, own: bool = False
) -> dict[str, str | None]:
    """The key of each step of a run: `tile`, `for-loop-2[unet_scratch]/finetune`; None where it asks for no cache.

    `documents` are those of the compiled YAML, `given` the arguments of the run, `said` the one parameter that a step
    returns, by its name. With `own` the input artifacts are taken to be the same in every run, so that a key tells of
    what its step is given itself.
    """
    specification = documents[0]
    declared = specification["root"]["inputDefinitions"]["parameters"]
    defaults = {name: facts["defaultValue"] for name, facts in declared.items() if "defaultValue" in facts}
    return _Run(documents, own, said or {}).graph(specification["root"], defaults | dict(given), {}, "")[0]


def steps(documents: list[Document]) -> Iterator[tuple[str, Document, str]]:
    """Each step that is a container: its name, the task, and the label of its executor."""
    for component in (documents[0]["root"], *documents[0]["components"].values()):
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            found = documents[0]["components"][task["componentRef"]["name"]]
            if "executorLabel" in found:
                yield name, task, found["executorLabel"]


class _Run:
    def __init__(self, documents: list[Document], own: bool, said: Mapping[str, Any]) -> None:
        self._specification, self._own, self._said = documents[0], own, said
        platform = documents[1] if len(documents) > 1 else {}
        self._kubernetes = (
            platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
        )

    def graph(
        self, component: Document, parameters: Document, artifacts: Mapping[str, list[str]], where: str
    ) -> tuple[dict[str, str | None], dict[str, list[str]]]:
        """Keys of the steps of a graph, and the names of the artifacts that it hands on."""
        found: dict[str, str | None] = {}
        made: dict[str, dict[str, list[str]]] = {}
        waiting = dict(component["dag"]["tasks"])
        while waiting:
            name = next(one for one in waiting if not set(waiting[one].get("dependentTasks", ())) & waiting.keys())
            task = waiting.pop(name)
            values = {
                key: _parameter(one, parameters, self._said)
                for key, one in task["inputs"].get("parameters", {}).items()
            }
            inputs = {key: _artifact(one, artifacts, made) for key, one in task["inputs"].get("artifacts", {}).items()}
            below, made[name] = self._task(task, values, inputs, where + name)
            found |= below
        selectors = component["dag"].get("outputs", {}).get("artifacts", {})
        handed = {
            key: [
                artifact
                for one in outputs["artifactSelectors"]
                for artifact in made[one["producerSubtask"]][one["outputArtifactKey"]]
            ]
            for key, outputs in selectors.items()
        }
        return found, handed

    def _task(
        self, task: Document, values: dict[str, Any], inputs: dict[str, list[str]], where: str
    ) -> tuple[dict[str, str | None], dict[str, list[str]]]:
        component = self._specification["components"][task["componentRef"]["name"]]
        if "executorLabel" in component:
            key = fingerprint(self._key(component, values, inputs))
            cached = task.get("cachingOptions", {}).get("enableCache", False)
            outputs = component.get("outputDefinitions", {}).get("artifacts", {})
            made = where if self._own else key if cached else uuid4().hex
            return {where: key if cached else None}, {name: [f"{made}/{name}"] for name in outputs}
        if "parameterIterator" not in task:
            return self.graph(component, values, inputs, f"{where}/")
        found: dict[str, str | None] = {}
        handed: dict[str, list[str]] = {}
        for item in values[task["parameterIterator"]["items"]["inputParameter"]]:
            given = values | {task["parameterIterator"]["itemInput"]: item}
            below, outputs = self.graph(component, given, inputs, f"{where}[{item}]/")
            found |= below
            for name, artifacts in outputs.items():
                handed.setdefault(name, []).extend(artifacts)
        return found, handed

    def _key(self, component: Document, values: dict[str, Any], inputs: dict[str, list[str]]) -> dict[str, Any]:
        """`GenerateCacheKey`, with what `getFingerPrint` hands it, as the JSON of its message."""
        label = component["executorLabel"]
        container = self._specification["deploymentSpec"]["executors"][label]["container"]
        outputs = component.get("outputDefinitions", {})
        claims = {
            one["pvcNameParameter"]["runtimeValue"]["constant"]
            for one in self._kubernetes.get(label, {}).get("pvcMount", ())
        }
        key = {
            "inputArtifactNames": {name: {"artifactNames": one} for name, one in inputs.items()},
            "inputParameterValues": values,
            "outputArtifactsSpec": {
                name: {"type": facts["artifactType"]} | ({"metadata": facts["metadata"]} if "metadata" in facts else {})
                for name, facts in outputs.get("artifacts", {}).items()
            },
            "outputParametersSpec": {
                name: facts["parameterType"] for name, facts in outputs.get("parameters", {}).items()
            },
            "containerSpec": {
                "image": container["image"],
                "cmdArgs": [*container.get("command", ()), *container.get("args", ())],
            }
            | ({"pvcNames": sorted(claims)} if claims else {}),
        }
        return {name: part for name, part in key.items() if part}


def _parameter(one: Document, parameters: Document, said: Mapping[str, Any]) -> Any:
    if wanted := one.get("taskOutputParameter"):
        return said[wanted["producerTask"]]
    if "taskFinalStatus" in one:  # known when the run has ended, and to a step that is never cached
        return None
    if "componentInputParameter" in one:
        return parameters[one["componentInputParameter"]]
    return one["runtimeValue"]["constant"]


def _artifact(
    one: Document, artifacts: Mapping[str, list[str]], made: Mapping[str, Mapping[str, list[str]]]
) -> list[str]:
    if "componentInputArtifact" in one:
        return artifacts[one["componentInputArtifact"]]
    wanted = one["taskOutputArtifact"]
    return made[wanted["producerTask"]][wanted["outputArtifactKey"]]


def _numbers(value: Any) -> Any:
    """Whole numbers without a point, as Go writes them: a value is a double there."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _numbers(one) for name, one in value.items()}
    return [_numbers(one) for one in value] if isinstance(value, list) else value
