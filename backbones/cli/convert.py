"""Convert published checkpoints, and check what became of them.

    backbones convert van_tiny_754.pth.tar --model van_b0.in1k --out van_b0.in1k.safetensors
    backbones convert epoch_300.pth --model litv2_s --to mm --out litv2_s_mm.pth
    backbones convert litv2_s.safetensors --model litv2_s --to official --out litv2_s.pth
    backbones convert --check a.safetensors b.pth

Reads any layout that the zoo knows (the authors', timm's, OpenMMLab's, its own), plain or inside a training checkpoint,
from a file, an address or a pretrained tag. Writes the zoo's own layout as safetensors that say where they are from
(``--to own``), an OpenMMLab checkpoint for ``init_cfg=dict(type='Pretrained', ...)`` (``--to mm``), or a published
layout (``--to official``, ``timm``, ``mmpretrain``). Prints renamed, dropped and missing keys, and runs the result.
"""

import argparse
import ast
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import backbones
from backbones.cli.common import output_file
from backbones.files import whole_file
from backbones.weights import (
    Conversion,
    convert_checkpoint,
    find_weights,
    load_checkpoint,
    read_checkpoint,
    restore_state_dict,
)
from backbones.weights.convert import weights_of, wrapper_prefixes
from backbones.weights.fetch import sha256_of
from backbones.weights.pretrained import addresses, metadata_of, read_metadata, save_weights


def build(name: str, options: dict[str, Any], checkpoint: dict[str, Any]) -> tuple[nn.Module, Conversion]:
    """The model that the checkpoint is for, without memory for its weights, and the conversion to it.

    The number of classes is the checkpoint's, if ``options`` do not say another.
    """
    with torch.device("meta"):
        model = backbones.create_model(name, **options)
        conversion = convert_checkpoint(checkpoint, model)
        classifier = model.pretrained_cfg["classifier"]
        found = conversion.weights.get(f"{classifier}.weight")
        num_classes = 0 if found is None else len(found)
        if "num_classes" not in options and num_classes != model.num_classes:
            model = backbones.create_model(name, num_classes=num_classes, **options)
            conversion = convert_checkpoint(checkpoint, model)
    return model, conversion


def report(conversion: Conversion, verbose: bool) -> str:
    """Renamed, dropped, missing, unexpected and mismatched keys; unchanged ones are only counted."""
    renamed = [f"{' + '.join(names)} -> {key}" for key, names in conversion.names.items() if names != (key,)]
    kept = len(conversion.names) - len(renamed)
    reshaped = [
        f"{key}: {conversion.shapes[key]} -> {list(conversion.weights[key].shape)}"
        for key in conversion.names
        if key in conversion.weights and conversion.shapes[key] != list(conversion.weights[key].shape)
    ]
    fit = conversion.fit
    mismatched = [f"{key}: {found}, the model's {own}" for key, (found, own) in fit.mismatched.items()]
    groups = {
        "renamed": renamed,
        "reshaped": reshaped,
        "dropped": conversion.dropped,
        "missing": fit.missing,
        "unknown to the model": fit.unexpected,
        "of another shape": mismatched,
    }
    lines = [f"layout: {conversion.layout}", f"unchanged: {kept}"]
    for title, entries in groups.items():
        lines.append(f"{title}: {len(entries)}")
        lines += [f"  {entry}" for entry in (entries if verbose or title not in ("renamed", "reshaped") else [])]
    return "\n".join(lines)


def run(name: str, options: dict[str, Any], num_classes: int, weights: dict[str, Tensor]) -> list[int]:
    """Load the weights and run the model on noise.

    Returns:
        Shape of the output.

    Raises:
        ValueError: If a value of the output is not finite.
    """
    model = backbones.create_model(name, **{"num_classes": num_classes} | options).eval()
    model.load_state_dict(weights)
    size = model.pretrained_cfg["input_size"]
    size = (getattr(model, "in_chans", size[0]), *size[1:])
    torch.manual_seed(0)
    inputs = model.example_inputs(1, *size[1:]) if hasattr(model, "example_inputs") else (torch.randn(1, *size),)
    with torch.inference_mode():
        output = model(*inputs)
    if not output.isfinite().all():
        raise ValueError(f"the converted model gives {int((~output.isfinite()).sum())} values that are not finite")
    return list(output.shape)


def unwrapped(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights without the prefix that all of them have."""
    weights = weights_of(checkpoint)
    prefix = next(p for p in reversed(wrapper_prefixes(weights)) if all(key.startswith(p) for key in weights))
    return {key.removeprefix(prefix): value for key, value in weights.items()}


def check(first: str, second: str) -> int:
    """Print where two checkpoints differ; the exit status."""
    a, b = (unwrapped(load_checkpoint(source)) for source in (first, second))
    differences = [f"only in {first}: {key}" for key in a if key not in b]
    differences += [f"only in {second}: {key}" for key in b if key not in a]
    for key in a:
        if key not in b:
            continue
        if a[key].shape != b[key].shape or a[key].dtype != b[key].dtype:
            ours, theirs = (f"{list(value.shape)} {value.dtype}" for value in (a[key], b[key]))
            differences.append(f"{key}: {ours} and {theirs}")
        elif not torch.equal(a[key], b[key]):
            gap = (a[key].double() - b[key].double()).abs().max().item()
            differences.append(f"{key}: differs by up to {gap:.3g}")
    print("\n".join(differences) if differences else f"equal: {len(a)} entries")
    return 1 if differences else 0


def write(
    weights: dict[str, Tensor], model: nn.Module, to: str, metadata: dict[str, str], entry: str, out: Path
) -> None:
    """Write the model's entries in the layout ``to``; safetensors or ``torch.save``, by the name of the file."""
    facts = {key: value for key, value in metadata.items() if key not in ("format", "names", "layout")}
    if to == "own":
        facts = metadata
    elif to == "mm":
        weights = {f"backbone.model.{key}": value for key, value in weights.items()}
        entry = "state_dict"
    else:
        names = json.loads(metadata["names"]) if metadata["layout"] == to else {}
        known = {key: tuple(parts) for key, (*parts, _) in names.items()}
        weights = restore_state_dict(weights, model, to, known, {key: shape for key, (*_, shape) in names.items()})
    if out.suffix == ".safetensors":
        save_weights(weights, out, facts)
        return
    with whole_file(out) as partial:
        torch.save({entry: weights, "meta": facts} if entry else weights, partial)


def _option(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="backbones convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", nargs="?", help="checkpoint: file, address, or pretrained tag")
    parser.add_argument("--model", help="model the checkpoint is for, best with its tag: van_b0.in1k")
    parser.add_argument("--out", type=output_file, help="file to write; nothing is written without it")
    parser.add_argument("--to", default="own", help="own, mm, or one of the family's layouts, such as official")
    parser.add_argument(
        "--entry", default="", help="with a published layout: put the weights under this key, as in 'model'"
    )
    parser.add_argument("--option", type=_option, action="append", default=[], help="of the model: img_size=384")
    parser.add_argument("--license", help="of the weights, where --model has no tag that tells")
    parser.add_argument("--verbose", action="store_true", help="list renamed and reshaped keys too")
    parser.add_argument("--check", nargs=2, metavar=("A", "B"), help="compare two checkpoints and do nothing else")
    args = parser.parse_args(argv)
    try:
        if args.check:
            return check(*args.check)
        if not args.source or not args.model:
            parser.error("give a checkpoint and --model, or --check A B")
        options = dict(args.option)
        path = find_weights(args.source)
        if args.out and args.out.exists() and args.out.samefile(path):
            parser.error(f"--out {args.out} is the source, which has more than weights: name another file")
        model, conversion = build(args.model, options, read_checkpoint(path))
        if args.to == "own" and args.out and args.out.suffix != ".safetensors":
            parser.error(f"--out {args.out}: the zoo's own layout is written as .safetensors")
        if args.to not in ("own", "mm", *model.checkpoint_layouts):
            parser.error(f"--to {args.to}: {args.model} knows own, mm, {', '.join(model.checkpoint_layouts)}")
        print(report(conversion, args.verbose))
        if conversion.fit.unfit:
            conversion.fit.require(args.source, args.model)

        architecture, _, tag = args.model.partition(".")
        cfg = timm.models.get_pretrained_cfg(args.model) if tag else timm.models.PretrainedCfg(license=args.license)
        metadata = read_metadata(path)
        if "names" not in metadata:  # else converted before, and says where it is from
            source = path.name if args.source == str(path) else args.source
            metadata = metadata_of(conversion, architecture, cfg, source, sha256_of(path))
        if known := addresses(cfg):
            metadata["address"] = known[0]  # so that it counts as the weights of the tag
        weights = {key: conversion.weights[key] for key in model.state_dict()}
        print(f"runs: output {run(args.model, options, model.num_classes, weights)}")
        if args.out:
            write(weights, model, args.to, metadata, args.entry, args.out)
            print(args.out)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
