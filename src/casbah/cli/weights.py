"""The `weights` commands."""

from enum import StrEnum
from pathlib import Path

import typer

from casbah.cli.root import app

commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(commands, name="weights")

_ACCEPT = typer.Option(
    [], "--accept-licence", help="A non-commercial licence that you accept, by its name; remembered beside the store."
)


class Source(StrEnum):
    """Where to fetch from."""

    hub = "hub"
    mirror = "mirror"


@commands.callback()
def _weights() -> None:
    """Published weights of the backbones: listed, fetched, mirrored and checked.

    They are kept in ~/.cache/casbah/weights, or where CASBAH_WEIGHTS says. The hub is HF_ENDPOINT's (huggingface.co
    where unset); the mirror is s3://casbah/weights/ in the store that AWS_ENDPOINT_URL names. Every file is hashed
    before it is used; the first one of a name is pinned, and a later one that differs is refused.
    """


@commands.command("list")
def list_() -> None:
    """List the published weights: which backbone they serve, where they come from, their licence, and if they are here.

    Example: casbah weights list
    """
    from rich.console import Console
    from rich.table import Table

    from casbah.weights import LocalStore, entries, state_of

    table = Table(title=f"Published weights; the store is {LocalStore().root}", title_justify="left")
    table.add_column("name", no_wrap=True)
    for heading in ("from", "licence", "sha256", "here"):
        table.add_column(heading, overflow="fold")
    for entry in entries().values():
        state, size = state_of(entry)
        pin = LocalStore().pin(entry)
        known = entry.sha256 or (pin.sha256 if pin else None) or entry.sha256_prefix
        digest = known[:16] if known else (f"md5 {entry.md5[:12]}" if entry.md5 else "unknown")
        here = "-" if state == "absent" else f"{state}, {size / 1e6:,.1f} MB"
        others = ", ".join(name for name in entry.backbones if name != entry.name)
        called = f"{entry.name}\n  for {others}" if others else entry.name
        table.add_row(called, entry.source, entry.stated_licence, digest, here)
    console = Console(highlight=False)
    console.print(table)
    for entry in entries().values():
        if entry.note:
            console.print(f"{entry.name}: {entry.note}", markup=False)


@commands.command()
def fetch(
    names: list[str] = typer.Argument(help="Names of `casbah weights list`, or backbones that they serve."),
    source: Source | None = typer.Option(
        None,
        "--from",
        help="Take the file from the hub, or the mirror, alone; the pin of a mirror that answers holds for both.  "
        "[default: the mirror, where there is one, first]",
    ),
    accept_licence: list[str] = _ACCEPT,
) -> None:
    """Bring published weights to this machine, and print where each file is.

    Looked for here, then in the mirror where AWS_ENDPOINT_URL names a store, then at the hub. A download that was cut
    goes on where it stopped, and counts only when it is whole and its hash is right.

    Example: casbah weights fetch prithvi_eo_v2_300. One that is not for commerce:
    casbah weights fetch scalemae_vit_large --accept-licence cc-by-nc-4.0
    """
    from casbah import weights

    for name in names:
        weights.find(name)
    for name in names:
        typer.echo(weights.fetch(name, source=source.value if source else None, accept=accept_licence))


@commands.command()
def add(
    name: str = typer.Argument(help="A name of `casbah weights list`."),
    file: Path = typer.Argument(help="The published file, brought by hand."),
    accept_licence: list[str] = _ACCEPT,
) -> None:
    """Take a file that was brought by hand into the store, checked as a download is.

    Example, on a machine without a network: casbah weights add galileo_nano /media/stick/encoder.pt
    """
    from casbah import weights

    typer.echo(weights.add(name, file, accept=accept_licence))


@commands.command()
def mirror(
    names: list[str] = typer.Argument(help="Names of `casbah weights list`; fetched first where they are not here."),
    accept_licence: list[str] = _ACCEPT,
) -> None:
    """Copy published weights into s3://casbah/weights/ of the store that AWS_ENDPOINT_URL names.

    Machines without the internet then fetch them from there, and a pod of the pipeline does so by itself. What you
    accepted of a non-commercial licence is noted there, and holds for whoever uses that mirror.

    Example: eval "$(casbah up --env)" && casbah weights mirror prithvi_eo_v2_300 galileo_nano
    """
    from casbah import weights

    for name in names:
        weights.find(name)
    for name in names:
        place, new = weights.copy_to_mirror(name, accept=accept_licence)
        typer.echo(f"{place}{'' if new else '  (was there)'}")


@commands.command()
def verify() -> None:
    """Hash every file in the store again, and say which are right, partial, tampered with, or unknown.

    Exit code 2 where one was tampered with. Example: casbah weights verify
    """
    from rich.console import Console
    from rich.table import Table

    from casbah.errors import InputError
    from casbah.weights import verify as look

    table = Table(title="Published weights, hashed", title_justify="left")
    for heading in ("name", "state", "what was found"):
        table.add_column(heading, overflow="fold")
    bad = []
    for verdict in look():
        table.add_row(verdict.name, verdict.state, verdict.text)
        if verdict.state == "tampered":
            bad.append(verdict.name)
    Console(highlight=False).print(table)
    if bad:
        raise InputError(f"{', '.join(bad)}: not the files that came; delete their folders and fetch them again")
