"""Classifier head on (B, H, W, C) maps."""

from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn


class ClassifierHead(nn.Module):
    """[projection ->] global pooling [-> norm] -> dropout -> linear classifier.

    x: (B, H, W, C) -> (B, num_classes); without pooling ("") (B, H, W, num_classes).
    Cost: in_features * num_classes an image, beside the projection.

    Args:
        in_features: Channels of the map.
        num_classes: Classes; 0 leaves the classifier out.
        pool_type: One of ``pool_types``.
        drop_rate: Dropout before the classifier.
        proj: Module from (B, H, W, C) to (B, H, W, proj.out_features), of families that widen the map before pooling.
        norm: Module on the last dimension, of families that normalise after pooling.

    Raises:
        ValueError: If ``pool_type`` is unknown.
    """

    pool_types: tuple[str, ...] = ("avg", "max", "avgmax", "")

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        pool_type: str = "avg",
        drop_rate: float = 0.0,
        proj: nn.Module | None = None,
        norm: nn.Module | None = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.proj = nn.Identity() if proj is None else proj
        self.num_features = in_features if proj is None else proj.out_features
        self.norm = nn.Identity() if norm is None else norm
        self.drop = nn.Dropout(drop_rate)
        self._build(num_classes, pool_type, device, dtype)

    def _build(self, num_classes: int, pool_type: str, device, dtype) -> None:
        if pool_type not in self.pool_types:
            raise ValueError(f"global_pool {pool_type!r} is not one of {self.pool_types}")
        self.pool_type = pool_type
        self.global_pool = self.build_pool(pool_type)
        if num_classes > 0:
            self.fc = nn.Linear(self.num_features, num_classes, device=device, dtype=dtype)
        else:
            self.fc = nn.Identity()

    def build_pool(self, pool_type: str) -> nn.Module:
        """Module for one of ``pool_types``."""
        return SelectAdaptivePool2d(pool_type=pool_type, flatten=bool(pool_type), input_fmt="NHWC")

    def reset(
        self,
        num_classes: int,
        pool_type: str | None = None,
        reset_other: bool = False,
        in_features: int | None = None,
        device=None,
        dtype=None,
    ) -> None:
        """Replace the classifier, and the pooling if ``pool_type`` is given; ``reset_other`` drops proj and norm."""
        if reset_other:
            self.proj, self.norm = nn.Identity(), nn.Identity()
            self.num_features = self.num_features if in_features is None else in_features
        self._build(num_classes, self.pool_type if pool_type is None else pool_type, device, dtype)
        self.train(self.training)  # new modules follow the mode of the old

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(self.norm(self.global_pool(self.proj(x))))
        return x if pre_logits else self.fc(x)
