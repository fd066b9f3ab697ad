"""The root command that the others hang on."""

import typer

import casbah

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"casbah {casbah.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error (anywhere on the line)."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Maps buildings from Sentinel-2 by fine-tuning geospatial foundation models.

    The stages, in order: ingest, label, tile, finetune, evaluate, register; and from a model to a map: predict,
    footprints, publish. `casbah demo` runs those up to register on a simulated town; `casbah COMMAND --help` explains
    each one with an example.
    """
