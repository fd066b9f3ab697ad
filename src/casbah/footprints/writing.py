"""The files of a footprint set, each of which says by itself what it holds."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import pyarrow.parquet
import pyogrio
import pyogrio.errors

from casbah.products.footprints import FootprintInfo

LAYER = "footprints"

GEOMETRY = "geometry"

COLUMNS = pyarrow.schema(
    {
        "id": pyarrow.string(),
        "probability": pyarrow.float64(),
        "area_m2": pyarrow.float64(),
        "model": pyarrow.string(),
        "dates": pyarrow.string(),
        "attribution": pyarrow.string(),
        "simulated": pyarrow.bool_(),
        GEOMETRY: pyarrow.binary(),
    }
)

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


def write_table(frame: geopandas.GeoDataFrame, path: Path, info: FootprintInfo) -> None:
    """GeoParquet with the metadata in the file's key-value pairs."""
    frame.to_parquet(path, index=False)
    table = pyarrow.parquet.read_table(path)
    about = {**(table.schema.metadata or {}), **metadata(info)}
    pyarrow.parquet.write_table(table.replace_schema_metadata(about), path)


@dataclass(frozen=True)
class Layer:
    """Polygons that come some at a time, and how they are written: twice the same of equal ones."""

    info: FootprintInfo
    crs: str
    bounds: list[float]
    """West, south, east, north; NaN of no polygon."""
    rows: Callable[[], Iterator[pyarrow.RecordBatch]]
    """Goes through all of them anew, in batches of the columns `COLUMNS`."""

    def write_parquet(self, path: Path) -> None:
        """GeoParquet with the metadata in the file's key-value pairs."""
        about = metadata(self.info) | {"geo": json.dumps(self._geo())}
        schema = COLUMNS.with_metadata(about)
        with pyarrow.parquet.ParquetWriter(path, schema) as file:
            for batch in self.rows():
                file.write_batch(batch.replace_schema_metadata(schema.metadata))

    def write_vector(self, path: Path) -> None:
        """GeoPackage or FlatGeobuf, with the metadata in the layer's; OSError where the disk takes it not, or not
        whole."""
        about = metadata(self.info)
        options: dict[str, Any] = {"layer_metadata": about, "layer_options": {"DESCRIPTION": about["description"]}}
        # A GeoPackage tells when it was changed: of equal polygons equal bytes are wanted.
        changed = max((period.end[:10] for period in self.info.periods), default="2000-01-01")
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": f"{changed}T00:00:00.000Z"})
        faults: list[BaseException] = []
        reader = pyarrow.RecordBatchReader.from_batches(COLUMNS, self._watched(faults))
        try:
            pyogrio.write_arrow(
                reader, path, layer=LAYER, geometry_name=GEOMETRY, geometry_type="Polygon", crs=self.crs, **options
            )
            # A disk that fills while a file is closed, when its spatial index is made, is told by no error of GDAL's.
            found = pyogrio.read_info(path, force_feature_count=True)
        except (*FAULTS, RuntimeError) as error:
            if faults:
                raise faults[0] from None
            if not isinstance(error, FAULTS):
                raise
            raise OSError(f"{path.name} could not be finished ({str(error).strip().splitlines()[0]})") from error
        finally:
            pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
        indexed = found["capabilities"]["fast_spatial_filter"] or not self.info.polygons
        if found["features"] != self.info.polygons or not indexed:
            raise OSError(f"{path.name} was cut off while it was written")

    def _watched(self, faults: list[BaseException]) -> Iterator[pyarrow.RecordBatch]:
        """The rows; what ends them before their end is kept, since Arrow's stream hands on that something did alone."""
        try:
            yield from self.rows()
        except GeneratorExit:
            raise
        except BaseException as error:
            faults.append(error)
            raise

    def _geo(self) -> Any:
        """What GeoParquet wants said of the geometries, as geopandas says it of none."""
        empty = io.BytesIO()
        geopandas.GeoDataFrame(geometry=geopandas.GeoSeries([], crs=self.crs)).to_parquet(empty)
        said = json.loads(pyarrow.parquet.read_schema(empty).metadata[b"geo"])
        if self.info.polygons:
            said["columns"][GEOMETRY] |= {"geometry_types": ["Polygon"], "bbox": self.bounds}
        return said
