"""Run an exported file on images, with its own runtime and preprocessing, beside the model that it was made from.

    backbones check-export exported/van_b0.in1k.onnx --images photos/
    backbones check-export exported/iter_600.onnx --images photos/

A classifier's most probable classes are printed, a segmentation model's largest classes with their shares of the image,
a detector's best boxes in pixels of the image. What the model finds comes from its config's own test pipeline, but
always from the whole image, and at the file's size where that is fixed to another. The exit status is 1 if the file
finds something else: of an int8 file's maps and boxes, if they differ by more than it was written under.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from backbones.cli.common import format_table, positive_int
from backbones.cli.export import Source, add_source_arguments, load_source
from backbones.deploy import DensePreprocessing, Preprocessing, Runtime, load_export
from backbones.deploy.agreement import BoxAgreement, ScoreAgreement
from backbones.deploy.metadata import weights_hash
from backbones.images import find_bad_images, list_images, read_image
from backbones.weights import DownloadError


def find_source(runtime: Runtime, args: argparse.Namespace) -> Source:
    """The model that a file was made from.

    Raises:
        ValueError: If its weights are others.
    """
    origin = runtime.source
    if args.source:
        origin = {"source": args.source, "model": args.model, "config": args.config, "random": args.random_weights}
    found = load_source(**origin)
    if weights_hash(found.model) != runtime.metadata["weights_sha256"]:
        raise ValueError(f"it was made from other weights than those of {origin['source']}: name them with --source")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="backbones check-export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="what backbones export wrote: .onnx, .xml or .pt2")
    parser.add_argument("--images", required=True, help="image file, folder, or glob pattern in quotes")
    parser.add_argument("--topk", type=positive_int, default=3, help="classes or boxes of an image")
    parser.add_argument("--source", help="model or checkpoint to compare with; default: as the file says")
    add_source_arguments(parser)
    args = parser.parse_args(argv)
    if not args.source and (args.model or args.config or args.random_weights):
        parser.error("--model, --config and --random-weights say what --source is: give it too")

    try:
        files = list_images(args.images)
        if bad := find_bad_images(files):
            raise ValueError("; ".join(f"{file}: {reason}" for file, reason in bad.items()))
        runtime = load_export(args.file)
        if runtime.metadata.get("task") == "generation":
            raise ValueError("it takes latents, not images: `backbones sample` draws with the model itself")
        found = find_source(runtime, args)
        rows, agreed = COMPARISONS[found.task](runtime, found, files, args.topk)
    except (ValueError, OSError, DownloadError) as error:
        sys.exit(f"error: cannot check {args.file}: {error}")
    print(format_table(["image", "the file says", "the model says"], rows))
    print(f"\n{agreed} of {len(files)} images have the same {SAME[found.task]}; largest difference when exported:")
    errors = runtime.metadata.get("int8", {}).get("relative_error", {})
    for size, value in runtime.metadata["differences"].items():
        print(f"  {size}: {value:.1e} of the spread" + (f", relative error {errors[size]:.1%}" if errors else ""))
    return 0 if agreed == len(files) else 1


Rows = tuple[list[list[str]], int]  # of a table, an image each, and how many images have the same result


def is_rounded(runtime: Runtime) -> bool:
    """Whether it has weights of eight or sixteen bits, so that what is near a limit may be on its other side."""
    return "int8" in runtime.metadata or bool(runtime.metadata.get("half"))


def transforms_of(runtime: Runtime, preprocessing: Preprocessing | DensePreprocessing) -> list[Callable[[Any], Tensor]]:
    """What prepares an image (C, H, W) for the file, and for the model."""
    return [preprocessing.transform(rescale) for rescale in (not runtime.takes_pixels, True)]


def batch_of(runtime: Runtime, image: Tensor) -> Tensor:
    """An image (C, H, W) as a batch (B, C, H, W) of the size that the file takes, which it fills."""
    return image.repeat(runtime.metadata.get("batch") or 1, 1, 1, 1)


def compare_classes(runtime: Runtime, found: Source, files: Sequence[str], topk: int) -> Rows:
    """The most probable classes; the same is the first."""
    metadata = runtime.metadata
    transforms = transforms_of(runtime, Preprocessing.of_config(metadata))
    calls = [lambda x: runtime(batch_of(runtime, x))[0], lambda x: found.model(x[None])]
    rows, agreed = [], 0
    for file in files:
        image = read_image(file)
        cells, tops = [], []
        for transform, call in zip(transforms, calls, strict=True):
            with torch.inference_mode():
                scores = call(transform(image)).float().softmax(-1)[0]
            values, indices = scores.topk(min(topk, len(scores)))
            tops.append(int(indices[0]))
            pairs = zip(indices.tolist(), values.tolist(), strict=True)
            cells.append(", ".join(f"{metadata['classes'][i]} {p:.1%}" for i, p in pairs))
        agreed += tops[0] == tops[1]
        rows.append([file, *cells])
    return rows, agreed


def compare_maps(runtime: Runtime, found: Source, files: Sequence[str], topk: int) -> Rows:
    """The classes of the most pixels; the same are those of all pixels but one in a hundred.

    Of a rounded file it is the scores that are compared, as when one in eight bits is written.
    """
    preprocessing = DensePreprocessing.of_config(runtime.metadata)
    transforms = transforms_of(runtime, preprocessing)
    classes = runtime.metadata["classes"]
    net = found.trained.net
    net.test_cfg.mode = "whole"

    def at_image(scores: Tensor, image: Any) -> tuple[Tensor, Tensor]:
        """Scores and labels of the image's own size, as MMSegmentation makes them."""
        size = (image.height, image.width)
        scores = F.interpolate(scores, size, mode="bilinear", align_corners=net.align_corners)[:1]
        if scores.shape[1] > 1:
            return scores, scores.argmax(1)[0]
        scores = scores.sigmoid()
        return scores, (scores > net.decode_head.threshold)[0, 0].long()

    def shares(labels: Tensor) -> str:
        counts = Counter(labels.flatten().tolist()).most_common(topk)
        return ", ".join(f"{classes[i]} {n / labels.numel():.1%}" for i, n in counts)

    rows, agreed = [], 0
    for file in files:
        image = read_image(file)
        with torch.inference_mode():
            scores, labels = at_image(runtime(batch_of(runtime, transforms[0](image)))[0], image)
            if preprocessing == found.preprocessing:
                (sample,) = found.trained([file])
                wanted, expected = sample.seg_logits.data[None], sample.pred_sem_seg.data[0]
            else:
                wanted, expected = at_image(found.model(transforms[1](image)[None]), image)
        if is_rounded(runtime):
            near = ScoreAgreement()
            near.add([wanted], [scores])
            agreed += near.excess is None
        else:
            agreed += bool((labels == expected).float().mean() > 0.99)
        rows.append([file, shares(labels), shares(expected)])
    return rows, agreed


def compare_boxes(runtime: Runtime, found: Source, files: Sequence[str], topk: int) -> Rows:
    """The best boxes above the model's threshold; the same as ``same_boxes`` says.

    Those of a rounded file are compared by overlap and score, as when one in eight bits is written.
    """
    metadata = runtime.metadata
    preprocessing = DensePreprocessing.of_config(metadata)
    transforms = transforms_of(runtime, preprocessing)

    def describe(boxes: Tensor, scores: Tensor, labels: Tensor) -> str:
        best = list(zip(boxes.round().int().tolist(), scores.tolist(), labels.tolist(), strict=True))[:topk]
        return ", ".join(f"{metadata['classes'][i]} {score:.1%} at {box}" for box, score, i in best) or "nothing"

    rows, agreed = [], 0
    for file in files:
        image = read_image(file)
        x = batch_of(runtime, transforms[0](image))
        scale = torch.tensor([image.width / x.shape[3], image.height / x.shape[2]])

        def above(outputs: Sequence[Tensor], scale: Tensor = scale) -> tuple[Tensor, ...]:
            boxes, scores, labels = (y[0] for y in outputs)
            kept = scores > metadata["score_threshold"]
            return boxes[kept] * scale.repeat(2), scores[kept], labels[kept]

        with torch.inference_mode():
            outputs = runtime(x)
            mine = above(outputs)
            if preprocessing == found.preprocessing:
                instances = found.trained([file])[0].pred_instances
                expected = instances.bboxes, instances.scores, instances.labels
            else:
                expected = above(found.model(transforms[1](image)[None]))
        if is_rounded(runtime):
            near = BoxAgreement()
            near.add([y[None] for y in expected], [y[None] for y in mine])
            same = near.excess is None
        else:
            same = same_boxes(expected, mine, metadata["score_threshold"], most=outputs[1].shape[1])
        agreed += same
        rows.append([file, describe(*mine), describe(*expected)])
    return rows, agreed


def same_boxes(expected: Sequence[Tensor], found: Sequence[Tensor], threshold: float, most: int) -> bool:
    """Whether boxes (N, 4), scores (N,) and labels (N,) are the same, whatever is a matter of rounding.

    Each side's boxes are among the other's, of the same class, within a pixel and 1e-3 of the score. Those within 1e-4
    of the last place may be missing: of the threshold or, where as many as there may be are found, of the lowest score.
    """

    def are_among(boxes: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
        last = boxes[1].min().item() if len(boxes[1]) == most else threshold
        places, scores, labels = (part[boxes[1] > last + 1e-4] for part in boxes)
        near = torch.cdist(places, others[0], p=float("inf")) < 1
        near &= (scores[:, None] - others[1]).abs() < 1e-3
        return bool((near & (labels[:, None] == others[2])).any(1).all())

    return are_among(expected, found) and are_among(found, expected)


COMPARISONS: dict[str, Callable[[Runtime, Any, Sequence[str], int], Rows]] = {
    "classification": compare_classes,
    "segmentation": compare_maps,
    "detection": compare_boxes,
}
SAME = {"classification": "top class", "segmentation": "classes", "detection": "boxes"}


if __name__ == "__main__":
    sys.exit(main())
