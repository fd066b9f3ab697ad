"""The workflows fit GitHub's schema, hold up to linters, keep the rules; and each rule refuses what breaks it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tools import missing
from workflow_rules import complaints, read

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEXTS = {file.stem: file.read_text() for file in FILES}


def linter(name: str, *words: str | Path, said: str = "") -> tuple[int, str]:
    """Exit code and words of a linter of the `dev` extra."""
    beside = Path(sys.executable).parent / name
    program = str(beside) if beside.is_file() else shutil.which(name)
    if program is None:
        missing(f"{name} is not installed; the extra `dev` brings it")
    done = subprocess.run([program, *map(str, words)], input=said, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def schema(file: Path) -> tuple[int, str]:
    return linter("check-jsonschema", "--builtin-schema", "vendor.github-workflows", file)


def audit(folder: Path) -> tuple[int, str]:
    """Zizmor, which looks for holes in workflows, without the internet."""
    return linter("zizmor", "--offline", "--persona", "pedantic", "--no-progress", folder)


def changed(name: str, old: str, new: str) -> str:
    assert old in TEXTS[name], f"{name}.yml holds no {old!r} to break"
    return TEXTS[name].replace(old, new)


def written(folder: Path, text: str) -> Path:
    file = folder / ".github" / "workflows" / "broken.yml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


def test_there_is_a_workflow_for_each_job_that_docs_promise() -> None:
    assert set(TEXTS) == {"ci", "images", "rollback", "retrain"}


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_each_keeps_the_rules(name: str) -> None:
    assert complaints(name, TEXTS[name]) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_fits_githubs_schema(file: Path) -> None:
    code, said = schema(file)
    assert code == 0, said


def test_none_has_a_hole_that_zizmor_knows() -> None:
    code, said = audit(ROOT / ".github" / "workflows")
    assert code == 0, said


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_scripts_hold_up_to_shellcheck(name: str) -> None:
    for job in read(TEXTS[name])["jobs"].values():
        for step in job["steps"]:
            code, said = linter("shellcheck", "--shell", "bash", "-", said=step.get("run", ""))
            assert code == 0, f"{step['run']}\n{said}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("runs-on: ubuntu-24.04", "runs_on: ubuntu-24.04"),
        ("timeout-minutes: 30", "timeout-minuts: 30"),
        ("  pull_request:", "  pull_requests:"),
    ],
)
def test_the_schema_refuses_words_that_github_does_not_know(old: str, new: str, tmp_path: Path) -> None:
    code, said = schema(written(tmp_path, changed("ci", old, new)))
    assert code == 1, said


@pytest.mark.parametrize(
    ("name", "old", "new", "found"),
    [
        ("rollback", '--name="$MODEL_NAME"', '--name="${{ inputs.name }}"', "template-injection"),
        ("ci", "@de0fac2e4500dabe0009e67214ff5f5447ce83dd # v6.0.2", "@v6", "unpinned-uses"),
        ("ci", "permissions: {}", "permissions: write-all", "excessive-permissions"),
        ("ci", "  pull_request:", "  pull_request_target:", "dangerous-triggers"),
    ],
)
def test_zizmor_refuses_holes(name: str, old: str, new: str, found: str, tmp_path: Path) -> None:
    code, said = audit(written(tmp_path, changed(name, old, new)).parents[2])
    assert code != 0
    assert found in said


def test_shellcheck_refuses_a_variable_without_quotes() -> None:
    code, said = linter("shellcheck", "--shell", "bash", "-", said='cat $1 "$2"\n')
    assert code == 1, said


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("ci", "permissions: {}\n", "", "permissions of the workflow are not {}"),
        ("ci", "permissions: {}\n", "permissions: read-all\n", "permissions of the workflow are not {}"),
        ("ci", "      contents: read", "      contents: write", "may write contents"),
        ("ci", "    permissions:\n      contents: read\n", "", "no permissions of its own"),
        ("ci", "    timeout-minutes: 30\n", "", "no timeout"),
        ("ci", "concurrency:", "concurrence:", "no concurrency"),
        ("ci", "    shell: bash", "    shell: sh", "a failure in a pipe is lost"),
        ("ci", "  pull_request:", "  pull_request_target:", "runs a stranger's code"),
        ("ci", "needs: [lint, unit]", "needs: [lint, units]", "needs units, which is no job"),
        ("ci", "persist-credentials: false", "persist-credentials: true", "checkout leaves its token behind"),
        ("ci", "309ff8b426b58ec0e2a45f0f869d46889d02405 # v6.2.0", "309ff8b # v6.2.0", "is not pinned by a commit"),
        ("ci", " # v6.0.2", "", "does not say its version"),
        ("ci", "make lint types", "make lint typos", "make has no target typos"),
        ("ci", 'TORCH_INDEX="$TORCH_INDEX"', 'TORCH_INDX="$TORCH_INDEX"', "make knows no variable TORCH_INDX="),
        ("images", "casbah pipeline compile", "casbah pipeline compiles", "casbah pipeline has no command 'compiles'"),
        ("images", "--images build/images.json", "--image-file x", "compile has no option --image-file"),
        ("images", "steps.grype.outputs", "steps.gripe.outputs", "there is no step gripe"),
        ("retrain", "--wait", "--wate", "casbah submit has no option --wate"),
        ("retrain", "--timeout-minutes 330", "--timeout-minutes soon", "casbah submit refuses these words"),
        ("retrain", "needs.retrain.outputs.issue", "needs.retrain.outputs.issues", "there is no output issues"),
        ("retrain", '"$ISSUE" --body-file', '"${{ inputs.issue }}" --body-file', "an expression inside of `run`"),
        ("rollback", "casbah rollback", "casbah roll-back", "casbah has no command 'roll-back'"),
        ("rollback", "MODEL_NAME: ${{ inputs.name }}", "MODEL_NAME: ${{ secrets.KFP_TOKEN }}", "does not need"),
        (
            "rollback",
            "python-version: ",
            "token: ${{ secrets.KFP_TOKEN }}\n          python-version: ",
            "outside of env",
        ),
    ],
)
def test_each_rule_refuses_what_breaks_it(name: str, old: str, new: str, complaint: str) -> None:
    assert any(complaint in found for found in complaints(name, changed(name, old, new)))


def test_images_are_built_and_the_pipeline_runs_in_them_before_anything_is_merged() -> None:
    jobs = read(TEXTS["ci"])["jobs"]
    assert any(step.get("run", "").startswith("make test-images ") for step in jobs["images"]["steps"])
    assert "if" not in jobs["images"]
    assert "pull_request" in read(TEXTS["ci"])["on"]


def test_a_release_holds_every_pipeline_compiled() -> None:
    from casbah.pipeline.compiled import PIPELINES

    (kept,) = (
        s for s in read(TEXTS["images"])["jobs"]["images"]["steps"] if s.get("with", {}).get("name") == "release"
    )
    for name in PIPELINES:
        assert f"build/{name}.yaml" in kept["with"]["path"].split()
        assert f"--output build/{name}.yaml" in TEXTS["images"]


def test_nothing_is_pushed_before_it_was_started_and_scanned() -> None:
    runs = [step.get("run", "") for step in read(TEXTS["images"])["jobs"]["images"]["steps"]]
    targets = ("images ", "images-start", "images-sbom", "images-scan", "images-push")
    order = [at for target in targets for at, run in enumerate(runs) if run.startswith(f"make {target}")]
    assert len(order) == 5
    assert order == sorted(order)
    assert "REGISTRY" not in runs[order[0]], "`make images REGISTRY=…` pushes what it builds"
    login = next(place for place, run in enumerate(runs) if "docker login" in run)
    assert order[-2] < login < order[-1]


def test_under_ci_a_test_without_its_program_fails() -> None:
    assert read(TEXTS["ci"])["env"]["CASBAH_CI"] == "1"
    assert "export CASBAH_CI=1" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_a_retraining_says_where_and_as_whom_it_submits_and_the_guide_names_all_that_it_wants() -> None:
    from casbah.pipeline import kubeflow

    (train,) = (step for step in read(TEXTS["retrain"])["jobs"]["retrain"]["steps"] if step.get("name") == "Train")
    assert {kubeflow.HOST, kubeflow.TOKEN, kubeflow.NAMESPACE} <= set(train["env"])
    read_there = set(re.findall(r"(?:vars|secrets)\.(\w+)", TEXTS["retrain"] + TEXTS["rollback"])) - {"GITHUB_TOKEN"}
    rows = re.findall(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \|", (ROOT / "docs" / "ci.md").read_text(), re.M)
    assert {name for row in rows for name in re.findall(r"[A-Z_]+", row)} == read_there


def test_a_retraining_reads_the_world_as_of_today_whatever_was_asked_for(tmp_path: Path) -> None:
    """The script itself, with a stand-in for `casbah`: what comes from outside stays words."""
    steps = read(TEXTS["retrain"])["jobs"]["retrain"]["steps"]
    script = next(step["run"] for step in steps if step.get("name") == "Train")
    casbah = tmp_path / ".venv" / "bin" / "casbah"
    casbah.parent.mkdir(parents=True)
    casbah.write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\necho "Run           abc-1"\n')
    casbah.chmod(0o755)
    (tmp_path / "build").mkdir()
    asked = "aoi=algiers  snapshot=2020-01-01 name=mine $(touch${IFS}broken) `id` ;x *"
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "ARGUMENTS": asked}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    words = re.findall(r"<(.*)>", done.stdout)
    after = words[words.index("--") + 1 :]
    assert after[:-1] == asked.split()
    assert re.fullmatch(r"snapshot=\d{4}-\d\d-\d\d", after[-1])
    assert not (tmp_path / "broken").exists()
    assert (tmp_path / "build" / "model.txt").read_text() == "mine\n"
    report = next(step["run"] for step in steps if step.get("name") == "Report")
    (sed,) = (line for line in report.splitlines() if line.startswith("run="))
    found = subprocess.run(["bash", "-c", f'{sed}; echo "$run"'], cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout == "abc-1\n"


@pytest.mark.parametrize(
    ("trained", "submitted", "casbah", "code", "said"),
    [
        ("success", "Run           abc-1\nPage          http://kfp/#/runs/abc-1\n", 0, 0, ["# Version 7"]),
        ("failure", "Run           abc-1\nPage          http://kfp/#/runs/abc-1\n", 0, 0,
         ["did not succeed", "(http://log)", "(http://kfp/#/runs/abc-1)", "# Version 7"]),
        ("failure", "Run           abc-1\n", 3, 3, ["did not succeed", "could not be asked", "the run abc-1", "(http://log)"]),
        ("failure", "", 0, 0, ["did not succeed", "(http://log)"]),
        ("skipped", None, 0, 0, ["did not succeed", "(http://log)"]),
    ],
)  # fmt: skip
def test_whoever_waits_for_a_retraining_hears_of_it_however_it_ended(
    trained: str, submitted: str | None, casbah: int, code: int, said: list[str], tmp_path: Path
) -> None:
    jobs = read(TEXTS["retrain"])["jobs"]
    steps = jobs["retrain"]["steps"]
    (report,) = (step for step in steps if step.get("name") == "Report")
    program = tmp_path / ".venv" / "bin" / "casbah"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nfor w in "$@"; do last="$w"; done\necho "# Version 7" > "$last"\nexit {casbah}\n')
    program.chmod(0o755)
    if submitted is not None:
        (tmp_path / "build").mkdir()
        (tmp_path / "build" / "submitted.txt").write_text(submitted)
        (tmp_path / "build" / "model.txt").write_text("casbah-buildings\n")
    given = {"PATH": "/usr/bin:/bin", "TRAINED": trained, "LOG": "http://log", "GITHUB_STEP_SUMMARY": "summary"}
    command = ["bash", "-eo", "pipefail", "-c", report["run"]]
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    text = (tmp_path / "build" / "report.md").read_text()
    assert not [words for words in said if words not in text], text
    assert ("did not succeed" in text) is (trained != "success")
    assert (tmp_path / "summary").read_text() == text
    later = [report, steps[steps.index(report) + 1], jobs["comment"]]
    assert all("!cancelled()" in step["if"] for step in later)


@pytest.mark.parametrize(
    ("issue", "release", "code"),
    [("12", "v1.0.0", 0), ("", "v1.0.0", 0), ("1; id", "v1", 2), ("12", "-x", 2), ("12", "v1\nissue=3", 2)],
)
def test_what_a_dispatch_asks_for_is_checked_before_it_is_used(
    issue: str, release: str, code: int, tmp_path: Path
) -> None:
    steps = read(TEXTS["retrain"])["jobs"]["retrain"]["steps"]
    script = next(step["run"] for step in steps if step.get("id") == "asked")
    output = tmp_path / "output"
    given = {"PATH": "/usr/bin:/bin", "ISSUE": issue, "RELEASE": release, "GITHUB_OUTPUT": str(output)}
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", script], env=given, capture_output=True, text=True)
    assert done.returncode == code
    assert (output.read_text() if output.exists() else "") == ("" if code else f"issue={issue}\nrelease={release}\n")
