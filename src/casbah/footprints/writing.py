"""The files of a footprint set, each of which says by itself what it holds."""

from pathlib import Path
from typing import Any

import geopandas
import pyarrow.parquet
import pyogrio
import pyogrio.errors

from casbah.products.footprints import FootprintInfo

LAYER = "footprints"

LICENCE = "as the sources named in the attribution ask"
"""Casbah asks for nothing of its own; imagery and labels behind a model may."""

FAULTS = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.FeatureError,
    pyogrio.errors.FieldError,
    pyogrio.errors.GeometryError,
)


def metadata(info: FootprintInfo) -> dict[str, str]:
    """What is written into each file beside its rows; `casbah label` reads it back."""
    return {
        "description": ("SIMULATED. " if info.simulated else "") + info.meaning,
        "attribution": "; ".join(info.attribution),
        "licence": LICENCE,
        "model": info.model.name,
        "threshold": f"{info.threshold:g}",
        "dates": dates(info),
        "casbah:simulated": str(info.simulated).lower(),
    }


def dates(info: FootprintInfo) -> str:
    """The days of the imagery, or from when to when where they are not known."""
    days = [day for period in info.periods for day in (period.dates or (f"{period.start}/{period.end}",))]
    return ", ".join(dict.fromkeys(days))


def write_parquet(frame: geopandas.GeoDataFrame, path: Path, info: FootprintInfo) -> None:
    """GeoParquet with the metadata in the file's key-value pairs."""
    frame.to_parquet(path, index=False)
    table = pyarrow.parquet.read_table(path)
    about: dict[bytes, bytes] = {key.encode(): value.encode() for key, value in metadata(info).items()}
    pyarrow.parquet.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **about}), path)


def write_vector(frame: geopandas.GeoDataFrame, path: Path, info: FootprintInfo) -> None:
    """GeoPackage or FlatGeobuf, with the metadata in the layer's; OSError where the disk takes it not, or not whole."""
    about = metadata(info)
    options: dict[str, Any] = {"layer_metadata": about, "layer_options": {"DESCRIPTION": about["description"]}}
    # A GeoPackage tells when it was changed: of equal polygons equal bytes are wanted.
    changed = max((period.end[:10] for period in info.periods), default="2000-01-01")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": f"{changed}T00:00:00.000Z"})
    try:
        pyogrio.write_dataframe(frame, path, layer=LAYER, geometry_type="Polygon", **options)
        # A disk that fills while a file is closed, when its spatial index is made, is told by no error of GDAL's.
        found = pyogrio.read_info(path, force_feature_count=True)
    except FAULTS as error:
        raise OSError(f"{path.name} could not be finished ({str(error).strip().splitlines()[0]})") from error
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
    indexed = found["capabilities"]["fast_spatial_filter"] or frame.empty
    if found["features"] != len(frame) or not indexed:
        raise OSError(f"{path.name} was cut off while it was written")
