"""UrbanGraphSAGE: GraphSAGE on the superpixels of an image, and back to its pixels."""

from collections.abc import Sequence

import torch
from terratorch.models.model import Model, ModelOutput
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import SAGEConv

from casbah.bands import band
from casbah.models.graph import segment_features, superpixels


class SuperpixelEncoder(nn.Module):
    """Features of superpixels and who touches whom -> an embedding of each.

    GraphSAGE with mean aggregation (Hamilton et al. 2017, arXiv 1706.02216), each layer normalised and added to what
    it was given. Layer norms see one superpixel at a time, so that an image of a single one is as good as any other.
    """

    def __init__(self, features: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features, hidden), nn.LayerNorm(hidden), nn.GELU())
        self.layers = nn.ModuleList(SAGEConv(hidden, hidden, aggr="mean") for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        """(superpixels, features) and (2, edges) -> (superpixels, hidden)."""
        state: Tensor = self.embed(features)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            state = state + self.dropout(functional.gelu(norm(layer(state, edges))))
        return state


class UrbanGraphSAGE(Model):
    """Logits (n, classes, rows, cols) of normalised images (n, periods x bands, rows, cols), of any size.

    With `pixel_head` a small network per pixel sees the pixel's own bands beside the embedding of its superpixel: at
    10 m superpixels mix roofs and streets, and could not be labelled rightly as wholes. Without, all pixels of a
    superpixel get its class.

    `encoder` is the graph network, for those who freeze it or give it a learning rate of its own.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        bands: Sequence[str],
        mean: Tensor,
        std: Tensor,
        *,
        classes: int,
        pixels_per_segment: int,
        compactness: float,
        hidden: int,
        layers: int,
        dropout: float,
        pixel_head: bool,
    ) -> None:
        super().__init__()
        self.bands, self.pixels_per_segment, self.compactness = tuple(bands), pixels_per_segment, compactness
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        channels = mean.numel()
        self.sharp = _sharpest(self.bands, len(mean))
        count = segment_features.feature_count(self.bands, len(mean))
        self.encoder = SuperpixelEncoder(count, hidden, layers, dropout)
        self.pixel_head = pixel_head
        self.head: nn.Module = nn.Linear(hidden, classes)
        if pixel_head:
            self.head = nn.Sequential(
                nn.Linear(channels + hidden, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, classes)
            )

    def forward(self, images: Tensor) -> ModelOutput:
        """See the class."""
        n, channels, rows, cols = images.shape
        with torch.no_grad():
            segments = superpixels.segments(images[:, self.sharp], self.pixels_per_segment, self.compactness)
            indices = segment_features.indices(images, self.bands, self.mean, self.std)
            features = segment_features.features(images, segments, indices)
            edges = superpixels.adjacency(segments)
        embedding = self.encoder(features, edges)
        of = segments.reshape(-1)
        if self.pixel_head:
            pixels = images.permute(0, 2, 3, 1).reshape(-1, channels)
            logits = self.head(torch.cat([pixels, embedding[of]], dim=1))
        else:
            logits = self.head(embedding)[of]
        return ModelOutput(logits.reshape(n, rows, cols, -1).permute(0, 3, 1, 2))

    def freeze_encoder(self) -> None:
        """Learn the head alone."""
        self.encoder.requires_grad_(False)

    def freeze_decoder(self) -> None:
        """Learn the graph network alone."""
        self.head.requires_grad_(False)


def _sharpest(bands: Sequence[str], periods: int) -> list[int]:
    """The channels of the bands with the finest native pixels: superpixels are drawn by them, of all periods.

    Bands of 20 and 60 m blur the edges that superpixels follow, and cost SLIC time.
    """
    resolutions = [band(name).resolution for name in bands]
    chosen = [number for number, metres in enumerate(resolutions) if metres == min(resolutions)]
    return [period * len(bands) + number for period in range(periods) for number in chosen]
