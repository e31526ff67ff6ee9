import copy

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from skimage import data as photos
from skimage.transform import resize
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules import fast_mtcnn
from lightning_modules.face_detector import FaceDetector
from lightning_modules.fast_mtcnn import (
    Candidates,
    FastMTCNN,
    _Images,
    _SlicedMaxPool,
    _Windows,
    most_probable,
)

HEIGHT, WIDTH = 218, 178
# The photo is 512x512; this part of it holds one face, whose place is known to the eye.
ROWS, COLUMNS = slice(0, 294), slice(100, 340)


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """The astronaut's face, (3, 218, 178) in [0, 1]."""
    part = resize(photos.astronaut()[ROWS, COLUMNS], (HEIGHT, WIDTH), anti_aliasing=True)
    return torch.from_numpy(part).float().permute(2, 0, 1).contiguous()


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


@pytest.fixture(scope="module")
def reference() -> MTCNN:
    return MTCNN(select_largest=False)


def noisy(photo: Tensor, sigma: float, *, count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return photo + sigma * torch.randn(count, *photo.shape, generator=generator)


def detected(reference: MTCNN, images: Tensor, faces: int = 1) -> Tensor:
    """The first boxes of facenet-pytorch's own detect, image by image: (N, faces, 4)."""
    boxes = torch.zeros(len(images), faces, 4)
    for image, found in zip(images, boxes, strict=True):
        detected, _ = reference.detect(image.permute(1, 2, 0) * 255)
        for face, box in zip(found, () if detected is None else detected, strict=False):
            face[:] = torch.from_numpy(box.astype(np.float32))
    return boxes if faces > 1 else boxes[:, 0]


def test_the_face_is_found(detector: FaceDetector, photo: Tensor) -> None:
    boxes = detector(photo.unsqueeze(0))
    assert boxes.shape == (1, 4)
    assert boxes.dtype == torch.float32
    scale = torch.tensor([WIDTH / 240, HEIGHT / 294] * 2)
    eyes_and_mouth = torch.tensor([195.0, 110.0, 250.0, 165.0]) - torch.tensor([100.0, 0.0] * 2)
    head = torch.tensor([160.0, 30.0, 290.0, 220.0]) - torch.tensor([100.0, 0.0] * 2)
    assert bool((boxes[0, :2] < eyes_and_mouth[:2] * scale[:2]).all())
    assert bool((boxes[0, 2:] > eyes_and_mouth[2:] * scale[2:]).all())
    assert bool((boxes[0, :2] > head[:2] * scale[:2]).all())
    assert bool((boxes[0, 2:] < head[2:] * scale[2:]).all())


@pytest.mark.parametrize("sigma", [0.0, 0.25])
def test_boxes_are_those_of_facenet_pytorch(
    sigma: float, detector: FaceDetector, reference: MTCNN, photo: Tensor
) -> None:
    images = noisy(photo, sigma, count=4)
    expected = detected(reference, images)
    assert bool((expected != 0).any(dim=1).all())
    torch.testing.assert_close(detector(images), expected, rtol=0, atol=0.01)


def test_of_several_faces_the_most_probable_counts(detector: FaceDetector, reference: MTCNN, photo: Tensor) -> None:
    pair = torch.cat([photo, photo], dim=2)
    images = noisy(pair, 0.25, count=4)
    expected = detected(reference, images)
    assert (expected[:, 0] > WIDTH).unique().tolist() == [False, True]
    torch.testing.assert_close(detector(images), expected, rtol=0, atol=0.01)


def test_several_faces_are_those_of_facenet_pytorch(detector: FaceDetector, reference: MTCNN, photo: Tensor) -> None:
    images = torch.stack([torch.cat([photo, photo], dim=2), torch.cat([photo, torch.zeros_like(photo)], dim=2)])
    images = torch.cat([images, noisy(images[0], 0.1, count=1), torch.zeros_like(images[:1])])
    boxes = FaceDetector(faces=3)(images)
    assert boxes.shape == (4, 3, 4)
    torch.testing.assert_close(boxes, detected(reference, images, 3), rtol=0, atol=0.01)
    assert (boxes != 0).any(dim=2).sum(dim=1).tolist() == [2, 1, 2, 0]
    assert torch.equal(boxes[:, 0], detector(images))
    assert torch.equal(FaceDetector(faces=2)(images), boxes[:, :2])


@pytest.mark.parametrize("side", [20, 29, 58])  # where the coarsest scale hardly fits
def test_a_face_may_be_as_large_as_the_image(
    side: int, detector: FaceDetector, reference: MTCNN, photo: Tensor
) -> None:
    image = functional.interpolate(photo[None, :, 44:132, 48:136], size=(side, side), mode="area")
    expected = detected(reference, image)
    assert bool(expected.any())
    torch.testing.assert_close(detector(image), expected, rtol=0, atol=0.01)


def test_no_face_is_the_zero_box_and_strong_noise_gives_finite_ones(detector: FaceDetector, photo: Tensor) -> None:
    noise = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    boxes = detector(torch.stack([torch.zeros_like(photo), noise, torch.ones_like(photo), photo]))
    assert boxes.count_nonzero(dim=1).tolist() == [0, 0, 0, 4]
    assert bool(detector(torch.cat([noisy(photo, sigma, count=1) for sigma in (1.0, 100.0)])).isfinite().all())
    assert detector(torch.zeros(0, 3, HEIGHT, WIDTH)).shape == (0, 4)
    for size in ((1, 1), (10, 10), (19, 300), (300, 19)):  # smaller than the smallest face
        assert torch.equal(detector(torch.rand(3, 3, *size)), torch.zeros(3, 4))


def test_probabilities_are_those_of_facenet_pytorch(reference: MTCNN, photo: Tensor) -> None:
    _, probabilities = reference.detect(photo.permute(1, 2, 0) * 255)
    faces = FastMTCNN()(torch.stack([photo, torch.zeros_like(photo)]) * 255)
    assert faces.probabilities[:, 0].tolist() == pytest.approx([float(probabilities[0]), 0.0], abs=1e-5)


def candidates(*rows: tuple[int, float, list[float]]) -> Candidates:
    """Of images, probabilities and boxes."""
    owners, probabilities, boxes = zip(*rows, strict=True)
    return Candidates(torch.tensor(boxes), torch.tensor(probabilities), torch.tensor(owners))


def test_averages_are_of_the_candidates_of_a_face_weighted_by_probability() -> None:
    left, shifted, larger, right = (
        [0.0, 0.0, 10.0, 10.0],
        [2.0, 0.0, 12.0, 10.0],
        [0.0, 0.0, 12.0, 12.0],
        [20.0, 0.0, 30.0, 9],
    )
    found = candidates(
        (1, 0.75, shifted), (1, 1.0, left), (1, 0.8, right), (1, 0.75, [7.0, 0, 17, 10]), (3, 0.9, larger)
    )
    faces = most_probable(found, 4, 3, average=True)
    mean = (torch.tensor(left) + 0.75 * torch.tensor(shifted)) / 1.75
    torch.testing.assert_close(faces.boxes[1], torch.stack([mean, torch.tensor(right), torch.tensor([7.0, 0, 17, 10])]))
    torch.testing.assert_close(faces.probabilities[1], torch.tensor([1.0, 0.8, 0.75]))
    torch.testing.assert_close(faces.boxes[3, 0], torch.tensor(larger))
    assert faces.boxes[[0, 2]].count_nonzero() == 0
    assert torch.equal(most_probable(found, 4, 1).boxes[1, 0], torch.tensor(left))


def test_averages_scatter_less_under_noise(detector: FaceDetector, photo: Tensor) -> None:
    images = noisy(photo, 0.1, count=12)
    found = detector.mtcnn.candidates(images * 255)
    best, averaged = (most_probable(found, len(images), average=average).boxes[:, 0] for average in (False, True))
    torch.testing.assert_close(FaceDetector(average=True)(images[:2]), averaged[:2], rtol=0, atol=1e-3)
    assert float(averaged.std(dim=0).mean()) < 0.7 * float(best.std(dim=0).mean())
    assert float((averaged - best).abs().max()) < 0.1 * WIDTH


def test_options_that_are_not_used_are_not_recorded() -> None:
    # so that a folder that was begun before they came is that of the same command
    assert dict(FaceDetector().hparams) == {"clip": False}
    assert dict(FaceDetector(True, faces=3, average=True).hparams) == {"clip": True, "faces": 3, "average": True}


def test_no_face_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="faces must be a whole number of at least 1 such as 3, got 0"):
        FaceDetector(faces=0)


@pytest.mark.parametrize("size", [(20, 20), (35, 61), (120, 96), (100, 300)])
def test_images_of_any_size(size: tuple[int, int], detector: FaceDetector, reference: MTCNN, photo: Tensor) -> None:
    image = functional.interpolate(photo.unsqueeze(0), size=size, mode="area")[0]
    images = noisy(image, 0.05, count=2)
    boxes = detector(images)
    torch.testing.assert_close(boxes, detected(reference, images), rtol=0, atol=0.01)


def test_a_box_depends_on_its_own_image_alone(
    detector: FaceDetector, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.cat([noisy(photo, 0.25, count=6), torch.zeros(2, 3, HEIGHT, WIDTH)])
    together, order = detector(images), torch.randperm(8)
    monkeypatch.setattr(fast_mtcnn, "_IMAGE_PIXELS", 3 * HEIGHT * WIDTH)  # at a time
    torch.testing.assert_close(detector(images[order]), together[order], rtol=0, atol=1e-3)
    for number in (0, 7):
        torch.testing.assert_close(detector(images[number : number + 1])[0], together[number], rtol=0, atol=1e-3)


def test_repeated_calls_give_the_same_bits_and_leave_the_images_alone(detector: FaceDetector, photo: Tensor) -> None:
    images = noisy(photo, 0.25, count=3)
    given = images.clone()
    boxes = detector(given)
    assert torch.equal(given, images)
    assert torch.equal(FaceDetector()(images), boxes)
    other = copy.deepcopy(detector)
    other.load_state_dict(detector.state_dict())
    assert torch.equal(other(images), boxes)


def test_clipping_is_part_of_the_function(photo: Tensor, detector: FaceDetector) -> None:
    clipping = FaceDetector(clip=True)
    images = noisy(photo, 0.25, count=2)
    boxes, given = detector(images), images.clone()
    assert torch.equal(clipping(given), detector(images.clamp(0, 1)))
    assert torch.equal(given, images)
    assert not torch.equal(clipping(images), boxes)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "double"])
def test_memory_layout_and_precision_of_images_do_not_matter(
    layout: str, detector: FaceDetector, photo: Tensor
) -> None:
    images = noisy(photo, 0.1, count=1)
    same = {
        "channels_last": images.contiguous(memory_format=torch.channels_last),
        "transposed": images.transpose(2, 3).contiguous().transpose(2, 3),
        "double": images.double(),
    }[layout]
    assert torch.equal(detector(same), detector(images))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 30, 30, dtype=torch.uint8),
        torch.zeros(2, 1, 30, 30),
        torch.zeros(2, 30, 30, 3),
        torch.zeros(3, 30, 30),
    ],
)
def test_other_images_are_refused(images: Tensor, detector: FaceDetector) -> None:
    with pytest.raises(ValueError, match=r"images must be float \(N, 3, H, W\), got torch\.") as refused:
        detector(images)
    assert str(tuple(images.shape)) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_training_mode_and_gradients_do_not_matter(photo: Tensor) -> None:
    images = noisy(photo, 0.1, count=1).requires_grad_()
    detector = FaceDetector()
    detector.train()
    in_training = detector(images)
    detector.eval()
    assert torch.equal(in_training, detector(images))
    assert not in_training.requires_grad
    assert not any(parameter.requires_grad for parameter in detector.parameters())
    with torch.inference_mode():
        assert torch.equal(in_training, detector(images))


def test_nothing_global_changes(photo: Tensor, reference: MTCNN) -> None:
    state = torch.get_rng_state()
    FaceDetector()(photo.unsqueeze(0))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.is_grad_enabled()
    assert isinstance(MTCNN().pnet.pool1, nn.MaxPool2d)


@pytest.mark.parametrize("size", [(24, 24), (48, 48), (7, 90)])
def test_averages_over_windows_are_those_of_area_interpolation(size: tuple[int, int]) -> None:
    images = torch.rand(3, 3, 50, 70, generator=torch.Generator().manual_seed(0)) * 255
    windows = [(0, 0, 50, 0, 70), (2, 3, 44, 10, 51), (1, 49, 50, 69, 70), (2, 7, 31, 0, 24), (0, 10, 12, 5, 70)]
    averages = _Images(images).averages(_Windows(*torch.tensor(windows).unbind(1)), size)
    for (owner, top, bottom, left, right), average in zip(windows, averages, strict=True):
        shown = images[owner : owner + 1, :, top:bottom, left:right]
        expected = functional.interpolate(shown, size=size, mode="area")[0]
        torch.testing.assert_close(average, expected, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("size", [(3, 3), (4, 7), (8, 5), (22, 22), (9, 10)])
def test_pooling_by_slices_is_max_pooling(kernel_size: int, size: tuple[int, int]) -> None:
    x = torch.randn(2, 5, *size, generator=torch.Generator().manual_seed(0)).contiguous(
        memory_format=torch.channels_last
    )
    expected = nn.MaxPool2d(kernel_size, 2, ceil_mode=True)(x)
    assert torch.equal(_SlicedMaxPool(kernel_size)(x), expected)
