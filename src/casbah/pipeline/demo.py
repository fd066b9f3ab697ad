"""The demo: the simulated town made, published and served, and the pipeline run on it."""

from dataclasses import replace
from pathlib import Path

from casbah import sample
from casbah.errors import unwritable
from casbah.pipeline import inputs
from casbah.pipeline.session import Request, Results, Session
from casbah.progress import say
from casbah.sample import api
from casbah.stack.process import free_ports

NAME = "casbah-sample"
"""A model that learned from simulated imagery never enters the registry under the name of the real one."""

PORT = "sample-api.port"
"""File that keeps the port of the town's STAC API: its address is part of what ingest's result is cached by."""


def arguments(experiments: str) -> dict[str, str]:
    """The pipeline's parameters of the demo, as a person would type them."""
    return {
        "aoi": "sample",
        "labels": "sample",
        "stac": "sample",
        "start": sample.START,
        "end": sample.END,
        "experiments": experiments,
        "name": NAME,
    }


def play(session: Session, request: Request, *, size: tuple[float, float], output: Path) -> Results:
    """Make and publish the town, serve its catalogue, run the pipeline on it, and return what came out."""
    say("Making the simulated town (reused where it is there already)")
    town = sample.make(session.directory / "sample", size=size)
    say(f"Publishing its imagery and footprints to {inputs.SAMPLE}")
    sample.publish(town.path, inputs.SAMPLE)
    with api.serve(town.path, port=_port(session.directory), asset_base=str(inputs.SAMPLE)) as address:
        say(f"Serving its catalogue as a STAC API at {address}")
        return session.run(replace(request, arguments={**request.arguments, "stac": address}), output=output)


def _port(directory: Path) -> int:
    file = directory / PORT
    try:
        kept = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
        port = free_ports(["stac"], {"stac": int(kept)} if kept.isdigit() else None)["stac"]
        file.write_text(f"{port}\n", encoding="utf-8")
    except OSError as error:
        raise unwritable(error)(f"{file} can't be written: {error.strerror}") from error
    return port
