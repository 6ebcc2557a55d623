"""Semantic segmentation models and detectors of OpenMMLab, and denoisers, as modules that take and return tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from backbones.deploy.metadata import FromConfig

__all__ = ["DensePreprocessing", "Detector", "Segmentation", "denoiser", "detection_difference"]

INTERPOLATIONS = {  # as mmcv spells them, and OpenCV
    "bilinear": "INTER_LINEAR",
    "nearest": "INTER_NEAREST",
    "bicubic": "INTER_CUBIC",
    "area": "INTER_AREA",
    "lanczos": "INTER_LANCZOS4",
}


@dataclass(frozen=True, kw_only=True)
class DensePreprocessing(FromConfig):
    """How an image becomes the input of a segmentation model or detector.

    Attributes:
        input_size: Channels, height and width; with ``keep_ratio`` the shorter side's limit and the longer's.
        keep_ratio: Scale both sides by one factor, so that neither limit is exceeded, whichever side is the longer.
        interpolation: Of ``INTERPOLATIONS``, as OpenCV does it, without antialiasing.
        mean: Of each channel, for pixels from 0 to 1.
        std: Likewise.
        size_divisor: The file pads images at the right and the bottom to a multiple of it.

    Raises:
        ValueError: If ``interpolation`` is another one.
    """

    input_size: tuple[int, int, int]
    keep_ratio: bool = False
    interpolation: str = "bilinear"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size_divisor: int = 1

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation {self.interpolation!r} is none of {', '.join(INTERPOLATIONS)}")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that an image of another size is scaled to."""
        target = self.input_size[1:]
        if not self.keep_ratio:
            return target
        scale = min(min(target) / min(height, width), max(target) / max(height, width))
        return int(height * scale + 0.5), int(width * scale + 0.5)

    def transform(self, rescale: bool = True) -> Callable[[Image.Image], Tensor]:
        """Transform of a PIL image to the model's input (C, H, W).

        Args:
            rescale: Subtract the mean and divide by the standard deviation; otherwise pixels stay from 0 to 255.
        """
        import cv2

        mean, std = (255 * torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        code = getattr(cv2, INTERPOLATIONS[self.interpolation])

        def prepare(image: Image.Image) -> Tensor:
            height, width = self.size(image.height, image.width)
            pixels = cv2.resize(np.asarray(image), (width, height), interpolation=code)
            x = torch.from_numpy(pixels).permute(2, 0, 1).float()
            return (x - mean) / std if rescale else x

        return prepare


def pad(x: Tensor, divisor: int) -> Tensor:
    """Zeros at the right and the bottom of (B, C, H, W), up to multiples of ``divisor``."""
    if divisor == 1:
        return x
    H, W = x.shape[2:]
    # Not -H % divisor: of open sizes, an exporter knows that what is a factor times a number divides by the factor.
    height, width = ((side + divisor - 1) // divisor * divisor for side in (H, W))
    return F.pad(x, (0, width - W, 0, height - H))


def _keep_sizes_open(parent: nn.Module) -> None:
    """Put PyTorch's upsampling in place of MMSegmentation's, which fixes the size of a program by ``int``."""
    for name, child in parent.named_children():
        factor = getattr(child, "scale_factor", None)
        if type(child).__module__.startswith("mmseg.") and type(child).__name__ == "Upsample" and factor:
            setattr(parent, name, nn.Upsample(None, factor, child.mode, child.align_corners))


class Dense(nn.Module):
    """Backbone, neck and head of an OpenMMLab network.

    Args:
        network: With a backbone, and a neck or none.
        head: Of it.
        size_divisor: Images are padded to a multiple of it.
    """

    def __init__(self, network: nn.Module, head: nn.Module, size_divisor: int) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.neck = network.neck if network.with_neck else nn.Identity()
        self.head = head
        self.size_divisor = size_divisor
        model = network.backbone.model
        self.export_tolerance = getattr(model, "export_tolerance", 1e-4)
        # wherever in the backbone a layer is, and nowhere else
        within = ("backbone.model.", "backbone.model.*.")
        self.int8_float_layers = [at + layer for layer in getattr(model, "int8_float_layers", ()) for at in within]

    def features(self, x: Tensor) -> Sequence[Tensor]:
        return self.neck(self.backbone(x))


class Segmentation(Dense):
    """MMSegmentation's encoder and decoder: images (B, 3, H, W) -> class scores (B, classes, H, W).

    The whole image at once, also where the config cuts windows for its tests; scores are those before the softmax.

    Args:
        network: ``EncoderDecoder``. Its auxiliary heads, which only training needs, are left out.
        size_divisor: Images are padded to a multiple of it, and the scores cropped.
    """

    def __init__(self, network: nn.Module, size_divisor: int = 1) -> None:
        super().__init__(network, network.decode_head, size_divisor)
        self.head.apply(_keep_sizes_open)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[2:]
        x = pad(x, self.size_divisor)
        size = {"img_shape": x.shape[2:], "pad_shape": x.shape[2:]}  # that the head scales its scores to
        return self.head.predict(self.features(x), [size], None)[:, :, :H, :W]


class Detector(Dense):
    """MMDetection's RetinaNet: images (B, 3, H, W) -> boxes (B, K, 4), scores (B, K), labels (B, K).

    Boxes are x1, y1, x2, y2 in pixels of the image, best first, after non-maximum suppression within each class. K is
    the config's ``max_per_img``; where fewer remain, the rest has zeros for boxes and scores and -1 for labels. No
    score is too low to be returned: boxes of low scores remove none of high ones, so that what the model itself
    returns are the boxes above ``score_threshold``.

    Args:
        network: ``RetinaNet``.
        size_divisor: Images are padded to a multiple of it.

    Attributes:
        score_threshold: The config's.
    """

    def __init__(self, network: nn.Module, size_divisor: int = 1) -> None:
        super().__init__(network, network.bbox_head, size_divisor)
        test = self.head.test_cfg
        self.candidates = test.nms_pre  # of a level
        self.iou_threshold = test.nms.iou_threshold
        self.min_side = test.get("min_bbox_size", -1)
        self.most = test.max_per_img
        self.score_threshold = test.score_thr

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = x.shape[2:]
        boxes, scores, labels = self.best_of_levels(pad(x, self.size_divisor), size)
        found = [self.suppress(*image) for image in zip(boxes, scores, labels, strict=True)]
        boxes, scores, labels = (torch.stack(parts) for parts in zip(*found, strict=True))
        return boxes, scores, labels

    def best_of_levels(self, x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The best boxes of each level, before suppression: (B, N, 4), (B, N), (B, N)."""
        B, classes = len(x), self.head.cls_out_channels
        maps = self.head(self.features(x))
        anchors = self.head.prior_generator.grid_priors([scores.shape[2:] for scores in maps[0]], x.dtype, x.device)
        levels = []
        for scores, deltas, places in zip(*maps, anchors, strict=True):
            scores = scores.permute(0, 2, 3, 1).flatten(1).sigmoid()  # (B, H * W * anchors * classes)
            deltas = deltas.permute(0, 2, 3, 1).reshape(B, -1, 4)
            scores, indices = scores.topk(torch.sym_min(self.candidates, scores.shape[1]))
            chosen = indices // classes
            deltas = deltas.gather(1, chosen[..., None].expand(-1, -1, 4))
            boxes = self.head.bbox_coder.decode(places[chosen].flatten(0, 1), deltas.flatten(0, 1))
            levels.append((self.clip(boxes, size).view(B, -1, 4), scores, indices % classes))
        boxes, scores, labels = (torch.cat(parts, 1) for parts in zip(*levels, strict=True))
        return boxes, scores, labels

    def clip(self, boxes: Tensor, size: Sequence[int]) -> Tensor:
        """Boxes (N, 4) within the image, as the coder does it in place."""
        if not self.head.bbox_coder.clip_border:
            return boxes
        x, y = boxes.view(-1, 2, 2).unbind(2)
        return torch.stack([x.clamp(0, size[1]), y.clamp(0, size[0])], 2).flatten(1)

    def suppress(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Those of an image's boxes (N, 4) that no better one of their class overlaps: the best ``most``."""
        wide = ((boxes[:, 2:] - boxes[:, :2]) > self.min_side).all(1)
        scores = scores.where(wide, -1)  # which are last, and are dropped below
        apart = labels[:, None].to(boxes) * (boxes.max() + 1)  # classes do not overlap
        kept = nms(boxes + apart, scores, self.iou_threshold)
        # As many whatever remains, so that no shape depends on values: others stay at -1.
        scores = torch.full_like(scores, -1).scatter(0, kept, scores[kept])
        scores, kept = F.pad(scores, (0, self.most), value=-1).topk(self.most)
        found = scores >= 0
        kept = kept.where(found, 0)
        return boxes[kept].where(found[:, None], 0), scores.where(found, 0), labels[kept].where(found, -1)


class Denoiser(nn.Module):
    """One denoising step of a model without conditions: latents (B, C, H, W), times (B,) -> latents (B, C, H, W).

    Args:
        model: PT-DiT.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return self.model(x, timesteps)

    def inputs(self, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
        """Random arguments for latents of ``height`` by ``width``."""
        return self.model.example_inputs(batch, height, width)[:2]


class ClassDenoiser(Denoiser):
    """The same for a model of classes ``y`` (B,)."""

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return self.model(x, timesteps, y=y)

    def inputs(self, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
        return *super().inputs(batch, height, width), torch.arange(batch) % (self.model.num_classes + 1)


class TextDenoiser(Denoiser):
    """The same for a model that reads texts: ``context`` (B, L, text_dim), ``context_mask`` (B, L)."""

    def forward(  # type: ignore[override]
        self, x: Tensor, timesteps: Tensor, context: Tensor, context_mask: Tensor
    ) -> Tensor:
        return self.model(x, timesteps, context, context_mask)

    def inputs(self, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
        x, timesteps, context = self.model.example_inputs(batch, height, width)
        mask = torch.ones(context.shape[:2])
        mask[:, context.shape[1] // 2 :] = 0
        return x, timesteps, context, mask


def denoiser(model: nn.Module) -> Denoiser:
    """One step of a model, with the inputs that it takes."""
    kind = TextDenoiser if model.text_embed is not None else ClassDenoiser if model.num_classes else Denoiser
    return kind(model).eval()


def detection_difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """How far a detector's outputs are off, whatever the order of boxes whose scores are nearly equal.

    Args:
        expected: Boxes (B, K, 4), scores (B, K) and labels (B, K), as ``Detector`` returns them.
        found: Likewise.

    Returns:
        Each expected box is compared with the nearest found one of its label: the larger of the differences of
        coordinates, as a share of the spread of all coordinates, and of scores; 1 where there is none. Of these the
        largest, without the twentieth that is farthest off: where an overlap or the last place is a matter of
        rounding, another box stays. Infinite where shapes differ.
    """
    if [y.shape for y in expected] != [y.shape for y in found]:
        return float("inf")
    spread = (expected[0].max() - expected[0].min()).item() or 1.0
    worst = 0.0
    for boxes, scores, labels, *others in zip(*expected, *found, strict=True):
        apart = torch.cdist(boxes.double(), others[0].double(), p=float("inf")) / spread
        apart = apart.maximum((scores[:, None] - others[1]).abs())
        apart = apart.masked_fill(labels[:, None] != others[2], 1.0).amin(1).nan_to_num(float("inf"))
        worst = max(worst, apart.sort().values[: max(1, len(apart) * 19 // 20)][-1].item())
    return worst
