"""Whole models on mmcv's operators in torch: equal to the compiled build's, in half types, and with what it lacks."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.mm.operator_cases import MODELS, PYRAMID, RPN, VALUES, build_detector, detector_data, run_model
from tests.mm.test_operators import CUDA, assert_stored

pytestmark = pytest.mark.mm


@pytest.mark.parametrize("device, tolerance", [("cpu", 1e-4), pytest.param("cuda", 1e-3, marks=CUDA)])
@pytest.mark.parametrize("name", MODELS)
def test_detectors_equal_compiled_ones(name, device, tolerance):
    """Loss terms, norm of the gradient, boxes."""
    with np.load(os.environ.get("OPERATOR_VALUES", VALUES)) as stored:
        assert_stored(dict(stored), f"model/{name}", run_model(name, device), tolerance)


@pytest.mark.parametrize("name", ["mask-rcnn", "fcos-dcn", "dyhead"])
def test_detectors_train_and_predict_in_bfloat16(name):
    """Autocast of the whole model on a CPU, regions and suppression included."""
    detector = build_detector(*MODELS[name])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector(**detector.data_preprocessor(detector_data(), training=True), mode="loss")
        loss, _ = detector.parse_losses(losses)
        loss.backward()
        with torch.no_grad():
            results = detector.eval()(**detector.data_preprocessor(detector_data()), mode="predict")
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in detector.parameters() if p.grad is not None)
    assert all(len(sample.pred_instances.bboxes) for sample in results)


# The compiled build raises on a CPU: "implementation for device cpu not found".
ONLY_HERE = {
    "guided-anchoring": (
        "guided_anchoring/ga-retinanet_r50_fpn_1x_coco.py",
        dict(**PYRAMID, bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1)),
    ),
    "carafe": (
        "carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py",
        dict(
            PYRAMID,
            rpn_head=RPN,
            roi_head=dict(bbox_roi_extractor=dict(out_channels=32), bbox_head=dict(in_channels=32, fc_out_channels=64)),
        ),
    ),
    "deformable-roi-pool": (
        "dcn/faster-rcnn_r50_fpn_dpool_1x_coco.py",
        dict(
            PYRAMID,
            rpn_head=RPN,
            roi_head=dict(
                bbox_roi_extractor=dict(roi_layer=dict(output_channels=32), out_channels=32),
                bbox_head=dict(in_channels=32, fc_out_channels=64),
            ),
            train_cfg=dict(rpn_proposal=dict(max_per_img=20)),
            test_cfg=dict(rpn=dict(max_per_img=20)),
        ),
    ),
}


@pytest.mark.parametrize("name", ONLY_HERE)
def test_detectors_that_compiled_operators_leave_out_on_a_cpu(name):
    detector = build_detector(*ONLY_HERE[name])
    losses = detector(**detector.data_preprocessor(detector_data(), training=True), mode="loss")
    loss, _ = detector.parse_losses(losses)
    loss.backward()
    assert loss.isfinite() and any(p.grad.any() for p in detector.parameters() if p.grad is not None)
    with torch.no_grad():
        detector.eval()(**detector.data_preprocessor(detector_data(images=1)), mode="predict")


def test_a_segmentation_model_with_psanets_mask():
    import mmseg
    import mmseg.models  # noqa: F401
    from mmengine.config import Config, ConfigDict
    from mmengine.registry import MODELS as REGISTRY
    from mmengine.registry import DefaultScope

    folder = Path(mmseg.__file__).parent / ".mim/configs"
    model = Config.fromfile(folder / "_base_/models/psanet_r50-d8.py").model.to_dict()
    model["backbone"] = dict(type="ZooBackbone", model="test_van")
    model.update(pretrained=None, auxiliary_head=None)
    small = dict(in_channels=64, channels=16, mask_size=(5, 7), norm_cfg=dict(type="BN"))
    model["decode_head"].update(small)
    with DefaultScope.overwrite_default_scope("mmseg"):
        segmenter = REGISTRY.build(ConfigDict(model))
    logits = segmenter(torch.rand(2, 3, 64, 96))
    logits.square().mean().backward()
    assert logits.shape[:2] == (2, 19)
    assert all(p.grad.isfinite().all() for p in segmenter.decode_head.parameters() if p.grad is not None)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_detector_takes_a_training_step_on_a_gpu(dtype):
    detector = build_detector(*MODELS["mask-rcnn"]).cuda()
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    before = detector.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        losses = detector(**detector.data_preprocessor(detector_data("cuda"), training=True), mode="loss")
        loss, _ = detector.parse_losses(losses)
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert any(not torch.equal(before[key], value) for key, value in detector.state_dict().items())
