"""The `terratorch` command."""

import sys
from contextlib import nullcontext

import typer

from casbah.cli.root import app


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def terratorch(context: typer.Context) -> None:
    """Run TerraTorch's own command, where torch and torchvision come from different builds too.

    Everything after `terratorch` is TerraTorch's. An experiment on tiles of Casbah is checked first, as `casbah
    finetune` does, and a built-in one may be given by its name:

        CASBAH_TILES=build/tiles casbah terratorch fit --config unet_scratch_small
    """
    from casbah.models import torchvision_cure

    torchvision_cure.apply()
    from casbah.finetune.terratorch_command import checked, in_a_sentence

    arguments, experiment = checked(context.args)
    from terratorch.__main__ import main

    sys.argv = ["terratorch", *arguments]
    with in_a_sentence(experiment) if experiment else nullcontext():
        main()
