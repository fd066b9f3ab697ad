"""The `terratorch` command."""

import sys

import typer

from casbah.cli.root import app


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def terratorch(context: typer.Context) -> None:
    """Run TerraTorch's own command, where torch and torchvision come from different builds too.

    Everything after `terratorch` is TerraTorch's:

        CASBAH_TILES=build/tiles casbah terratorch fit --config configs/experiments/unet_scratch.yaml
    """
    from casbah.models import torchvision_cure

    torchvision_cure.apply()
    from terratorch.__main__ import main

    sys.argv = ["terratorch", *context.args]
    main()
