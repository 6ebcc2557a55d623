"""Draw samples with a generator: classes from a config and checkpoint, pictures or videos from a text.

    backbones sample --config CONFIG --checkpoint work_dirs/NAME/iter_2000.pth --labels 0 7 --count 8
    backbones sample --model ptdit_xl_text --checkpoint FILE --prompt "a lighthouse in fog" --size 1024 \\
        --autoencoder FOLDER --text-encoder FOLDER

Writes each sample, grid.png with a column for each label or prompt, and samples.json; with --frames, GIFs. A sample
depends on the seed and its number only, not on the size of the batch.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import backbones
from backbones.cli.common import check_model, device, number_in, output_folder, parse_img_size, positive_int, seed
from backbones.diffusion import (
    SOLVERS,
    Autoencoder,
    TextEncoder,
    check_channels,
    check_size,
    draw_grid,
    generate,
    resolution_shift,
    to_image,
    write_video,
)
from backbones.weights import convert_state_dict, load_checkpoint


@dataclass
class Generator:
    """A model and what is known about its pictures.

    Attributes:
        side: height and width it was trained at, in what it reads; None if any will do.
        shift: of the times at that size; None for the release's rule.
        autoencoder: its autoencoder's name, if that is known.
    """

    model: nn.Module
    side: tuple[int, int] | None = None
    shift: float | None = None
    autoencoder: str | None = None


def build(args: argparse.Namespace, with_weights: bool) -> Generator:
    """The generator of --config or --model.

    Raises:
        ValueError: it is none, or the checkpoint does not fit.
        FileNotFoundError: there is no such config or checkpoint.
    """
    if args.model:
        check_model(args.model)
        model = backbones.create_model(args.model)
        if getattr(model, "task", "") != "generation":
            raise ValueError(f"{args.model} draws nothing: choose a PT-DiT, ptdit_xl_text for example")
        if with_weights:
            model.load_state_dict(convert_state_dict(load_checkpoint(args.checkpoint), model))
        return Generator(model)
    from mmengine.registry import MODELS, init_default_scope

    from backbones.mm.training.run import load_config, load_weights

    cfg = load_config(args.config)
    init_default_scope(cfg.get("default_scope", "mmpretrain"))
    if cfg.model.type != "DiffusionTrainer":
        raise ValueError(f"{args.config} trains a {cfg.model.type}, which draws nothing: see configs/ptdit/generation")
    trainer = MODELS.build(cfg.model)
    if with_weights:
        load_weights(trainer, args.checkpoint)
    return Generator(trainer.generator, trainer.input_size[1:], trainer.shift, cfg.get("autoencoder"))


def check_request(args: argparse.Namespace, classes: int) -> None:
    """Raise ValueError for what a model with so many classes, 0 if it reads texts, cannot draw."""
    if classes and (args.prompt or not args.labels):
        raise ValueError(f"this model draws classes: give --labels from 0 to {classes - 1}")
    if not classes and (args.labels or not args.prompt):
        raise ValueError('this model draws texts: give --prompt "..."')
    if not classes and not args.text_encoder:
        raise ValueError("--prompt needs --text-encoder: folder or hub repository of T5's encoder and tokenizer")
    if bad := [label for label in args.labels or () if not 0 <= label < classes]:
        raise ValueError(f"--labels {' '.join(map(str, bad))}: the classes go from 0 to {classes - 1}")


def read_request(args: argparse.Namespace, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's arguments for every sample, and for one of no class or an empty text."""
    if args.labels:
        return {"y": torch.tensor(args.labels).repeat(args.count)}, {"y": torch.tensor([model.num_classes])}
    encoder = TextEncoder(args.text_encoder, device=args.device)
    if encoder.width != model.cfg.text_dim:
        raise ValueError(
            f"{args.text_encoder} has states of {encoder.width} numbers, the model reads {model.cfg.text_dim}"
        )
    context, mask = encoder([*args.prompt, ""])
    condition = {"context": context[:-1].repeat(args.count, 1, 1), "context_mask": mask[:-1].repeat(args.count, 1)}
    return condition, {"context": context[-1:], "context_mask": mask[-1:]}


def draw(args: argparse.Namespace) -> Tensor:
    """Pixels in [-1, 1], (N, C, H, W) or with --frames (N, C, F, H, W); all is checked before the first step.

    Raises:
        ValueError, FileNotFoundError: something does not exist or does not fit.
    """
    with torch.device("meta"):
        outline = build(args, with_weights=False)
    check_request(args, outline.model.num_classes)
    source = args.autoencoder or outline.autoencoder
    autoencoder = Autoencoder(source, args.device) if source else None
    check_channels(outline.model, autoencoder)
    stride = autoencoder.stride if autoencoder else 1
    if args.size:
        height, width = args.size
    elif outline.side:
        height, width = outline.side[0] * stride, outline.side[1] * stride
    else:
        raise ValueError(f"give --size: {args.model} draws any")
    check_size(outline.model, height, width, autoencoder)
    frames = autoencoder.latent_frames(args.frames) if autoencoder else args.frames
    shape = (outline.model.in_chans, *([frames] if frames > 1 else []), height // stride, width // stride)
    if outline.side and outline.shift:
        shift = outline.shift * math.sqrt(shape[-2] * shape[-1] / math.prod(outline.side))
    else:
        shift = resolution_shift(height, width, args.frames)

    model = build(args, with_weights=True).model.eval().to(args.device)
    condition, empty = read_request(args, model)
    latents = generate(
        model,
        shape,
        condition,
        empty,
        guidance=args.guidance,
        seed=args.seed,
        batch_size=args.batch_size,
        progress=True,
        steps=args.steps,
        shift=shift,
        solver=args.solver,
    )
    return (autoencoder.decode(latents) if autoencoder else latents).cpu()


def write(pixels: Tensor, columns: Sequence[str], args: argparse.Namespace) -> Path:
    """Write every sample, their grid and samples.json; the grid's path."""
    args.out_dir.mkdir(parents=True, exist_ok=True)
    ending = "gif" if pixels.ndim == 5 else "png"
    names = []
    for i, sample in enumerate(pixels):
        label = f"_{columns[i % len(columns)]}" if args.labels else ""
        names.append(f"{i:04d}{label}.{ending}")
        if pixels.ndim == 5:
            write_video([to_image(frame) for frame in sample.transpose(0, 1)], args.out_dir / names[-1], args.fps)
        else:
            to_image(sample).save(args.out_dir / names[-1])
    grid = args.out_dir / f"grid.{ending}"
    if pixels.ndim == 5:
        write_video(
            [draw_grid(frames, len(columns)) for frames in pixels.transpose(0, 2).transpose(1, 2)], grid, args.fps
        )
    else:
        draw_grid(pixels, len(columns)).save(grid)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    samples = [{"file": name, "of": columns[i % len(columns)]} for i, name in enumerate(names)]
    (args.out_dir / "samples.json").write_text(json.dumps({"settings": settings, "samples": samples}, indent=1) + "\n")
    return grid


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="backbones sample", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="of a generator trained here")
    parser.add_argument("--model", help="or the name of one, ptdit_xl_text")
    parser.add_argument("--checkpoint", required=True, help="file, address or tag; the released layout too")
    parser.add_argument("--labels", nargs="+", type=int, help="classes to draw")
    parser.add_argument("--prompt", nargs="+", help="texts to draw, each in quotes")
    parser.add_argument("--count", type=positive_int, default=4, help="samples of each label or prompt")
    parser.add_argument("--size", type=parse_img_size, help="pixels: 512 or 512x768 (height x width)")
    parser.add_argument("--frames", type=positive_int, default=1, help="of a video")
    parser.add_argument("--fps", type=number_in(0.1, 100), default=8.0, help="frames shown in a second")
    parser.add_argument("--steps", type=positive_int, default=30)
    parser.add_argument("--guidance", type=number_in(0), default=4.0, help="1: follow labels and texts as learnt")
    parser.add_argument("--solver", choices=sorted(SOLVERS), default="euler")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--batch-size", type=positive_int, default=16)
    parser.add_argument("--autoencoder", help="folder or hub repository of a diffusers autoencoder")
    parser.add_argument("--text-encoder", help="folder or hub repository with T5's encoder and tokenizer")
    parser.add_argument("--out-dir", type=output_folder, default=Path("outputs/sample"))
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if bool(args.model) == bool(args.config):
        parser.error("give either --config or --model")
    try:
        pixels = draw(args)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    columns = args.prompt or [str(label) for label in args.labels]
    print(write(pixels, columns, args))


if __name__ == "__main__":
    main()
