"""The `doctor` command."""

from pathlib import Path
from typing import Annotated

import typer

from casbah.cli.root import app

SIGNS = {True: "ok", False: "BAD", None: "-"}


@app.command()
def doctor(
    directory: Annotated[Path, typer.Option(help="The directory of a stack that `casbah up` may have started.")] = Path(
        ".casbah"
    ),
) -> None:
    """Look at what Casbah needs on this machine: one line each, and exit code 3 if something is broken.

    A dash marks what is absent without harm, such as a GPU. Example: `casbah doctor`
    """
    from casbah.doctor import findings
    from casbah.errors import WorldError

    bad = []
    for finding in findings(directory):
        typer.echo(f"{SIGNS[finding.good]:4}{finding.subject:14}{finding.text}")
        if finding.good is False:
            bad.append(finding.subject)
    if bad:
        raise WorldError(f"{', '.join(bad)} will not do; the lines above say why")
