"""A version against the champion in Markdown, for people who read a pull request: everything from MLflow's tags."""

import html
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from casbah import mlflow_server
from casbah.addresses import shown
from casbah.errors import InputError
from casbah.products.evaluation import Interval
from casbah.register.versions import (
    CHAMPION,
    DECISION,
    DIFFERENCE,
    KFP_RUN,
    NAME,
    PREVIOUS,
    REASON,
    aliases_of,
    champion_of,
    check_name,
    compared_on,
    number_of,
    page_of,
    some_versions,
)

SCORES = {"iou": "Building IoU (95 %)", "f1": "F1 (95 %)", "precision": "Precision (95 %)", "recall": "Recall (95 %)"}

FACTS = {
    "casbah.experiment": "Experiment",
    "casbah.protocol": "Tested by",
    "casbah.pretrained": "Starts from",
    "casbah.periods": "Dates",
    "casbah.aligned": "Footprints moved onto the image",
}

ORIGINS = {"casbah.data": "Tiles", "casbah.git_commit": "Commit", "casbah.image": "Image"}
"""What is shown as code: digests and names that nobody reads as prose."""

WORDS = {"true": "yes", "false": "no"}

ABSENT = ("", "none", "unknown")


def report(
    *,
    name: str = NAME,
    version: str | None = None,
    kfp_run: str | None = None,
    kfp_host: str | None = None,
    tracking_uri: str | None = None,
) -> str:
    """Markdown: a version of `name` (by default the newest) against the champion, and what was decided and why.

    `kfp_run` asks for the version that a run of the pipeline made; where it made none, the report says so and is of
    the newest one. `kfp_host` is the address of Kubeflow Pipelines, for a link to the run. A version that is the
    champion stands against the one whose place it took.

    Raises `InputError` where there is no such version, `WorldError` where MLflow can't be reached.
    """
    check_name(name)
    if kfp_host is not None and urlsplit(kfp_host).scheme not in mlflow_server.WEB:
        raise InputError(f"--kfp-host is {shown(kfp_host)!r}; an address such as https://kubeflow.example is wanted")
    uri = mlflow_server.tracking_uri(tracking_uri)
    mlflow_server.check(uri, mlflow_server.REPORT)
    with mlflow_server.talking(uri, mlflow_server.REPORT):
        import mlflow

        client = mlflow.MlflowClient(uri)
        known = {number_of(one): one for one in some_versions(client, uri, name)}
        chosen, made = _chosen(name, known, version, kfp_run)
        champion, held = champion_of(client, name), aliases_of(client, name)
    other = None if champion is None else known.get(number_of(champion))
    if other is not None and number_of(other) == number_of(chosen):
        other = known.get(chosen.tags.get(PREVIOUS, ""))
    lines = list(_lines(uri, name, chosen, other, held, kfp_host))
    if kfp_run is not None and not made:
        lines[1:1] = [
            "",
            f"> The run {_code(kfp_run)} made no version: it failed before, or its model with this evaluation was "
            "there already. This is the newest one.",
        ]
    return "\n".join(lines) + "\n"


def _chosen(name: str, known: dict[str, Any], version: str | None, run: str | None) -> tuple[Any, bool]:
    """The version that is reported on (`known` has the newest first), and whether it is what was asked for."""
    if version is not None:
        if version not in known:
            raise InputError(f"{name} has no version {version[:20]!r}; there are {', '.join(reversed(known))}")
        return known[version], True
    if run is not None:
        found = next((one for one in known.values() if one.tags.get(KFP_RUN) == run), None)
        if found is not None:
            return found, True
    return next(iter(known.values())), False


def _lines(
    uri: str, name: str, chosen: Any, other: Any, held: Mapping[str, list[str]], host: str | None
) -> Iterator[str]:
    number = number_of(chosen)
    alias = ", ".join(sorted(held.get(number, ()))) or "no alias"
    yield f"## {_text(name)} version {number}: {alias}"
    yield ""
    decision, reason = chosen.tags.get(DECISION, "nothing decided yet"), chosen.tags.get(REASON, "")
    reason = reason.removeprefix(f"{decision}: ") or "no reason is written on the version"
    yield f"**{_text(decision)}**: {_text(reason)}."
    yield ""
    if "true" in (chosen.tags.get("casbah.simulated"), other and other.tags.get("casbah.simulated")):
        yield "**SIMULATED**: these numbers show that everything works, not how well buildings are mapped."
        yield ""
    yield from _table(chosen, other, held)
    yield ""
    if other is not None:
        yield _difference(chosen)
        yield ""
    yield f"Registered {_day(chosen)}, [in MLflow]({page_of(uri, name, number)}). {_run(chosen, host)}"


def _table(chosen: Any, other: Any, held: Mapping[str, list[str]]) -> Iterator[str]:
    columns = [chosen] if other is None else [chosen, other]
    heads = [f"version {number_of(chosen)}"]
    if other is not None:
        champion = CHAMPION in held.get(number_of(other), ())
        heads.append(f"{'champion' if champion else 'champion before it'}, version {number_of(other)}")
    yield _row("", *heads)
    yield _row(*["---"] * (len(columns) + 1))
    for score, words in SCORES.items():
        yield _row(words, *(_score(one, score) for one in columns))
    for tag, words in FACTS.items():
        yield _row(words, *(WORDS.get(value := one.tags.get(tag, ""), _text(value)) or "–" for one in columns))
    for tag, words in ORIGINS.items():
        yield _row(words, *(_origin(one.tags.get(tag, "")) for one in columns))


def _difference(chosen: Any) -> str:
    """What is known of both models on the same blocks. Scores in the table are each version's own."""
    blocks = len(compared_on(chosen))
    if not blocks:
        return "They were not compared on the same test blocks: the scores above are each version's own."
    before = chosen.tags.get("casbah.test_blocks_decided_before", "0")
    again = "" if before == "0" else f" These blocks had decided {_text(before)} time(s) before."
    found = _interval(chosen.tags.get(DIFFERENCE, ""))
    if found is None or found.value is None or found.low is None or found.high is None:
        return f"Compared on {blocks} test blocks that neither model has seen; the reason above says how.{again}"
    return (
        f"Paired difference in building IoU to the champion of then: {found.value:+.3f} (95 % interval "
        f"{found.low:+.3f} to {found.high:+.3f}) on {blocks} test blocks that neither model has seen. The scores above "
        f"are each version's own, on its own test blocks.{again}"
    )


def _score(version: Any, score: str) -> str:
    found = _interval(version.tags.get(f"casbah.test_{score}", ""))
    return "–" if found is None else found.text()


def _interval(text: str) -> Interval | None:
    """A tag of value, low and high; None where it is none of ours."""
    try:
        value, low, high = json.loads(text)
        return Interval(value=value, low=low, high=high)
    except (ValueError, TypeError):
        return None


def _origin(value: str) -> str:
    return "–" if value in ABSENT else _code(value)


def _run(version: Any, host: str | None) -> str:
    run = version.tags.get(KFP_RUN, "")
    if run in ABSENT:
        return "No run of the pipeline is named on it."
    link = (
        f"[Its run]({shown(host).rstrip('/')}/#/runs/details/{run})" if host and run.replace("-", "").isalnum() else ""
    )
    return f"{link or 'Its run'} on Kubeflow: {_code(run)}."


def _day(version: Any) -> str:
    return f"{datetime.fromtimestamp(version.creation_timestamp / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _text(value: str) -> str:
    """A value of somebody else's as text: on one line, without a table's bars, HTML and mentions of people."""
    plain = html.escape(" ".join(value.split()), quote=False).rstrip(".")
    for sign in "\\|[]*`":
        plain = plain.replace(sign, f"\\{sign}")
    return plain.replace("@", "&#8203;@")


def _code(value: str) -> str:
    return f"`{' '.join(value.split()).replace('`', '').replace('|', '')}`"
