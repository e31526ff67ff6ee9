"""With random weights in place of those that would have to be downloaded."""

from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchmetrics.functional.image import lpips as of_torchmetrics
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

from center_smoothing import Perceptual, check_distance
from center_smoothing.distances.pretrained import lpips, lpips_of, torchvision_perceptual


def images(count: int, size: int = 64, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


@cache
def seeded(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.get_model(name, weights=None)


@pytest.fixture
def _random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """LPIPS with random convolutions; its learned weights of channels are torchmetrics' own."""
    monkeypatch.setattr(of_torchmetrics, "_get_tv_model_features", lambda net, pretrained: seeded(net).features)


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **named: Any) -> None:  # noqa: ANN401  # whatever it is called with
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)


@pytest.mark.usefixtures("_random_weights")
@pytest.mark.parametrize("net_type", ["squeeze", "alex"])
def test_lpips_is_the_number_of_torchmetrics(net_type: str) -> None:
    a, b = images(4).chunk(2)
    distances = lpips(net_type)(a, b)  # type: ignore[arg-type]  # one of its names
    metric = LearnedPerceptualImagePatchSimilarity(net_type=net_type, normalize=True)  # type: ignore[arg-type]
    with torch.no_grad():
        each = metric.net(a, b, normalize=True).flatten()
    assert float(each.min()) > 1e-4
    torch.testing.assert_close(distances.float(), each, rtol=1e-4, atol=1e-7)
    assert float(metric(a, b)) == pytest.approx(float(distances.mean()), rel=1e-4)


@pytest.mark.usefixtures("_random_weights")
def test_lpips_is_a_distance_with_gamma_two() -> None:
    distance = lpips("squeeze")
    assert (distance.relaxation, distance.convex, distance.averages) == (2.0, False, True)
    # towards the middle of two images: without gamma = 2 the way by it would be too short
    ends = images(6)
    found = check_distance(distance, torch.cat([ends, (ends[:3] + ends[3:]) / 2]))
    assert found.passed
    assert found.needed_relaxation > 1.0


@pytest.mark.usefixtures("_random_weights")
def test_grey_images_are_images_of_three_equal_channels_and_may_be_resized() -> None:
    grey = images(4, size=28, channels=1)
    distance = lpips("squeeze")
    torch.testing.assert_close(distance.pairwise(grey, grey), distance.pairwise(grey.expand(-1, 3, -1, -1), grey))
    with pytest.raises(ValueError, match=r"size must be given, such as size=64.*: images of 28 x 28 pixels are"):
        lpips("alex").embed(grey)
    assert float(lpips("alex", size=64)(grey[:2], grey[2:]).min()) > 0.0
    for wrong in (images(2)[:, :2], images(2).flatten(1)):
        with pytest.raises(ValueError, match=r"outputs must be grey or RGB images \(N, 1 or 3, H, W\), got shape"):
            distance.embed(wrong)


def test_lpips_with_weights_below_zero_is_refused() -> None:
    random = of_torchmetrics._LPIPS(pretrained=False, net="squeeze", pnet_rand=True)
    with pytest.raises(ValueError, match="network must have learned weights of at least 0, got -"):
        lpips_of(random)


def test_a_network_of_torchvision_sees_pixels_as_it_was_trained() -> None:
    z, layers = images(3), ["features.1", "features.7"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        distance = torchvision_perceptual("squeezenet1_1", layers, weights=None)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    expected = Perceptual(seeded("squeezenet1_1"), layers).pairwise((z - mean) / std, (z - mean) / std)
    torch.testing.assert_close(distance.pairwise(z, z), expected, rtol=1e-4, atol=1e-9)
    assert isinstance(distance, Perceptual)
    assert distance.relaxation == 2.0
    assert not any("classifier" in name for name, _ in distance.phi.named_modules())  # type: ignore[attr-defined]


def test_layers_have_a_default_and_may_be_anywhere() -> None:
    z = images(2, size=40)
    assert torchvision_perceptual("resnet18", weights=None).layers == tuple(f"network.layer{i}" for i in (1, 2, 3, 4))
    assert float(torchvision_perceptual("resnet18", ["layer1", "fc"], weights=None)(z[:1], z[1:])) > 0.0
    assert len(torchvision_perceptual("squeezenet1_1", weights=None).layers) == 7
    with pytest.raises(ValueError, match="layers must be given for regnet_y_400mf"):
        torchvision_perceptual("regnet_y_400mf", weights=None)
    with pytest.raises(ValueError, match=r"layers must be names of submodules such as .*, got 'network\.layer5'"):
        torchvision_perceptual("resnet18", ["layer5"], weights=None)


def test_weights_may_come_from_a_file(tmp_path: Path) -> None:
    network, file, z = seeded("squeezenet1_1"), tmp_path / "weights.pth", images(3)
    torch.save(network.state_dict(), file)
    distance = torchvision_perceptual("squeezenet1_1", weights=file)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        again = torchvision_perceptual("squeezenet1_1", weights=None)
    assert repr(distance) == repr(again)
    assert torch.equal(distance.pairwise(z, z), again.pairwise(z, z))
    with pytest.raises(ValueError, match="weights must be a file of a state dict of resnet18, got"):
        torchvision_perceptual("resnet18", weights=file)


@pytest.mark.usefixtures("_no_network")
def test_weights_that_cannot_be_downloaded_end_in_one_error() -> None:
    said = r"weights of .* nor could they be downloaded from https://\S+ \(.*no network.*\); .* network of your own"
    with pytest.raises(ValueError, match=said):
        lpips("squeeze")
    with pytest.raises(ValueError, match=said):
        torchvision_perceptual("squeezenet1_1")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="net_type must be one of alex, squeeze, vgg, got 'resnet'"):
        lpips("resnet")  # type: ignore[arg-type]  # it is wrong
    with pytest.raises(ValueError, match=r"name must be a network of torchvision\.models such as .*, got 'vgg17'"):
        torchvision_perceptual("vgg17")
    with pytest.raises(ValueError, match=r"weights must be None, a file, or one of IMAGENET1K_V1.*, got 'BEST'"):
        torchvision_perceptual("squeezenet1_1", weights="BEST")
    with pytest.raises(ValueError, match="size must be a whole number of pixels of at least 1, got 0"):
        torchvision_perceptual("squeezenet1_1", weights=None, size=0)
