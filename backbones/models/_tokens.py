"""What models of one stage of blocks on tokens share: running it, taking features after blocks, pruning."""

from typing import Any

from timm.models import checkpoint
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from backbones.models._backbone import Backbone


class TokenStage(nn.Module):
    """Blocks run one after the other, all with the same further arguments.

    x: (B, N, dim), or any other shape that the blocks keep.

    Args:
        blocks: Modules called as ``block(x, *shared)``.
    """

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(
        self, x: Tensor, *shared: Any, taken: dict[int, Tensor | None] | None = None, last: int | None = None
    ) -> Tensor:
        """Run the blocks.

        Args:
            x: Tokens.
            shared: What every block takes beside them.
            taken: Its keys are blocks; its values become the tokens after these.
            last: Block after which to stop, None for the last.
        """
        for i, block in enumerate(self.blocks):
            if last is None or i <= last:
                x = checkpoint(block, x, *shared) if self.grad_checkpointing else block(x, *shared)
                if taken is not None and i in taken:
                    taken[i] = x
        return x


class TokenBackbone(Backbone):
    """``stages`` holds one ``TokenStage``; features are the tokens after each of its blocks, all of one size."""

    default_out_indices: int | None = 3  # of features_only: the last so many blocks

    @staticmethod
    def block_info(depth: int, dim: int, reduction: int) -> list[dict[str, Any]]:
        """``feature_info`` of ``depth`` blocks of ``dim`` channels."""
        return [{"num_chs": dim, "reduction": reduction, "module": f"stages.0.blocks.{i}"} for i in range(depth)]

    def run_stage(
        self, x: Tensor, *shared: Any, indices: int | list[int] | None, stop_early: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Tokens after the stage, and after the blocks that ``indices`` names as in ``forward_intermediates``."""
        (stage,) = self.stages
        take_indices, max_index = feature_take_indices(len(stage.blocks), indices)
        taken: dict[int, Any] = dict.fromkeys(sorted(take_indices))
        x = stage(x, *shared, taken=taken, last=max_index if stop_early else None)
        return x, list(taken.values())

    def drop_head(self) -> None:
        """Remove what features do not need."""
        raise NotImplementedError

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the maps of ``indices`` do not need, so that no parameter goes unused."""
        (stage,) = self.stages
        take_indices, max_index = feature_take_indices(len(stage.blocks), indices)
        stage.blocks = stage.blocks[: max_index + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.drop_head()
        return take_indices
