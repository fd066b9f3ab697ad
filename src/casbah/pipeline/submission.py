"""What is submitted to Kubeflow: a compiled pipeline with checked arguments; and the states that it reports of it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from casbah.addresses import scrubbed
from casbah.errors import InputError
from casbah.pipeline import compiled, inputs

SCHEDULE = re.compile(r"@every \S+|@[a-z]+|[\w*/,?-]+( +[\w*/,?-]+){5}")

DRIVER = "-driver"
"""What Kubeflow appends to a task's name for the pod that looks up its inputs and its cache."""


@dataclass(frozen=True)
class Package:
    """A compiled pipeline and the arguments given for it, each of its declared type."""

    path: Path
    arguments: dict[str, Any]
    pipeline: str
    snapshot: str
    """The date of reading that steps are cached by; empty where the pipeline has none."""


def checked(package: Path, given: Mapping[str, str]) -> Package:
    """The package with its arguments; `InputError` for all that a step would refuse, before a server is asked."""
    if package.suffix not in (".yaml", ".yml"):
        raise InputError(f"{package} is no name of a YAML file; one that ends in .yaml is wanted")
    values = compiled.arguments(package, given)
    complete = compiled.defaults(package) | values
    inputs.check(complete)
    return Package(package, values, compiled.name(package), str(complete.get("snapshot", "")))


def check_schedule(cron: str) -> None:
    """`InputError` unless `cron` has six fields, seconds first, or is one such as `@monthly`.

    Kubeflow takes five fields too, and reads the minutes as seconds.
    """
    if not SCHEDULE.fullmatch(cron.strip()):
        raise InputError(
            f"--every is {cron!r} ({len(cron.split())} fields); six are wanted, second, minute, hour, day, month and "
            "weekday, such as '0 0 3 1 * *' for three o'clock on the first of each month"
        )


def without_cache(package: Path, target: Path) -> Path:
    """A copy of a compiled pipeline none of whose steps is answered from the cache, those in loops included.

    (The client's own `enable_caching=False` leaves the steps of a loop as they are.)
    """
    documents = list(compiled.documents(package))
    for tasks in _dags(documents[0]):
        for task in tasks.values():
            task["cachingOptions"] = {}
    target.write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
    return target


class Watch:
    """The states of a run on Kubeflow and of its steps, as they were last seen.

    `package` is what runs; `run` below is a `V2beta1Run` of the API.
    """

    def __init__(self, package: Path) -> None:
        self.state = "PENDING"
        self._steps = _steps(package)
        self._states: dict[str, str] = {}
        self._names: dict[str, str] = {}
        """Task -> what it is called here; the steps of a loop share a name and get a number."""

    def new(self, run: Any) -> Iterator[str]:
        """A line for each state that is another than before."""
        for task in _tasks(run):
            name, state = self._name(task), task.state
            if name and state and self._states.get(name) != state:
                self._states[name] = state
                yield f"{name}: {state.lower()}"
        if run.state and run.state != self.state:
            self.state = run.state
            yield f"run: {run.state.lower()}"

    def reason(self, run: Any) -> str:
        """Which steps failed and why, as far as the server says it: ` in finetune (out of memory)`."""
        failed = [task for task in _tasks(run) if task.state == "FAILED"]
        steps = {}
        for task in failed:
            if name := self._name(task) or self._driven(task):
                steps[name] = _why(task)
        # A server that names its tasks in another way: all that it calls failed.
        steps = steps or {task.display_name: _why(task) for task in failed if task.display_name}
        said = ", ".join(f"{name} ({why})" if why else name for name, why in steps.items())
        why = _why(run)
        text = (f" in {said}" if said else "") + (f" ({why})" if why else "")
        return text if why or any(steps.values()) else f"{text}; Kubeflow gives no reason, the log of the step does"

    def _name(self, task: Any) -> str | None:
        if task.display_name not in self._steps:
            return None
        key, plain = task.task_id or task.display_name, self._steps[task.display_name]
        if key not in self._names:
            same = sum(name.partition(" #")[0] == plain for name in self._names.values())
            self._names[key] = f"{plain} #{same + 1}" if same else plain
        return self._names[key]

    def _driven(self, task: Any) -> str | None:
        step = (task.display_name or "").removesuffix(DRIVER)
        return f"{self._steps[step]} (before its start)" if step in self._steps else None


def _tasks(run: Any) -> list[Any]:
    return (run.run_details.task_details or []) if run.run_details else []


def _why(one: Any) -> str:
    """What the server says of a run or task that failed; Kubeflow 2.17 says nothing of tasks."""
    errors = [one.error, *(status.error for status in reversed(one.state_history or []))]
    return next((scrubbed(error.message) for error in errors if error and error.message), "")


def _steps(package: Path) -> dict[str, str]:
    """The steps of a compiled pipeline that are containers: name in Kubeflow -> name for people.

    Kubeflow's own nodes (drivers, loops, the pods of a step) are left out.
    """
    specification = next(compiled.documents(package))
    called: dict[str, set[str]] = {}
    for tasks in _dags(specification):
        for key, task in tasks.items():
            if "executorLabel" in specification["components"][task["componentRef"]["name"]]:
                called.setdefault(key, set()).add(task.get("taskInfo", {}).get("name", key))
    steps = {key: names.pop() if len(names) == 1 else key for key, names in called.items()}
    return {name: name for name in steps.values()} | steps


def _dags(specification: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The tasks of each graph of a pipeline: its root's, and those of loops and conditions."""
    for component in (specification["root"], *specification.get("components", {}).values()):
        if "dag" in component:
            yield component["dag"]["tasks"]
