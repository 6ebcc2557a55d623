# Keys for paramwise_cfg with which TransNeXt's authors train DINO and Mask2Former: the backbone learns at a tenth of the
# rate, and its norms, biases and positions don't decay. MMEngine takes the longest key that fits a parameter's name, so all
# are longer than "backbone". The authors' keys end before the last stage: its downsampling and norm learn at the full rate.
slow_backbone = {
    "backbone": dict(lr_mult=0.1),
    **dict.fromkeys(
        [
            *["stem.norm", "downsample.norm", "attn.norm", "stages.0.norm", "stages.1.norm", "stages.2.norm"],
            *["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"],
            *["stem.proj.bias", "downsample.proj.bias"],
            *["attn.q.bias", "attn.kv.bias", "attn.qkv.bias", "attn.sr.bias", "attn.proj.bias"],
            *["mlp.fc1.bias", "mlp.dwconv.bias", "mlp.fc2.bias"],
            *["attn.query_embedding", "attn.rpb", "attn.pos_bias", "attn.temperature"],
        ],
        dict(lr_mult=0.1, decay_mult=0.0),
    ),
    "stages.3.downsample.proj.weight": dict(),
    **dict.fromkeys(
        ["stages.3.downsample.proj.bias", "stages.3.downsample.norm", "stages.3.norm"], dict(decay_mult=0.0)
    ),
}
