import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from center_smoothing import CenterSmoother, SmoothingBudget, TotalVariation
from datamodules import IndexedImages
from lightning_modules import CertifiedExample, Certifier, NoisyAutoencoder
from tests.lightning_modules.parts import silent_trainer

BUDGET = SmoothingBudget(n=60, m=120, k=8, delta=0.4)


class Doubled(NoisyAutoencoder):
    def point(self, image: Tensor) -> Tensor:
        return 2 * image


def smoother(model: NoisyAutoencoder, batch_size: int = 64) -> CenterSmoother:
    return CenterSmoother(model, TotalVariation(), sigma=0.25, budget=BUDGET, seed=3, batch_size=batch_size)


def predict(
    model: NoisyAutoencoder, images: IndexedImages | Subset, batch_size: int = 1, inference_mode: bool = False
) -> list[CertifiedExample]:
    trainer, loader = silent_trainer(inference_mode=inference_mode), DataLoader(images, batch_size=batch_size)
    batches = trainer.predict(Certifier(model, smoother(model)), loader)
    assert batches is not None
    return [example for batch in batches for example in batch]


@pytest.fixture(scope="module")
def images() -> IndexedImages:
    pixels = torch.randint(256, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return IndexedImages(pixels, torch.tensor([40, 7, 19, 3, 11]))


@pytest.fixture(scope="module")
def model() -> NoisyAutoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NoisyAutoencoder(0.25, image_shape=(1, 8, 8), latent_dim=4).eval()


@pytest.fixture(scope="module")
def predicted(model: NoisyAutoencoder, images: IndexedImages) -> list[CertifiedExample]:
    return predict(model, images)


def test_each_example_comes_with_its_data_set_index(predicted: list[CertifiedExample]) -> None:
    assert [example.index for example in predicted] == [40, 7, 19, 3, 11]
    assert {type(example.index) for example in predicted} == {int}
    assert {type(example) for example in predicted} == {CertifiedExample}


def test_base_model_moves_with_the_certifier(model: NoisyAutoencoder) -> None:
    assert {*map(id, Certifier(model, smoother(model)).parameters())} == {*map(id, model.parameters())}


def test_certificates_are_those_of_the_smoother_with_image_and_output_without_noise(
    model: NoisyAutoencoder, images: IndexedImages, predicted: list[CertifiedExample]
) -> None:
    for position, example in enumerate(predicted):
        image = images[position]["image"]
        expected = smoother(model).certify(image, example=example.index)
        assert torch.equal(example.image, image)
        with torch.no_grad():
            torch.testing.assert_close(example.base_output, model(image.unsqueeze(0))[0])
        assert example.image.device.type == example.base_output.device.type == "cpu"
        assert example.seconds > 0.0
        np.testing.assert_array_equal(example.certificate.distances, expected.distances)
        assert torch.equal(example.certificate.center, expected.center)
        assert example.certificate.smoothing_loss == expected.smoothing_loss
        assert example.certificate.eps_out(0.1) == expected.eps_out(0.1)
        assert example.certificate.sigma == 0.25
        assert example.certificate.budget == BUDGET


def test_certificates_depend_on_neither_batch_nor_order(
    model: NoisyAutoencoder, images: IndexedImages, predicted: list[CertifiedExample]
) -> None:
    by_index = {example.index: example.certificate for example in predicted}
    for example in predict(model, Subset(images, [4, 1, 2]), batch_size=2, inference_mode=True):
        np.testing.assert_array_equal(example.certificate.distances, by_index[example.index].distances)


def test_attacked_point_may_be_another_than_the_image(images: IndexedImages) -> None:
    model = Doubled(0.25, image_shape=(1, 8, 8), latent_dim=4).eval()
    (example,) = predict(model, Subset(images, [2]))
    image = images[2]["image"]
    expected = smoother(model).certify(2 * image, example=19)
    np.testing.assert_array_equal(example.certificate.distances, expected.distances)
    assert torch.equal(example.image, image)
    with torch.no_grad():
        torch.testing.assert_close(example.base_output, model(2 * image.unsqueeze(0))[0])
