"""Every registered model against its metafile: the published numbers, and those counted here."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest

import backbones
from backbones.cli.complexity import Complexity, count_config, count_model
from backbones.metafiles import BEYOND_BACKBONES, Entry, load_metafiles
from tools.model_zoo import ROOT

ENTRIES = [entry for entry in load_metafiles() if entry.task not in BEYOND_BACKBONES]
DENSE = [entry for entry in load_metafiles() if entry.task in BEYOND_BACKBONES and not entry.is_tiny]
# Detectors and segmentors whose printed numbers differ from ours by more than 2 %.
_QUOTED = "known from a paper that quotes the paper, without code to compare with"
_NO_ATTENTION = "as many MACs fewer as the products of attention have, which a counter of modules leaves out"
DIFFERENT = {
    "van-b5-in21k_upernet_8xb2-160k_ade20k-512x512": "MACs agree; 117 M is 5 M below a head as wide as B6's",
    "litv2-m-ws4_mask-rcnn-fpn_8xb2-1x_coco": "windows of 4 save 52 G here, but 36 G in RetinaNet: 315 G for 331 G",
    "litv2-s_semfpn_8xb2-80k_ade20k-512x512": "0.9 G fewer, as many as the deformable convolutions have",
    "sgformer-s_mask-rcnn-fpn_8xb2-1x_coco": _QUOTED,
    "sgformer-m_mask-rcnn-fpn_8xb2-1x_coco": _QUOTED,
    "sgformer-s_upernet_8xb2-160k_ade20k-512x512": _QUOTED,
    "sgformer-m_upernet_8xb2-160k_ade20k-512x512": _QUOTED,
    "sgformer-b_upernet_8xb2-160k_ade20k-512x512": _QUOTED,
    "illama-tiny_upernet_8xb2-160k_ade20k-512x512": _NO_ATTENTION,
    "illama-base_upernet_8xb2-160k_ade20k-512x512": _NO_ATTENTION,
}
# One of each kind is counted again; all would take minutes.
COUNTED = (
    "van-b0_retinanet-fpn_8xb2-1x_coco",
    "litv2-s-ws4_mask-rcnn-fpn_8xb2-1x_coco",
    "van-b2_cascade-mask-rcnn-fpn_8xb2-ms-3x_coco",
    "van-b0_semfpn_8xb4-40k_ade20k-512x512",
    "illama-tiny_upernet_8xb2-160k_ade20k-512x512",
    "transnext-tiny_dino-4scale_8xb1-ms-12e_coco",
    "transnext-tiny_mask2former_8xb2-160k_ade20k-512x512",
)

# Models that nothing was published of, and models whose printed numbers are of another structure: name -> why.
UNPUBLISHED = dict.fromkeys(("ptdit_b_class", "ptdit_l_class"), "the paper has class-conditional models of size S only")
UNPUBLISHED |= dict.fromkeys(
    ("attnet_xxs", "attnet_xs", "attnet_s", "attnet_t1", "attnet_t3", "attnet_t4"),
    "the paper's tables were not at hand, its abstract has T2",
)
UNPUBLISHED |= dict.fromkeys(
    ("moh_vit_s_80", "moh_vit_s_75", "moh_vit_b_75", "moh_vit_b_50"),
    "the repository's figure has accuracies; parameters were counted on the authors' code (tests/families)",
)
OTHER_STRUCTURE = dict.fromkeys(
    ("ptdit_b_text", "ptdit_l_text", "ptdit_h_text"),
    "the paper's counts fit no single structure, and only XL was released; these have the released structure",
)


@pytest.mark.parametrize("name", [n for n in backbones.list_models() if not n.startswith("test_")])
def test_registered_model_has_published_numbers(name: str) -> None:
    published = [entry for entry in ENTRIES if entry.arch == name]
    assert published, f"{name} has no entry in a metafile (docs/metafile.md)"
    has_numbers = any(entry.published_params for entry in published)
    assert has_numbers != (name in UNPUBLISHED), f"no entry of {name} has published parameters"


@pytest.mark.parametrize("name", sorted({entry.arch for entry in ENTRIES}))
def test_entry_names_a_registered_model(name: str) -> None:
    assert name in backbones.list_models()


@pytest.mark.parametrize("entry", DENSE, ids=lambda entry: entry.name)
def test_published_numbers_of_detectors_and_segmentors(entry: Entry) -> None:
    pairs = ((entry.published_params, entry.params), (entry.published_macs, entry.macs))
    different = [published.text for published, counted in pairs if published and not published.agrees(counted)]
    assert bool(different) == (entry.name in DIFFERENT), different


@pytest.mark.mm
@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTED)
def test_counted_numbers_of_detectors_and_segmentors(name: str) -> None:
    (entry,) = (entry for entry in DENSE if entry.name == name)
    complexity = count_config(ROOT / entry.config, entry.img_size)
    assert not complexity.unsupported
    assert (entry.params, entry.macs) == (complexity.params, complexity.macs), "Metadata of the metafile is out of date"


@cache
def count_structure(arch: str, img_size: tuple[int, int], options: tuple) -> tuple[Complexity, tuple[int, int]]:
    """Once for all entries of one structure, in a thread, as tracing notes the whole stack for each operator."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(count_model, arch, img_size, **dict(options)).result()


@pytest.mark.parametrize(
    "entry", [pytest.param(entry, id=entry.name, marks=pytest.mark.xdist_group(entry.arch)) for entry in ENTRIES]
)
def test_published_and_counted_numbers(entry: Entry) -> None:
    options = {"num_classes": entry.num_classes, **entry.options}
    complexity, size = count_structure(entry.arch, entry.img_size, tuple(options.items()))

    assert size == entry.img_size
    assert not complexity.unsupported
    for published, counted in ((entry.published_params, complexity.params), (entry.published_macs, complexity.macs)):
        if published is not None:
            agrees = published.agrees(counted) != (entry.arch in OTHER_STRUCTURE)
            assert agrees, f"published {published.text}, counted {counted:,}"
    stored = (entry.params, entry.macs)
    assert stored == (complexity.params, complexity.macs), "Metadata of the metafile is out of date"
