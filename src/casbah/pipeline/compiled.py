"""A pipeline as one YAML: compiled from `pipelines/`, and its parameters read back from it."""

import functools
import hashlib
import importlib
import inspect
import json
import math
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import yaml

import casbah
from casbah.errors import InputError, unwritable
from casbah.pipeline import inputs
from casbah.products.manifest import sha256_of

STAGES = (
    "preflight", "ingest", "label", "tile", "finetune", "evaluate", "select", "register", "compare", "conclude",
    "fetch", "plan", "predict", "merge", "footprints", "publish",
)  # fmt: skip

FOOTPRINTS, COMPARISON, MAP = "building_footprints", "compare_experiments", "map_footprints"

PIPELINES = (FOOTPRINTS, COMPARISON, MAP)
"""The modules in `pipelines/`, each with a pipeline of its name."""

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C, which PyYAML has where it was built with libyaml, takes a tenth of the time."""


def compile_pipeline(
    output: Path,
    *,
    pipeline: str = FOOTPRINTS,
    images: Mapping[str, str] | None = None,
    registry: str | None = None,
    cpu: bool = False,
    any_user: bool = False,
    gpu: str | None = None,
) -> Path:
    """Compile `pipelines/<pipeline>.py` to a YAML that appears whole or not at all.

    `images` maps a stage to its image (pin it by digest), `registry` says where the other stages' images come from.
    `cpu` leaves out the request for a GPU, for a cluster that has none; `any_user` the number of the pods' user, for
    one that chooses it. `gpu` is what is asked for in place of a whole GPU, such as `nvidia.com/mig-1g.10gb`. Raises
    `InputError` for an unknown pipeline or stage, for what is no resource of NVIDIA's, or where there is no checkout of
    the repository.
    """
    if pipeline not in PIPELINES:
        raise InputError(f"there is no pipeline {pipeline!r}; choose from {', '.join(PIPELINES)}")
    if output.suffix not in (".yaml", ".yml"):
        raise InputError(f"{output} is no name of a YAML file; end it in .yaml")
    partial = output.with_name(f".{output.stem}.partial-{uuid4().hex[:8]}{output.suffix}")
    with _settings(images or {}, registry, cpu, any_user, gpu), _imports(), _stacks_without_source():
        from kfp import compiler

        function = getattr(importlib.import_module(f"pipelines.{pipeline}"), pipeline)
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            compiler.Compiler().compile(function, str(partial))
            partial.replace(output)
        except OSError as error:
            raise unwritable(error)(f"{output} can't be written: {error.strerror}") from None
        finally:
            # Where a part of the path is a file, this is one more way in which the path can't exist.
            with suppress(OSError):
                partial.unlink()
    return output


def documents(package: Path) -> Iterator[Any]:
    """The documents of a compiled pipeline, each read when it is asked for: the specification, and the platform's."""
    yield from yaml.load_all(package.read_text(encoding="utf-8"), Loader=LOADER)


def name(package: Path) -> str:
    """Which pipeline a compiled one is: the name of its module (one of `PIPELINES`, unless it was made elsewhere)."""
    return str(_read(package)[0]).replace("-", "_")


def parameters(package: Path) -> dict[str, dict[str, Any]]:
    """The parameters of a compiled pipeline: name -> `parameterType`, `defaultValue`, `description`."""
    return _read(package)[1]


def _read(package: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """Name and parameters of a compiled pipeline; `InputError` where the file is none."""
    try:
        specification = next(documents(package))
        return specification["pipelineInfo"]["name"], specification["root"]["inputDefinitions"]["parameters"]
    except FileNotFoundError:
        raise InputError(f"{package} does not exist; `casbah pipeline compile` makes it") from None
    except OSError as error:
        raise InputError(
            f"{package} can't be read ({error.strerror}); the YAML that `casbah pipeline compile` makes is wanted"
        ) from None
    except (yaml.YAMLError, KeyError, TypeError, StopIteration, UnicodeDecodeError):
        raise InputError(f"{package} is no compiled pipeline; `casbah pipeline compile` makes one") from None


def images(package: Path) -> set[str]:
    """The images that the steps of a compiled pipeline run in."""
    try:
        executors = next(documents(package))["deploymentSpec"]["executors"]
        return {each["container"]["image"] for each in executors.values() if "container" in each}
    except (OSError, yaml.YAMLError, KeyError, TypeError, StopIteration, UnicodeDecodeError):
        raise InputError(f"{package} is no compiled pipeline; `casbah pipeline compile` makes one") from None


def built(file: Path) -> dict[str, str]:
    """Stage -> image, as `make images` has written them to `build/images.json`; `InputError` where it is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {stage: found[stage]["image"] for stage in STAGES}
    except FileNotFoundError:
        raise InputError(f"{file} does not exist; `make images` writes it") from None
    except OSError as error:
        raise InputError(f"{file} can't be read ({error.strerror}); what `make images` writes is wanted") from None
    except KeyError as error:
        raise InputError(f"{file} names no image for the stage {error}; `make images` builds all") from None
    except (ValueError, TypeError):
        raise InputError(f"{file} is not what `make images` writes: JSON of stages and their images") from None


def defaults(package: Path) -> dict[str, Any]:
    """What the parameters are that a run does not give, each of its declared type."""
    declared = parameters(package).items()
    return {
        name: _typed(name, facts["defaultValue"], facts["parameterType"])
        for name, facts in declared
        if "defaultValue" in facts
    }


def arguments(package: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a run, each of its declared type; `InputError` names one that is unknown or does not fit."""
    declared = parameters(package)
    made = {}
    for name, value in given.items():
        if name not in declared:
            near = get_close_matches(name, declared, n=3, cutoff=0.4) or list(declared)
            raise InputError(f"the pipeline has no parameter {name!r}; did you mean {', '.join(near)}?")
        made[name] = _typed(name, value, declared[name]["parameterType"])
    return made


@functools.cache
def code_digest() -> str:
    """sha256 over Casbah's own files, which decides whether a local run may reuse what an earlier one made."""
    package = Path(casbah.__file__).parent
    names = sorted(file for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    lines = "\n".join(f"{file.relative_to(package)} {sha256_of(file)}" for file in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def checkout() -> Path:
    """The repository that Casbah runs from; `InputError` where it was installed without one."""
    root = Path(casbah.__file__).parents[2]
    if not (root / "pipelines" / "building_footprints.py").is_file():
        raise InputError("the pipeline's source is not part of the installed package: run this in a checkout of Casbah")
    return root


def _typed(name: str, value: Any, kind: str) -> Any:
    if kind == "LIST":
        return inputs.experiment_list(value) if name == "experiments" else value
    if kind == "STRING":
        return inputs.iso_date(name, value) if name in ("start", "end", "snapshot") else str(value)
    if kind == "BOOLEAN":
        known = {"true": True, "false": False}
        if str(value).lower() not in known:
            raise InputError(f"{name} is {json.dumps(value)}; true or false is wanted")
        return known[str(value).lower()]
    try:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        if kind == "NUMBER_INTEGER":
            if not number.is_integer():
                raise ValueError
            return int(number)
        return number
    except (TypeError, ValueError):
        wanted = "a whole number" if kind == "NUMBER_INTEGER" else "a number"
        raise InputError(f"{name} is {json.dumps(value)}; {wanted} is wanted") from None


@contextmanager
def _settings(
    images: Mapping[str, str], registry: str | None, cpu: bool, any_user: bool, gpu: str | None
) -> Iterator[None]:
    """Let components and pipeline, which read them when they are imported, see the settings of this compilation."""
    if gpu is not None and not re.fullmatch(r"nvidia\.com/[a-z0-9]([a-z0-9.-]*[a-z0-9])?", gpu):
        raise InputError(
            f"--gpu-resource is {gpu!r}; what the nodes name among their resources is wanted, such as "
            "nvidia.com/mig-1g.10gb"
        )
    if gpu is not None and cpu:
        raise InputError(f"--gpu-resource {gpu} and --cpu are given; one of both is wanted")
    for stage, image in images.items():
        if stage not in STAGES:
            raise InputError(f"there is no stage {stage!r} to give an image to; choose from {', '.join(STAGES)}")
        if not re.fullmatch(r"[\w.:/@-]+", image):
            raise InputError(f"{image!r} is no image reference; repository:tag or repository@sha256:digest is wanted")
    wanted = {f"CASBAH_IMAGE_{stage.upper()}": image for stage, image in images.items()}
    if registry:
        wanted["CASBAH_REGISTRY"] = registry
    if cpu:
        wanted["CASBAH_CPU"] = "1"
    if any_user:
        wanted["CASBAH_ANY_USER"] = "1"
    if gpu:
        wanted["CASBAH_GPU"] = gpu
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _imports() -> Iterator[None]:
    """Import `pipelines` and `components` afresh from the checkout, and leave no trace of them behind."""
    root = str(checkout())

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in ("pipelines", "components")]:
            del sys.modules[name]

    forget()
    sys.path.insert(0, root)
    try:
        yield
    finally:
        sys.path.remove(root)
        forget()


@contextmanager
def _stacks_without_source() -> Iterator[None]:
    """Let KFP learn its caller's name from the frames alone.

    For that name it asks, at each setting of a task, for the source of all frames. Python looks for that of the import
    system in every module that is loaded: beside PyTorch this takes most of a compilation.
    """
    from kfp.dsl import pipeline_task

    before = pipeline_task.inspect
    pipeline_task.inspect = SimpleNamespace(stack=_stack)
    try:
        yield
    finally:
        pipeline_task.inspect = before


def _stack() -> list[inspect.FrameInfo]:
    """The caller's frame and those above it, as `inspect.stack` gives them, without their source."""
    return [
        inspect.FrameInfo(frame, frame.f_code.co_filename, line, frame.f_code.co_name, None, None)
        for frame, line in traceback.walk_stack(sys._getframe(1))
    ]
