"""mmcv's operators in torch: equal to the compiled ones, and right where those are not.

The compiled build's results are stored; ``operator_cases.py`` says how they are made. ``OPERATOR_VALUES`` names another
file of them, to compare with a build at hand.
"""

import os
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from tests.mm.operator_cases import CASES, MODELS, VALUES, Inputs, run_case

pytestmark = pytest.mark.mm

CUDA = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(os.environ.get("OPERATOR_VALUES", VALUES)) as file:
        return dict(file)


@pytest.fixture
def random() -> Inputs:
    return Inputs(seed=0, dtype=torch.float64)


def assert_stored(stored: dict[str, np.ndarray], name: str, results: dict[str, Tensor], tolerance: float) -> None:
    """Whole numbers (which boxes) are equal, others differ by no more than a part of the largest."""
    expected = {key.removeprefix(f"{name}/"): value for key, value in stored.items() if key.startswith(f"{name}/")}
    assert results.keys() == expected.keys()
    for key, value in expected.items():
        result, value = results[key].cpu(), torch.from_numpy(value)
        if not value.is_floating_point():
            assert torch.equal(result, value), key
        else:
            atol = tolerance * max(value.abs().max().item(), 1e-6) if value.numel() else 0
            torch.testing.assert_close(
                result.to(value.dtype), value, atol=atol, rtol=0, msg=lambda m, k=key: f"{k}: {m}"
            )


SETTINGS = {
    "float32": (dict(), 2e-6),
    "channels-last": (dict(channels_last=True), 2e-6),
    "float64": (dict(dtype=torch.float64), 1e-5),
    "float16": (dict(dtype=torch.float16), 2e-3),
    "bfloat16": (dict(dtype=torch.bfloat16), 1e-2),
}


@pytest.mark.parametrize("setting", [*SETTINGS, pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("name", CASES)
def test_operators_equal_compiled_ones(name, setting, stored):
    options, tolerance = SETTINGS.get(setting, (dict(device="cuda"), 1e-4))
    assert_stored(stored, name, run_case(name, **options), tolerance)


def test_every_stored_value_is_compared():
    names = {"/".join(key.split("/")[:2]) for key in np.load(VALUES)}
    assert names == set(CASES) | {f"model/{name}" for name in MODELS}
    assert VALUES.stat().st_size < 1e6


# What the compiled build leaves open, or gets wrong -------------------------------------------------------------------


def overlap(a: Tensor, b: Tensor) -> float:
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@pytest.mark.parametrize("device", DEVICES)
def test_equal_scores_keep_their_order(device):
    from mmcv.ops import nms, nms_match

    inputs = Inputs(seed=1)
    boxes, scores = inputs.boxes(300), torch.randint(0, 4, (300,), generator=torch.Generator().manual_seed(0)) / 4.0
    order = sorted(range(300), key=lambda i: -scores[i])  # Python's sort is stable
    kept, groups = [], []
    for i in order:
        better = [j for j in kept if overlap(boxes[i], boxes[j]) > 0.5]
        if better:
            groups[kept.index(better[0])].append(i)
        else:
            kept.append(i)
            groups.append([i])
    assert nms(boxes.to(device), scores.to(device), 0.5)[1].tolist() == kept
    matched = nms_match(torch.cat([boxes, scores[:, None]], 1).to(device), 0.5)
    assert [group.tolist() for group in matched] == groups


BAD_REGIONS = {
    "is not finite": ([0, 1, 1, float("nan"), 9], "region 1 is .*nan.*: coordinates must be finite"),
    "is negative": ([0, 9, 1, 5, 9], r"region 1 is \[0.0, 9.0, 1.0, 5.0, 9.0\]: x2 >= x1 and y2 >= y1"),
    "names an image that is not there": ([2, 1, 1, 9, 9], "regions name images 0 to 2 of a batch of 2"),
    "names an image before the first": ([-1, 1, 1, 9, 9], "regions name images -1 to 0 of a batch of 2"),
}


@pytest.mark.parametrize("fault", BAD_REGIONS)
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_bad_regions_are_refused(fault, mode):
    """torchvision's kernel would read beyond the maps, or compute something."""
    from mmcv.ops import roi_align

    region, message = BAD_REGIONS[fault]
    regions = torch.tensor([[0, 1, 1, 9, 9], region], dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        roi_align(torch.rand(2, 3, 8, 8), regions, 2, 1.0, 0, mode, True)


def test_regions_without_area_have_no_maximum():
    from mmcv.ops import roi_align

    maps = torch.rand(1, 3, 8, 8, requires_grad=True)
    output = roi_align(maps, torch.tensor([[0.0, 4, 4, 4, 4]]), 2, 1.0, 0, "max", True)
    assert not output.any()
    assert not torch.autograd.grad(output.sum(), maps)[0].any()


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("channels, count", [(0, 3), (4, 0)])
def test_nothing_gives_nothing(mode, channels, count):
    """The compiled RoIAlign dies of a division by zero without channels."""
    from mmcv.ops import roi_align

    maps = torch.rand(2, channels, 8, 8, requires_grad=True)
    output = roi_align(maps, torch.rand(count, 1).new_tensor([[0.0, 1, 1, 5, 5]]).expand(count, 5), 2, 1.0, 2, mode)
    assert output.shape == (count, channels, 2, 2)
    assert torch.autograd.grad(output.sum(), maps)[0].shape == maps.shape


def test_no_boxes():
    from mmcv.ops import nms, nms_match, soft_nms

    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    for function in (nms, soft_nms):
        dets, kept = function(boxes, scores, 0.5)
        assert dets.shape == (0, 5) and kept.shape == (0,) and kept.dtype == torch.long
    assert nms_match(torch.zeros(0, 5), 0.5) == []


def test_offsets_smaller_than_the_output_are_refused():
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    x, weight = torch.rand(1, 4, 8, 8), torch.rand(4, 4, 3, 3)
    with pytest.raises(ValueError, match=r"of \(4, 4\) for an output of \(8, 8\): they are too small"):
        modulated_deform_conv2d(x, torch.zeros(1, 18, 4, 4), torch.zeros(1, 9, 8, 8), weight, None, 1, 1)
    with pytest.raises(RuntimeError, match="offset output dims"):
        deform_conv2d(x, torch.zeros(1, 18, 4, 4), weight, 1, 1)


def test_only_the_weight_learns(random):
    """mmcv asks for the weight's gradient in a second call, or only in that one."""
    from mmcv.ops import deform_conv2d

    x, offset, weight = random(2, 4, 5, 6), random(2, 18, 5, 6, low=-1), random(3, 4, 3, 3, low=-1, grad=True)
    (alone,) = torch.autograd.grad(deform_conv2d(x, offset, weight, 1, 1).square().sum(), weight)
    x.requires_grad_()
    _, both = torch.autograd.grad(deform_conv2d(x, offset, weight, 1, 1).square().sum(), (x, weight))
    torch.testing.assert_close(alone, both)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_leaves_operators_alone(dtype):
    """Offsets in half, as autocast's convolutions make them, decide the type; the computation is in float32."""
    from mmcv.ops import ModulatedDeformConv2dPack

    torch.manual_seed(0)
    layer, x = ModulatedDeformConv2dPack(4, 6, 3, padding=1), torch.rand(2, 4, 8, 8)
    nn.init.normal_(layer.conv_offset.weight, std=0.2)
    with torch.autocast("cpu", dtype=dtype):
        output = layer(x)
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), layer(x), atol=0.03, rtol=0.03)
    output.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_operators_left_out_say_how_to_get_them():
    from mmcv.ops import line_nms  # noqa: F401  (importing everything works)

    extension = import_module("mmcv._ext")
    with pytest.raises(NotImplementedError, match="'nms_rotated'.*Compile mmcv's own.*pip install"):
        extension.nms_rotated(1)
    assert not hasattr(extension, "__wrapped__")


def test_compiler_versions_are_words():
    from mmcv.ops import get_compiler_version, get_compiling_cuda_version

    assert f"torch {torch.__version__}" in get_compiler_version()
    assert get_compiling_cuda_version() == "not compiled"


# Operators that the compiled build has on a GPU only, against a few obvious lines -------------------------------------


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """``(C, H, W)`` at one place, by RoIAlign's rule for places outside."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(len(image))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = image[:, top, left] * (1 - (x - left)) + image[:, top, right] * (x - left)
    lower = image[:, bottom, left] * (1 - (x - left)) + image[:, bottom, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ratio", [0, 2])
def test_deform_roi_pool(random, device, ratio):
    from mmcv.ops import deform_roi_pool

    maps, offset = random(2, 3, 9, 11), random(4, 2, 2, 3, low=-1)
    regions = torch.tensor([[0.0, 2, 3, 20, 18], [1, -6, 4, 9, 30], [1, 5, 5, 5, 9], [0, 30, 20, 50, 40]]).double()
    output = deform_roi_pool(maps.to(device), regions.to(device), offset.to(device), (2, 3), 0.5, ratio, 0.3)
    for k, (image, *box) in enumerate(regions.tolist()):
        x1, y1, x2, y2 = (v * 0.5 - 0.5 for v in box)
        size = ((y2 - y1) / 2, (x2 - x1) / 3)
        grid = [ratio or int(np.ceil(s)) for s in size]
        for i, j in np.ndindex(2, 3):
            top = y1 + i * size[0] + 0.3 * (y2 - y1) * offset[k, 1, i, j].item()
            left = x1 + j * size[1] + 0.3 * (x2 - x1) * offset[k, 0, i, j].item()
            samples = [
                bilinear(maps[int(image)], top + (a + 0.5) * size[0] / grid[0], left + (b + 0.5) * size[1] / grid[1])
                for a, b in np.ndindex(*grid)
            ]
            expected = torch.stack(samples).mean(0) if samples else torch.zeros(3).double()
            torch.testing.assert_close(output[k, :, i, j].cpu(), expected)
    still = deform_roi_pool(maps, regions, None, (2, 3), 0.5, ratio)
    torch.testing.assert_close(still, deform_roi_pool(maps, regions, offset * 0, (2, 3), 0.5, ratio))


@pytest.mark.parametrize("device", DEVICES)
def test_roi_pool(random, device):
    from mmcv.ops import roi_pool

    maps = random(2, 3, 9, 11, low=-1)
    regions = torch.tensor([[0.0, 2, 3, 13, 9], [1, -6, 4, 9, 30], [1, 9, 9, 2, 2], [0, 40, 30, 50, 40]]).double()
    output = roi_pool(maps.to(device), regions.to(device), (2, 3), 0.5)
    for k, (image, *box) in enumerate(regions.tolist()):
        x1, y1, x2, y2 = box[0] * 0.5, box[1] * 0.5, (box[2] + 1) * 0.5, (box[3] + 1) * 0.5
        for i, j in np.ndindex(2, 3):
            rows = [int(np.floor(y1 + i * (y2 - y1) / 2)), int(np.ceil(y1 + (i + 1) * (y2 - y1) / 2))]
            columns = [int(np.floor(x1 + j * (x2 - x1) / 3)), int(np.ceil(x1 + (j + 1) * (x2 - x1) / 3))]
            patch = maps[int(image), :, slice(*np.clip(rows, 0, 9)), slice(*np.clip(columns, 0, 11))].flatten(1)
            expected = patch.amax(1) if patch.numel() else torch.zeros(3).double()
            assert torch.equal(output[k, :, i, j].cpu(), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("groups, scale", [(1, 2), (2, 3)])
def test_carafe(random, device, groups, scale):
    from mmcv.ops import carafe, carafe_naive

    maps, masks = random(2, 4, 3, 5, low=-1), random(2, 9 * groups, 3 * scale, 5 * scale)
    padded = nn.functional.pad(maps, (1, 1, 1, 1))
    expected = torch.zeros(2, 4, 3 * scale, 5 * scale).double()
    for channel, y, x in np.ndindex(*expected.shape[1:]):
        patch = padded[:, channel, y // scale : y // scale + 3, x // scale : x // scale + 3].flatten(1)
        group = channel // (4 // groups)
        expected[:, channel, y, x] = (patch * masks[:, 9 * group : 9 * group + 9, y, x]).sum(1)
    for function in (carafe, carafe_naive):
        torch.testing.assert_close(function(maps.to(device), masks.to(device), 3, groups, scale).cpu(), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_masked_convolution(random, device):
    from mmcv.ops import MaskedConv2d

    torch.manual_seed(0)
    layer, x = MaskedConv2d(4, 6, 3, padding=1).double(), random(1, 4, 7, 9)
    mask = random(1, 7, 9) > 0.6
    expected = nn.Conv2d.forward(layer, x) * mask
    with torch.no_grad():
        torch.testing.assert_close(layer.to(device)(x.to(device), mask.to(device)).cpu(), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_losses(random, device, gamma, weighted):
    from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss

    x = random(6, 4, low=-5, high=5).to(device).requires_grad_()
    x.data[0, 0], x.data[1, 1] = 40, -40
    target = torch.tensor([0, 1, 2, 3, 0, 1], device=device)
    weight = random(4).to(device) if weighted else None
    factor = 1 if weight is None else weight[target]

    p, hot = x.sigmoid(), nn.functional.one_hot(target, 4)
    losses = nn.functional.binary_cross_entropy_with_logits(x, hot.double(), reduction="none")
    balance = torch.where(hot == 1, 0.25, 0.75) * torch.where(hot == 1, 1 - p, p).pow(gamma)
    expected = (losses * balance).sum(1) * factor
    result = sigmoid_focal_loss(x, target, gamma, 0.25, weight, "none").sum(1)
    torch.testing.assert_close(result, expected)
    grads = [torch.autograd.grad(y.sum(), x)[0] for y in (result, expected)]
    torch.testing.assert_close(*grads)

    p = x.softmax(1).gather(1, target[:, None])[:, 0]
    expected = -0.25 * (1 - p).pow(gamma) * p.log() * factor
    result = softmax_focal_loss(x, target, gamma, 0.25, weight, "sum")
    torch.testing.assert_close(result, expected.sum())
    grads = [torch.autograd.grad(y, x)[0] for y in (result, expected.sum())]
    torch.testing.assert_close(*grads)


def test_background_is_no_class():
    """The sigmoid's background is the last class plus one; the softmax ignores negative targets."""
    from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss

    x, weight = torch.rand(3, 4), torch.rand(4)
    losses = sigmoid_focal_loss(x, torch.tensor([4, -1, 4]), 2.0, 0.25, weight, "none")
    torch.testing.assert_close(losses, -0.75 * x.sigmoid().square() * (1 - x.sigmoid()).log())
    assert not softmax_focal_loss(x, torch.tensor([-1, -1, -1]), 2.0, 0.25, weight, "sum")


@pytest.mark.parametrize("device", DEVICES)
def test_multi_scale_deformable_attention(random, device):
    """Through the function that mmcv calls on a GPU, against the module that it calls on a CPU."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch

    shapes = torch.tensor([[6, 4], [3, 2]])
    inputs = (random(2, 30, 2, 4), random(2, 5, 2, 2, 3, 2), random(2, 5, 2, 2, 3))
    value, locations, weights = (x.to(device).requires_grad_() for x in inputs)
    starts = torch.tensor([0, 24])
    call = (value, shapes.to(device), starts.to(device), locations, weights, 64)
    output = MultiScaleDeformableAttnFunction.apply(*call)
    reference = [x.requires_grad_() for x in inputs]
    expected = multi_scale_deformable_attn_pytorch(reference[0], shapes, *reference[1:])
    torch.testing.assert_close(output.cpu(), expected)
    grads = torch.autograd.grad(output.square().sum(), (value, locations, weights))
    for grad, other in zip(grads, torch.autograd.grad(expected.square().sum(), reference)):
        torch.testing.assert_close(grad.cpu(), other)


@pytest.mark.parametrize("device", DEVICES)
def test_synchronised_batch_norm(device):
    """Statistics of two halves, averaged as mmcv's processes do, are those of the whole."""
    ops, torch_norm = import_module("mmcv._ext"), nn.BatchNorm2d(4, momentum=0.2).to(device)
    x = torch.randn(4, 4, 3, 5, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    nn.init.uniform_(torch_norm.weight), nn.init.uniform_(torch_norm.bias)
    expected = torch_norm(x)
    expected.square().sum().backward()

    halves, grads = x.detach().flatten(2).chunk(2), (2 * expected.detach()).flatten(2).chunk(2)
    mean, var, std, scale, shift = (torch.zeros(2, 4, device=device) for _ in range(5))
    for half, out in zip(halves, mean):
        ops.sync_bn_forward_mean(half, out)
    for half, out in zip(halves, var):
        ops.sync_bn_forward_var(half, mean.mean(0), out)
    running = torch.zeros(4, device=device), torch.ones(4, device=device)
    norms, outputs = [torch.zeros_like(half) for half in halves], [torch.zeros_like(half) for half in halves]
    affine = (torch_norm.weight.detach(), torch_norm.bias.detach())
    for i, half in enumerate(halves):
        first = [x.clone() for x in running] if i else running  # every process updates its own
        statistics = (mean.mean(0), var.mean(0), *affine, *first, norms[i], std[i], outputs[i])
        ops.sync_bn_forward_output(half, *statistics, eps=1e-5, momentum=torch.tensor(0.2), group_size=2)
    torch.testing.assert_close(torch.cat(outputs).view_as(x), expected)
    torch.testing.assert_close(running, (torch_norm.running_mean, torch_norm.running_var))

    for i, grad in enumerate(grads):
        ops.sync_bn_backward_param(grad, norms[i], scale[i], shift[i])
    torch.testing.assert_close(scale.sum(0), torch_norm.weight.grad)
    torch.testing.assert_close(shift.sum(0), torch_norm.bias.grad)
    results = [torch.zeros_like(half) for half in halves]
    for i, grad in enumerate(grads):
        ops.sync_bn_backward_data(grad, affine[0], scale.mean(0), shift.mean(0), norms[i], std[i], results[i])
    torch.testing.assert_close(torch.cat(results).view_as(x), x.grad)


# Gradients ------------------------------------------------------------------------------------------------------------


def test_gradients_are_the_slopes(random):
    """In float64, by differences."""
    from mmcv import ops
    from mmcv.ops.psa_mask import psa_mask

    def learns(*shape: int, **kwargs) -> Tensor:
        return random(*shape, grad=True, **kwargs)

    regions = torch.tensor([[0.0, 1.1, 2.3, 9.7, 7.9], [1, -3.3, 1.7, 6.1, 12.3]]).double()
    maps = learns(2, 2, 6, 7, low=-1)
    for mode in ("avg", "max"):
        assert gradcheck(lambda x, mode=mode: ops.roi_align(x, regions, 2, 0.5, 2, mode, True), maps)
    assert gradcheck(lambda x: ops.roi_pool(x, regions, 2, 0.5), maps)
    offset = learns(2, 2, 2, 2, low=-0.5)
    assert gradcheck(lambda x, o: ops.deform_roi_pool(x, regions, o, 2, 0.5, 2, 0.1), (maps, offset))

    x, weight = learns(1, 4, 4, 5), learns(2, 2, 3, 3)
    offset, mask = learns(1, 36, 2, 3, low=0.1, high=0.9), learns(1, 18, 2, 3)
    assert gradcheck(lambda *args: ops.deform_conv2d(*args, 2, 1, 1, 2, 2), (x, offset, weight))
    bias = learns(2)
    inputs = (x, offset, mask, weight, bias)
    assert gradcheck(lambda *args: ops.modulated_deform_conv2d(*args, 2, 1, 1, 2, 2), inputs)

    assert gradcheck(lambda x, m: ops.carafe(x, m, 3, 1, 2), (learns(1, 2, 2, 3), learns(1, 9, 4, 6)))
    for kind in (0, 1):
        assert gradcheck(lambda x, kind=kind: psa_mask(x, kind, (3, 5)), learns(1, 15, 2, 3))
    target = torch.tensor([0, 2, 3])
    assert gradcheck(lambda x: ops.sigmoid_focal_loss(x, target, 1.5, 0.3, None, "none"), learns(3, 3, low=-2))
    target = torch.tensor([0, 2, 1])
    assert gradcheck(lambda x: ops.softmax_focal_loss(x, target, 1.5, 0.3, None, "sum"), learns(3, 3, low=-2))
