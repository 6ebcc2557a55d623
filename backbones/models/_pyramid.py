"""What every family of images shares: timm's model contract, written once."""

from typing import Any

from timm.layers import calculate_drop_path_rates, get_device_dtype, register_notrace_function, trunc_normal_
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from timm.models._input import update_model_input_size as update_model_input_size  # for families with position tables
from torch import Tensor, nn

from backbones.kernels import to_nchw, to_nhwc
from backbones.layers import ClassifierHead
from backbones.models._backbone import Backbone, check_output_fmt


@register_notrace_function
def image_to_map(x: Tensor, in_chans: int) -> Tensor:
    """Check an image and view it as a map: the one place where its memory is re-laid.

    x: (B, in_chans, H, W) -> (B, H, W, in_chans), contiguous.

    Raises:
        ValueError: If a side is below 32 pixels, the channels differ, or ``x`` is no batch of images.
    """
    if x.ndim != 4 or x.shape[1] != in_chans:
        raise ValueError(f"expected images of shape (B, {in_chans}, H, W), got {list(x.shape)}")
    if x.shape[2] < 32 or x.shape[3] < 32:
        raise ValueError(f"images need at least 32 x 32 pixels, got {x.shape[2]} x {x.shape[3]}: resize them first")
    return to_nhwc(x).contiguous()


class Stage(nn.Module):
    """Downsampling, blocks, and a norm where the family has one: (B, H, W, C) -> (B, H', W', C').

    Args:
        downsample: Module before the blocks, or None.
        blocks: Modules run one after the other.
        norm: Module on the last dimension after the blocks, or None.
    """

    def __init__(self, downsample: nn.Module | None, blocks: list[nn.Module], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.downsample = nn.Identity() if downsample is None else downsample
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.Identity() if norm is None else norm
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        if self.grad_checkpointing:
            x = checkpoint_seq(self.blocks, x)
        else:
            x = self.blocks(x)
        return self.norm(x)


class PyramidBackbone(Backbone):
    """stem -> stages[i] (downsample, blocks, norm) -> norm -> head, with the whole of timm's contract.

    A family gives a config dataclass with at least ``embed_dims`` and ``depths``, and the ``build_*`` methods. Images
    are (B, in_chans, H, W) with sides from 32 pixels up; maps between modules are (B, H, W, C).

    Args:
        cfg: The family's config.
        in_chans: Channels of the images.
        num_classes: Classes; 0 leaves the classifier out.
        global_pool: Pooling of the head, "avg", "max", "avgmax" or "" for none.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0.
    """

    task = "classification"
    output_fmt = "NHWC"  # of forward_features
    strides: tuple[int, ...] = (4, 2, 2, 2)  # of the stem with stage 0, then of each stage's downsampling
    default_out_indices: int | None = None  # of features_only: the last so many, all stages if None

    def __init__(
        self,
        cfg: Any,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.cfg = cfg
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.drop_rate = drop_rate

        self.stem = self.build_stem(cfg, in_chans, **dd)
        drop_paths = calculate_drop_path_rates(drop_path_rate, self.block_counts(cfg), stagewise=True)
        self.stages = nn.Sequential(*[self.build_stage(cfg, i, rates, **dd) for i, rates in enumerate(drop_paths)])
        self.norm = self.build_norm(cfg, **dd)
        self.head = self.build_head(cfg, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)

        reduction = 1
        self.feature_info = []
        for i, (dim, stride) in enumerate(zip(cfg.embed_dims, self.strides, strict=True)):
            reduction *= stride
            self.feature_info.append({"num_chs": dim, "reduction": reduction, "module": f"stages.{i}"})
        self.num_features = cfg.embed_dims[-1]
        self.head_hidden_size = self.head.num_features
        self.init_weights()

    # What a family defines -------------------------------------------------------------------------------------------

    def block_counts(self, cfg: Any) -> tuple[int, ...]:
        """Blocks of each stage that have a drop-path rate of their own."""
        return cfg.depths

    def build_stem(self, cfg: Any, in_chans: int, **dd: Any) -> nn.Module:
        """Module from the image as a map (B, H, W, in_chans) to the input of stage 0."""
        raise NotImplementedError

    def build_stage(self, cfg: Any, index: int, drop_paths: list[float], **dd: Any) -> nn.Module:
        """Stage ``index``; ``drop_paths`` holds the rate of each of its blocks."""
        raise NotImplementedError

    def build_norm(self, cfg: Any, **dd: Any) -> nn.Module:
        """Norm of the last map, before pooling."""
        return nn.Identity()

    def build_head(self, cfg: Any, num_classes: int, **kwargs: Any) -> ClassifierHead:
        """Classifier head."""
        return ClassifierHead(cfg.embed_dims[-1], num_classes, **kwargs)

    def init_module(self, module: nn.Module) -> None:
        """Linear layers: truncated normal, std 0.02, as most of the families' authors did."""
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    # timm's contract, in timm's order --------------------------------------------------------------------------------

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order the parameters from the image to the head, for layer-wise decay."""
        return {
            "stem": r"^stem",
            "blocks": r"^stages\.(\d+)"
            if coarse
            else [
                (r"^stages\.(\d+)\.downsample", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^stages\.(\d+)\.norm", (99999,)),
                (r"^norm", (99999,)),
            ],
        }

    def get_classifier(self) -> nn.Module:
        """The linear classifier."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        """Replace the classifier, and the pooling if given; ``reset_other`` also drops the head's other layers."""
        dd = get_device_dtype(self)
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, reset_other, in_features=self.num_features, **dd)
        self.head_hidden_size = self.head.num_features

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps after the stages.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Stages to take: the last n if an int, all if None.
            norm: Apply the model's final norm to the last stage's map.
            stop_early: Run no stage after the last one taken.
            output_fmt: "NCHW" for (B, C, H, W) views, or "NHWC".
            intermediates_only: Return the list alone, otherwise (final map (B, H, W, C), list).
        """
        check_output_fmt(output_fmt, ("NCHW", "NHWC"))
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        last = len(self.stages) - 1
        intermediates = []
        x = self.stem(image_to_map(x, self.in_chans))
        for i, stage in enumerate(self.stages):
            if not stop_early or i <= max_index:
                x = stage(x)
                if i == last and (norm or not intermediates_only):
                    normed = self.norm(x)
                else:
                    normed = x
                if i in take_indices:
                    out = normed if norm else x
                    intermediates.append(to_nchw(out) if output_fmt == "NCHW" else out)
                if i == last:
                    x = normed
        if intermediates_only:
            return intermediates
        return x, intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the maps of ``indices`` do not need, so that no parameter goes unused."""
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        prune_end = max_index < len(self.stages) - 1
        self.stages = self.stages[: max_index + 1]
        if prune_norm or prune_end:
            self.norm = nn.Identity()
        if prune_end:
            self.num_features = self.feature_info[max_index]["num_chs"]
        if prune_head or prune_end:
            self.reset_classifier(0, "", reset_other=True)
        return take_indices

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> the last map, normalised, (B, H', W', C)."""
        x = self.stem(image_to_map(x, self.in_chans))
        return self.norm(self.stages(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, H, W, C) -> (B, num_classes), or the classifier's input if ``pre_logits``."""
        return self.head(x, pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))
