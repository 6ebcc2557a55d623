"""Training with parameters, gradients and optimizer states divided among processes (torch's ``fully_shard``).

A checkpoint of such a run is the same as of any other: the pieces are put together when it is written and dealt out
again when it is read, so that either kind of run goes on from either kind of checkpoint.
"""

from mmengine.device import get_device
from mmengine.dist import broadcast, get_world_size, is_main_process
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer

from backbones.mm.training.runner import ResumableRunner, like, whole

__all__ = ["ShardedRunner"]


class ShardedRunner(ResumableRunner):
    """MMEngine's runner for models that are sharded: each block of the backbone by itself, the rest together."""

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        model = model.to(get_device())
        model.init_weights()  # MMEngine does so later, when whole weights are no longer there
        for value in model.state_dict().values():
            broadcast(value)
        mesh = init_device_mesh(get_device(), (get_world_size(),))
        for stage in getattr(model.backbone.model, "stages", ()):  # other models of timm are sharded as a whole
            for block in getattr(stage, "blocks", ()):
                fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        model.register_state_dict_post_hook(lambda module, state, prefix, metadata: state.update(whole(state)))
        model.register_load_state_dict_pre_hook(_deal_weights)
        return model

    def _init_model_weights(self) -> None:
        pass  # done above

    def build_optim_wrapper(self, optim_wrapper: OptimWrapper | dict) -> OptimWrapper:
        built = super().build_optim_wrapper(optim_wrapper)
        if built is not optim_wrapper:
            built.optimizer.register_state_dict_post_hook(lambda optimizer, state: whole(state))
            built.optimizer.register_load_state_dict_pre_hook(_deal_moments)
        return built

    def save_checkpoint(self, *args, save_optimizer: bool = True, **kwargs) -> None:
        super().save_checkpoint(*args, save_optimizer=save_optimizer, **kwargs)
        if not is_main_process():  # gathering takes all processes, writing one
            self.model.state_dict()
            if save_optimizer:
                self.optim_wrapper.state_dict()


def _deal_weights(module: nn.Module, state: dict, prefix: str, *args) -> None:
    for key, parameter in module.named_parameters():
        if key in state:
            state[key] = like(state[key], parameter)


def _deal_moments(optimizer: Optimizer, state: dict) -> dict:
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    dealt = {
        i: {name: like(v, own[i]) if isinstance(v, Tensor) else v for name, v in moments.items()}
        for i, moments in state["state"].items()
    }
    return {**state, "state": dealt}
