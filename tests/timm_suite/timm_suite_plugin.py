"""Pytest plugin that shows timm's own ``tests/test_models.py`` only the models it is given.

timm's file lists the models to test with ``timm.list_models`` while it is imported. The plugin replaces that function
before, and deselects the tests that name timm's own models.
"""

import functools

import pytest
import timm

import backbones  # noqa: F401  registers the models
from backbones.kernels import set_fast_kernels

# Test id ("test_model_forward[1-van_b0]") -> why it is expected to fail. An entry that passes fails the run.
EXPECTED_FAILURES = {
    "test_prune_intermediate_layers_contract[test_van]": "tells NHWC from NCHW by the shape, the same for "
    "16 channels of 16 x 16 pixels, as this model's first map is at its 64 pixels",
}

# TorchScript is deprecated in PyTorch itself, so no model has a second body for it: timm's tests of it are not run.
NO_TORCHSCRIPT = "TorchScript is not supported: use torch.export (docs/export.md)"

# Families of plain tokens. timm has other rules for its own (no pyramid, other pooling), found by these patterns in
# its list of non-standard models, which always holds "vit_*".
PLAIN_TOKEN_MODELS = ["illama_*", "test_illama"]
PLAIN_TOKEN_LIST_HAS = "vit_*"

MARKERS = ("base", "forward", "backward", "cfg", "cfg_nonstd", "torchscript", "features", "fxforward", "fxbackward")


def make_list_models(names: list[str]):
    """``timm.list_models`` restricted to `names`.

    All of timm's arguments mean what they mean in timm, except that `module` (an allow list of timm's own modules)
    admits every model and `pretrained` none, because weights would have to be downloaded.
    """
    original = timm.list_models

    def with_plain_tokens(patterns):
        patterns = [patterns] if isinstance(patterns, str) and patterns else list(patterns)
        return patterns + PLAIN_TOKEN_MODELS if PLAIN_TOKEN_LIST_HAS in patterns else patterns

    @functools.wraps(original)
    def list_models(filter="", module="", pretrained=False, exclude_filters="", **kwargs):
        if pretrained:
            return []
        found = original(with_plain_tokens(filter), exclude_filters=with_plain_tokens(exclude_filters), **kwargs)
        return [name for name in found if timm.models.get_arch_name(name) in names]

    return list_models


@pytest.fixture(autouse=True)
def plain_kernels_beside_traced_programs(request):
    """A traced program is the plain form, and timm compares it to 1e-5 with the model under random weights.

    A model that sorts tokens (SG-Former) turns the last bit of another kernel into another order, that is into another
    result of 1e-4. So the model runs its plain form too; that both forms are equal is shown in tests/kernels.
    """
    traces = "fx" in request.node.name
    if traces:
        set_fast_kernels(False)
    yield
    if traces:
        set_fast_kernels(True)


def pytest_addoption(parser):
    parser.addoption("--zoo-models", required=True, help="comma-separated names of the models to test")


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: timm's")
    list_models = make_list_models(config.getoption("--zoo-models").split(","))
    for module in (timm, timm.models):
        module.list_models = list_models
        module.list_pretrained = lambda *args, **kwargs: []


def pytest_collection_modifyitems(config, items):
    names = config.getoption("--zoo-models").split(",")

    def is_ours(item):
        name = item.callspec.params.get("model_name") if hasattr(item, "callspec") else None
        return isinstance(name, str) and timm.models.get_arch_name(name) in names

    config.hook.pytest_deselected(items=[item for item in items if not is_ours(item)])
    items[:] = [item for item in items if is_ours(item)]
    for item in items:
        if reason := EXPECTED_FAILURES.get(item.name):
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
        if "torchscript" in item.name:
            item.add_marker(pytest.mark.xfail(reason=NO_TORCHSCRIPT, run=False))
