"""The zoo's models as OpenMMLab backbones: one adaptor for all of them."""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from timm.models._manipulate import group_with_matcher
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import backbones
from backbones.weights import compare, convert_state_dict, load_checkpoint

from . import operators

__all__ = ["ZooBackbone"]

_BLOCK = re.compile(r"(stages\.\d+)\.blocks\.\d+\.")


@MODELS.register_module()
class ZooBackbone(BaseModule):
    """Any model of the zoo, or of timm, where an OpenMMLab config asks for a backbone.

    It sits in MMEngine's root registry, so MMPretrain, MMDetection and MMSegmentation all find it. As a pyramid,
    ``x: (B, 3, H, W) -> tuple of (B, C_i, H_i, W_i)``, one map an index, in the memory format that the model computes,
    which is channels last for the zoo's own. What the chosen indices do not need (later stages, final norm, head) is
    removed, so that every parameter gets a gradient and distributed training needs no search for unused ones.

    Indices count the entries of timm's ``feature_info``: the four stages of the zoo's pyramids; a ResNet's stem and
    four stages (so that strides 4 to 32 are ``out_indices=(1, 2, 3, 4)``); a plain vision transformer's blocks.

    With ``out_indices=None`` it is the whole classifier, ``x: (B, 3, H, W) -> ((B, num_classes),)``, head included,
    for MMPretrain's ``ImageClassifier`` with a parameterless ``ClsHead``. Some families project or normalise inside
    their head; this way their training is exactly timm's and the weights go back into ``timm.create_model``.

    Args:
        model: name, with a tag if pretrained weights other than the default are meant (``van_b0.in1k``).
        out_indices: stages to return, in ascending order; None for logits.
        frozen_stages: 0 freezes the stem, k the stem and the first k stages: parameters, BatchNorm statistics and
            drop path. -1 freezes nothing. Stages are those of timm's ``group_matcher(coarse=True)``: a pyramid's
            stages, a plain transformer's blocks.
        norm_eval: keep every BatchNorm on its running statistics while training.
        with_cp: recompute activations in the backward pass to save memory.
        out_norm: LayerNorm (eps 1e-5) on returned maps, one flag for all or one for each index. The official dense
            prediction code of LITv2 and DaViT adds these; LITv2's detection leaves the first map as it is.
        final_norm: apply the classifier's final norm to the last stage's map, as classification necks expect.
            Models with a norm in every stage (VAN) do so anyway.
        pretrained: load the weights that belong to the name.
        init_cfg: ``dict(type="Pretrained", checkpoint=PATH_OR_URL, prefix="backbone.")`` loads a file in any layout
            that :func:`backbones.weights.convert_state_dict` reads, the authors' own included.
        **model_kwargs: passed to ``timm.create_model`` (``drop_path_rate``, ``in_chans``, ``num_classes``, ...).

    Raises:
        ValueError: unknown name, an index the model does not have, more frozen stages than there are or than timm
            tells apart, a number of ``out_norm`` flags that is not the number of indices, ``final_norm`` without the
            last stage, logits of a model that has none, or maps or recomputation of a model of timm without them.
    """

    _is_init: bool

    def __init__(
        self,
        model: str,
        out_indices: Sequence[int] | None = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        out_norm: bool | Sequence[bool] = False,
        final_norm: bool = False,
        pretrained: bool = False,
        init_cfg: dict | None = None,
        **model_kwargs,
    ) -> None:
        super().__init__(init_cfg)
        if init_cfg and init_cfg.get("type") != "Pretrained":
            raise ValueError(
                f"init_cfg type {init_cfg.get('type')!r}: only 'Pretrained' (models initialise themselves)"
            )
        self.model = backbones.create_model(model, pretrained=pretrained, **model_kwargs)
        self.model_name = model
        self.frozen_stages = frozen_stages
        self.frozen_names = self._frozen_names(frozen_stages)
        self.norm_eval = norm_eval
        self.final_norm = final_norm
        self.compiled_operators = operators.are_compiled()
        self.out_indices = None if out_indices is None else self._check_indices(out_indices)
        if out_indices is None and getattr(self.model, "task", "classification") != "classification":
            raise ValueError(f"{model} gives no logits: name the blocks whose maps you want in out_indices")

        flags = out_norm if isinstance(out_norm, Sequence) else [out_norm] * len(self.out_indices or ())
        if len(flags) != len(self.out_indices or ()):
            raise ValueError(f"out_norm has {len(flags)} flags for out_indices={self.out_indices}: give one for each")
        self.out_norms = nn.ModuleDict()  # keyed by stage, as the official code numbers its norms
        for i, flag in zip(self.out_indices or (), flags):
            if flag:
                self.out_norms[str(i)] = nn.LayerNorm(self.model.feature_info[i]["num_chs"])
        if self.out_indices is not None:
            self.model.prune_intermediate_layers(list(self.out_indices), prune_norm=not final_norm, prune_head=True)
        if with_cp:
            try:
                self.model.set_grad_checkpointing(True)
            except (AttributeError, AssertionError) as error:  # a model of timm that cannot
                raise ValueError(f"{model} cannot recompute activations: leave with_cp=False") from error
        self._freeze()

    def _check_indices(self, indices: Sequence[int]) -> tuple[int, ...]:
        count = len(getattr(self.model, "feature_info", None) or ())
        if not count or not hasattr(self.model, "forward_intermediates"):
            raise ValueError(f"{self.model_name} gives no feature maps: out_indices=None takes its logits")
        bad = [i for i in indices if not -count <= i < count]
        if bad or not len(indices):
            raise ValueError(f"out_indices={tuple(indices)}: {self.model_name} has the stages 0 to {count - 1}")
        resolved = tuple(i % count for i in indices)
        if list(resolved) != sorted(set(resolved)):
            raise ValueError(f"out_indices={tuple(indices)} must ascend without repetition")
        if self.final_norm and resolved[-1] != count - 1:
            raise ValueError(f"final_norm belongs to stage {count - 1}, which out_indices={tuple(indices)} leaves out")
        return resolved

    @property
    def out_channels(self) -> list[int]:
        """Widths of the returned maps, in order: what a neck's ``in_channels`` must be."""
        return [self.model.feature_info[i]["num_chs"] for i in self.out_indices or ()]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.out_indices is None:
            return (self.model(x),)
        maps = self.model.forward_intermediates(
            x, indices=list(self.out_indices), norm=self.final_norm, output_fmt="NCHW", intermediates_only=True
        )
        maps = tuple(self._normalise(i, y) for i, y in zip(self.out_indices, maps))
        # Compiled operators, RoIAlign among them, would scramble channels-last maps without a word.
        return tuple(y.contiguous() for y in maps) if self.compiled_operators else maps

    def _normalise(self, index: int, x: Tensor) -> Tensor:
        if str(index) not in self.out_norms:
            return x
        return self.out_norms[str(index)](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def train(self, mode: bool = True) -> "ZooBackbone":
        super().train(mode)
        self._freeze()
        return self

    def _frozen_names(self, stages: int) -> set[str]:
        """Names of the modules and parameters in the stem and the first ``stages`` stages, as timm groups them."""
        if stages == -1:
            return set()
        try:
            matcher = self.model.group_matcher(coarse=True)
        except (AttributeError, AssertionError) as error:
            raise ValueError(f"timm tells no stages of {self.model_name} apart: leave frozen_stages=-1") from error
        names = [name for name, _ in chain(self.model.named_modules(), self.model.named_parameters())]
        groups = group_with_matcher([(name, None) for name in [*names, "the head"]], matcher)  # 0 is the stem
        if not 0 <= stages <= len(groups) - 2:
            raise ValueError(f"frozen_stages={stages}: {self.model_name} has {len(groups) - 2} stages")
        return {name for group, members in groups.items() if group <= stages for name in members}

    def _freeze(self) -> None:
        for name, module in self.model.named_modules():
            if name in self.frozen_names:
                module.training = False
        for name, parameter in self.model.named_parameters():
            if name in self.frozen_names:
                parameter.requires_grad_(False)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def _head_prefixes(self) -> tuple[str, ...]:
        names = (getattr(self.model, "pretrained_cfg", None) or {}).get("classifier") or ("head",)
        return tuple(name.split(".")[0] + "." for name in ([names] if isinstance(names, str) else names))

    def init_weights(self) -> None:
        """Load what ``init_cfg`` names. The model has initialised itself; MMEngine must not do it again over it."""
        if self.init_cfg and not self._is_init:
            self.load_weights(self.init_cfg["checkpoint"], self.init_cfg.get("prefix", ""))
        self._is_init = True

    def load_weights(self, checkpoint: str, prefix: str = "") -> None:
        """Load a file or URL in any layout the zoo reads.

        Later stages, norms and heads that this backbone does not have are left out; a head for another number of
        classes, or one that the file lacks, keeps its initialisation, as in timm. So do missing output norms.

        Args:
            checkpoint: path or URL.
            prefix: take only the entries under this prefix; needed only where it is not ``backbone.``.

        Raises:
            ValueError: the file is damaged, or does not have what this backbone has; see :meth:`find_entries`.
        """
        weights = load_checkpoint(checkpoint)
        if prefix:
            weights = weights.get("state_dict", weights)
            weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        found = self.find_entries(weights, checkpoint)
        if absent := [key for key in self.model.state_dict() if f"model.{key}" not in found]:
            print_log(f"{checkpoint} does not fit the head, which starts afresh: {', '.join(absent)}", logger="current")
        self.load_state_dict(found, strict=False)

    def find_entries(self, checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
        """This backbone's own entries in a file's content of any layout, without those of a head that does not fit.

        Args:
            checkpoint: weights, or what has them somewhere inside.
            source: what the file is called in messages.

        Raises:
            ValueError: something of the body is missing or of another shape, or the file has more blocks in a stage.
        """
        own = self.model.state_dict()
        found = convert_state_dict(checkpoint, self.model, strict=False)
        fit = compare(found, own)
        head = self._head_prefixes()
        fit.only(lambda key: key in own and not key.startswith(head)).require(source, self.model_name, most=5)
        stages = {match[1] for key in own if (match := _BLOCK.match(key))}
        deeper = [key for key in fit.unexpected if (match := _BLOCK.match(key)) and match[1] in stages]
        if deeper:
            raise ValueError(f"{source} does not fit {self.model_name}: it has more blocks, {deeper[0]} for example")
        norms = {key: value for key, value in found.items() if key in self.state_dict()}
        return norms | {f"model.{key}": found[key] for key in own if key not in fit.unfit}
