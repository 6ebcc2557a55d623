"""DiNAT-Large with neighbourhoods of 11 x 11 in Mask2Former, 160,000 iterations on ADE20K.  Source: arXiv:2209.15001
and the authors' code (repository, at several scales: 58.1 mIoU, which others have not reached).  Here: not trained.
Needs: 8 GPUs with 80 GB (estimate).
Run: torchrun --nproc_per_node 8 -m backbones train CONFIG --launcher pytorch, with this file as CONFIG"""

_base_ = "mmseg::mask2former/mask2former_swin-l-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py"

custom_imports = dict(imports=["backbones.mm.training", "mmdet.models"], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type="ZooBackbone",
        model="dinat_large_k11_384.in22k",
        pretrained=True,
        drop_path_rate=0.3,
        dilations="mask2former",
        out_norm=True,
    ),
)
# MMSegmentation's rates for Swin-L, as the authors have them in Detectron2: the backbone learns at a tenth, and its norms
# and tables don't decay. The longest key that fits a parameter's name is taken.
spared = dict(lr_mult=0.1, decay_mult=0.0)
queries = dict(lr_mult=1.0, decay_mult=0.0)
norms = [f".{name}.{kind}" for name in ("norm", "norm1", "norm2") for kind in ("weight", "bias")]
optim_wrapper = dict(
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.0,
        custom_keys={
            "backbone": dict(lr_mult=0.1, decay_mult=1.0),
            "backbone.out_norms": spared,
            ".attn.rpb": spared,
            **dict.fromkeys(norms, spared),
            "query_embed": queries,
            "query_feat": queries,
            "level_embed": queries,
        },
    ),
)
