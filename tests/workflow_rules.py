"""Rules for `.github/workflows/` that no linter knows: what a workflow may do here, and that what it names exists."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer
import yaml

from casbah.cli.root import app

ROOT = Path(__file__).parents[1]

Workflow = dict[str, Any]

EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.S)
OUTPUT = re.compile(r"\b(steps|needs)\.([\w-]+)\.outputs\.([\w-]+)")
PINNED = re.compile(r"[\w.-]+(/[\w.-]+)+@[0-9a-f]{40}")
CASBAH = re.compile(r"(?:\S*/)?casbah")
MAKE_VARIABLES = {
    "PYTHON",
    "TORCH_INDEX",
    "REGISTRY",
    "TAG",
    "ACCELERATOR",
    "BASE_IMAGE",
    "GRYPE",
    "OVERLAY",
    "IMAGES_JSON",
    "SHARED",
    "WHEELS",
}

WRITES = {
    ("images", "images"): {"packages"},
    ("images", "release"): {"contents"},
    ("retrain", "comment"): {"issues", "pull-requests"},
}
"""Workflow and job -> what the job may write; every other one only reads."""

SECRETS = {
    "KFP_TOKEN": {("retrain", "Train")},
    "MLFLOW_TRACKING_USERNAME": {("retrain", "Report"), ("rollback", "Roll back")},
    "MLFLOW_TRACKING_PASSWORD": {("retrain", "Report"), ("rollback", "Roll back")},
}
"""Secret -> workflow and step that see it. GITHUB_TOKEN, whose rights are the job's permissions, is not among them."""


def read(text: str) -> Workflow:
    """A workflow as GitHub reads it: `on` is a word there, and YAML 1.1's true."""
    found = yaml.safe_load(text)
    return {("on" if key is True else key): value for key, value in found.items()}


def complaints(name: str, text: str) -> list[str]:
    """What breaks a rule in the workflow `name`.yml."""
    workflow = read(text)
    found = [*_frame(name, workflow), *_pins(text)]
    for key, job in workflow["jobs"].items():
        found += [f"{key}: {what}" for what in _job(name, key, job, workflow)]
        for place, step in enumerate(job["steps"]):
            called = step.get("name") or step.get("id") or f"step {place + 1}"
            found += [f"{key}, {called}: {what}" for what in _step(name, called, step)]
    return found


def _frame(name: str, workflow: Workflow) -> Iterator[str]:
    if workflow.get("permissions") != {}:
        yield "permissions of the workflow are not {}: each job names its own"
    if "concurrency" not in workflow:
        yield "no concurrency"
    if workflow.get("defaults", {}).get("run", {}).get("shell") != "bash":
        yield "no `shell: bash` by default: without it a failure in a pipe is lost"
    if "pull_request_target" in workflow["on"]:
        yield "pull_request_target runs a stranger's code with the repository's secrets"
    if secrets := [word for word in _expressions(workflow.get("env", {})) if "secrets." in word]:
        yield f"a secret for every job: {secrets[0].strip()}"


def _pins(text: str) -> Iterator[str]:
    for line in re.findall(r"^\s*(?:- )?uses: *(.*)$", text, re.M):
        action, _, comment = line.partition("#")
        if not PINNED.fullmatch(action.strip()):
            yield f"{action.strip()} is not pinned by a commit"
        elif not re.fullmatch(r" v\d+\.\d+\.\d+", comment):
            yield f"{action.strip()[:50]} does not say its version in a comment"


def _job(name: str, key: str, job: Workflow, workflow: Workflow) -> Iterator[str]:
    if not isinstance(job.get("permissions"), dict):
        yield "no permissions of its own"
    else:
        writes = {what for what, right in job["permissions"].items() if right != "read"}
        if extra := writes - WRITES.get((name, key), set()):
            yield f"may write {', '.join(sorted(extra))}"
    if "timeout-minutes" not in job:
        yield "no timeout"
    needs = job.get("needs", [])
    needs = [needs] if isinstance(needs, str) else needs
    yield from (f"needs {need}, which is no job" for need in needs if need not in workflow["jobs"])
    if any("secrets." in word for word in _expressions(job.get("env", {})) if "GITHUB_TOKEN" not in word):
        yield "a secret for every step"
    ids = {step["id"] for step in job["steps"] if "id" in step}
    for word in _expressions(job):
        for kind, what, output in OUTPUT.findall(word):
            if kind == "steps" and what not in ids:
                yield f"there is no step {what}"
            if kind == "needs" and (what not in needs or output not in workflow["jobs"][what].get("outputs", {})):
                yield f"there is no output {output} of a job {what} that it needs"


def _step(name: str, called: str, step: Workflow) -> Iterator[str]:
    for key, value in step.items():
        for word in _expressions(value):
            for secret in re.findall(r"secrets\.(\w+)", word):
                if key != "env":
                    yield f"the secret {secret} outside of env"
                elif secret != "GITHUB_TOKEN" and (name, called) not in SECRETS.get(secret, set()):
                    yield f"the secret {secret}, which this step does not need"
    if (run := step.get("run")) is None:
        if (
            step["uses"].startswith("actions/checkout@")
            and step.get("with", {}).get("persist-credentials") is not False
        ):
            yield "checkout leaves its token behind"
        return
    if EXPRESSION.search(run):
        yield "an expression inside of `run`: a value goes through env, where the shell does not read it"
    for command in commands(run):
        yield from _command(command)


def _expressions(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [word for each in value.values() for word in _expressions(each)]
    if isinstance(value, list):
        return [word for each in value for word in _expressions(each)]
    return EXPRESSION.findall(value) if isinstance(value, str) else []


def commands(run: str) -> Iterator[list[str]]:
    """The commands of a script as words, cut at pipes and the like."""
    for line in run.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if re.fullmatch(r"[;|&<>]+", word):
                yield words
                words = []
            else:
                words.append(word)
        yield words


def unknown_to_make(words: list[str]) -> Iterator[str]:
    """What `make` would not know of its words."""
    for word in words:
        if "=" in word and word.partition("=")[0] not in MAKE_VARIABLES:
            yield f"make knows no variable {word}"
        if "=" not in word and not word.startswith("-") and word not in targets():
            yield f"make has no target {word}"


def _command(words: list[str]) -> Iterator[str]:
    if not words:
        return
    if words[0] == "make":
        yield from unknown_to_make(words[1:])
    elif CASBAH.fullmatch(words[0]):
        yield from unknown_to_casbah(words[1:])


def unknown_to_casbah(words: list[str], *, whole: bool = True) -> Iterator[str]:
    """What the command line refuses in the words after `casbah`; without `whole` they may lack what is required."""
    command: Any = typer.main.get_command(app)
    path = "casbah"
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            yield f"{path} has no command {words[0] if words else ''!r}"
            return
        command, path, words = command.commands[words[0]], f"{path} {words[0]}", words[1:]
    if command.context_settings.get("ignore_unknown_options"):  # they are another program's
        return
    options = [word.partition("=")[0] for word in words[: words.index("--") if "--" in words else None]]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in options if word.startswith("-") and word not in known]
    yield from (f"{path} has no option {word}" for word in unknown)
    if unknown or not whole:
        return
    try:
        command.make_context(path, list(words), resilient_parsing=False)
    except typer.BadParameter as error:
        yield f"{path} refuses these words ({error.format_message()})"


@cache
def targets() -> frozenset[str]:
    """The targets of the Makefile that it lists or lints by."""
    return frozenset(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
