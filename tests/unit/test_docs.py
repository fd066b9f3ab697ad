"""The pages of docs/ and the README can be followed: links, commands and names hold, and each rule sees a breach."""

import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from workflow_rules import CASBAH, commands, unknown_to_casbah, unknown_to_make

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from api import PUBLIC, loaded, public_names  # noqa: E402 - it lies beside the pages

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAME = re.compile(r"(casbah(?:\.\w+)+)(?:\([^)]*\))?")
WITHOUT_WORDS = ("…", "$(")
"""In a command: something is left out, or filled in by the shell."""

STANDS_FOR_ITSELF = {"casbah.example", "casbah.io", "casbah.kfp_run", "casbah.image"}
"""Names that look like Python's: hosts, labels and tags."""


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", text)


@cache
def anchors(file: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.*)$", prose(file.read_text(encoding="utf-8")), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        again = sum(one == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", one) is not None for one in found)
        found.append(f"{slug}-{again}" if again else slug)
    return frozenset(found)


def broken_links(file: Path, text: str) -> Iterator[str]:
    """Relative links of a page at `file` that lead nowhere."""
    for link in LINK.findall(prose(text)):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (file.parent / place).resolve() if place else file
        if not target.exists():
            yield f"{link}: there is no {place}"
        elif anchor and (target.suffix != ".md" or anchor not in anchors(target)):
            yield f"{link}: {target.name} has no heading of that name"


def broken_commands(text: str) -> Iterator[str]:
    """Commands of `casbah` and targets of `make` on a page that would be refused."""
    for language, block in FENCE.findall(text):
        if language in ("python", "json", "yaml"):
            continue
        lines = block.replace("\\\n", " ").splitlines()
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            if "$(casbah " in line:
                yield from _refused(re.sub(r".*\$\((casbah [^)]*)\).*", r"\1", line), whole=True)
            if re.match(r"\s*(casbah|make|eval|CASBAH)\b", line) and not re.match(r"\s*casbah {2,}", line):
                yield from _refused(line, whole=True)
    for code in INLINE.findall(prose(text)):
        yield from _refused(code, whole=False)


def _refused(line: str, whole: bool) -> Iterator[str]:
    whole = whole and not any(mark in line for mark in WITHOUT_WORDS)
    said = re.sub(r"\$\(\(.*?\)\)|\$\w+", "1", line).partition("$(")[0].replace("…", " ")
    if said.count('"') % 2:  # what the shell fills in was quoted
        said = said.replace('"', "")
    for words in commands(said):
        if words and words[0] == "make":
            yield from unknown_to_make(words[1:])
        elif words and CASBAH.fullmatch(words[0]) and words[-1] == "--help":
            yield from (
                f"{line.strip()}: {what}" for what in unknown_to_casbah(words[1:-1], whole=False) if words[1:-1]
            )
        elif words and CASBAH.fullmatch(words[0]) and len(words) > 1:
            yield from (f"{line.strip()}: {what}" for what in unknown_to_casbah(words[1:], whole=whole))


def missing_names(text: str) -> Iterator[str]:
    """Names of Casbah's modules and functions in a page's text and Python that do not exist."""
    for code in INLINE.findall(prose(text)):
        match = NAME.fullmatch(code)
        if match and not any(match[1].startswith(one) for one in STANDS_FOR_ITSELF) and not _exists(match[1]):
            yield code
    for language, block in FENCE.findall(text):
        if language == "python":
            for module, names in re.findall(r"^from (casbah[\w.]*) import (.+)$", block, re.M):
                public = public_names(loaded(module)) if module in PUBLIC else set()
                yield from (f"{module}.{name.strip()}" for name in names.split(",") if name.strip() not in public)


def _exists(dotted: str) -> bool:
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(broken_links(page, page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_that_casbah_and_make_take(page: Path) -> None:
    assert list(broken_commands(page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_of_casbah_exists(page: Path) -> None:
    assert list(missing_names(page.read_text(encoding="utf-8"))) == []


def test_the_index_names_every_page() -> None:
    named = {link.partition("#")[0] for link in LINK.findall((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= named


@pytest.mark.parametrize("link", ["[x](nothing.md)", "[x](pisa.md#no-such-heading)", "[x](#neither)"])
def test_a_link_that_leads_nowhere_is_seen(link: str) -> None:
    assert list(broken_links(ROOT / "docs" / "ci.md", link))


@pytest.mark.parametrize(
    "text",
    [
        "```\ncasbah tile --scene runs/scene --output runs/tiles\n```",
        "```console\n$ casbah ingest --areas town.geojson\n```",
        '```\ncasbah up && eval "$(casbah up --envy)"\n```',
        "```\nmake coffee\n```",
        "```\nmake images REGISTER=ghcr.io/me\n```",
        "```\ncasbah weights miror x\n```",
        "so `casbah finetune --configuration X` it is",
        "with `casbah dance`",
    ],
)
def test_a_command_that_is_refused_is_seen(text: str) -> None:
    assert list(broken_commands(text))


@pytest.mark.parametrize(
    "text", ["`casbah.tile.cut`", "`casbah.tiles`", "```python\nfrom casbah.tile import Choices\n```"]
)
def test_a_name_that_does_not_exist_is_seen(text: str) -> None:
    assert list(missing_names(text))


def test_the_reference_covers_every_public_module_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("pdoc", reason="pdoc comes with the extra `dev`")
    from api import main

    main(tmp_path)
    written = {
        file.relative_to(tmp_path).with_suffix("").as_posix().replace("/", ".") for file in tmp_path.rglob("*.html")
    }
    assert written - {"index"} == set(PUBLIC)
    for module in ("compare", "finetune", "label", "footprints"):
        assert f'id="{module}"' in (tmp_path / "casbah" / f"{module}.html").read_text(encoding="utf-8")
