"""The telling part of what TerraTorch's parser (jsonargparse) says about a setting, in one sentence."""

import re

from casbah.errors import CasbahError

LONGEST = 300
"""Characters of a complaint that is not understood."""

TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "NoneType": "null",
}
"""Python's names, in the words of a YAML."""


def gist(text: str) -> str:
    """What is wrong with which setting, from a complaint of many lines; the complaint in one line where it is another.

    jsonargparse nests: the setting that is wrong stands innermost, below each section and class that holds it.
    """
    after = text.rpartition("error: ")[2]
    keys = list(re.finditer(r'^( *)Parser key "([^"]+)":\n', after, re.MULTILINE))
    if keys:
        inner = after[keys[-1].end() :]
        body = re.match(rf"(?: {{{len(keys[-1][1]) + 1},}}.*\n?)*", inner)
        said = _expected(body[0] if body else inner)
        name = _setting(after, [key[2] for key in keys])
        if said:
            return f"{name} {said}"
    line = re.sub(r"\s+", " ", after).strip(" .")
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def ours(error: BaseException | None) -> CasbahError | None:
    """What a class of ours said, below the words of those who built it."""
    while error is not None and not isinstance(error, CasbahError):
        error = error.__cause__ or error.__context__
    return error


def _setting(text: str, keys: list[str]) -> str:
    """The name of the innermost setting, with what it lies in."""
    section = keys[0].removeprefix("fit.").removeprefix("validate.").removeprefix("test.")
    classes = re.findall(r"Problem with given class_path '([^']+)'", text)
    of_class = f" ({classes[-1].rpartition('.')[2]})" if classes and section not in ("model", "data") else ""
    inside = f".init_args.{keys[-1]}" if len(keys) > 1 else ""
    return f"{section}{of_class}{inside}"


def _expected(body: str) -> str:
    """`is 2.5; a whole number is wanted`, `lacks monitor` and the like; nothing where the complaint is another."""
    lacking = re.search(r"the following arguments are required: (.+)", body)
    if lacking:
        return f"lacks {lacking[1].strip()}, without a default"
    unknown = re.search(r"Option '([^']+)' is not accepted", body)
    if unknown:
        return f"has no setting {unknown[1]!r}"
    wanted = re.findall(r"Expected a (.+?)(?:\. Got value: .*)?$", body, re.MULTILINE)
    found = re.findall(r"(?:Got|Given) value: (.*)$", body, re.MULTILINE)
    if not wanted or not found:
        return ""
    choices = list(dict.fromkeys(choice for kind in wanted for choice in _choices(kind)))
    listed = " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))
    value = found[-1] if len(found[-1]) <= 60 else found[-1][:57] + "..."
    return f"is {value}; {listed} is wanted"


def _choices(kind: str) -> list[str]:
    """What a type allows: its values where it lists them."""
    literal = re.fullmatch(r"typing\.Literal\[(.+)\]", kind)
    if literal:
        return [item.strip(" '\"") for item in literal[1].split(",")]
    name = re.fullmatch(r"<class '([\w.]+)'>", kind)
    return [TYPES.get(name[1], name[1].rpartition(".")[2]) if name else kind]
