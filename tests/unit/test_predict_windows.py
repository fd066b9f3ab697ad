"""Windows are as large as a network can be given without its seeing farther than it was trained to."""

import pytest
from test_predict_blending import training

from casbah.models import network
from casbah.predict.blending import sizes


@pytest.mark.parametrize(
    ("kind", "backbone", "wanted"),
    [
        ("Unet", "resnet18", (512, 64)),
        ("Unet", "se_resnet50", (256, 64)),
        ("DeepLabV3Plus", "resnet18", (256, 64)),
        ("Segformer", "mit_b0", (256, 64)),
    ],
)
def test_a_network_of_convolutions_alone_is_given_larger_windows(
    kind: str, backbone: str, wanted: tuple[int, int]
) -> None:
    """Squeeze-and-excitation, pooled pyramids and attention take in the whole window: what they say would change."""
    arguments = {"model": kind, "backbone": backbone, "pretrained": False, "bands": ["B02", "B03"], "num_classes": 2}
    facts = training(periods=1, normalisation={"mean": [[1500.0] * 2], "std": [[600.0] * 2], "source": "test"})
    predictor = network.NetworkPredictor(facts, network.build("SMPModelFactory", arguments), "channels")
    assert sizes(predictor, None, None) == wanted
    predictor.fold()
    assert sizes(predictor, None, None) == wanted
