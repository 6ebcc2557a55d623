"""Every registered model against its metafile: the published numbers, and those counted here."""

import pytest

import backbones
from tools.complexity import count_model
from tools.model_zoo import Entry, load_metafiles

ENTRIES = load_metafiles()

# Models that nothing was published of, and models whose printed numbers are of another structure: name -> why.
UNPUBLISHED = dict.fromkeys(("ptdit_b_class", "ptdit_l_class"), "the paper has class-conditional models of size S only")
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


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_published_and_counted_numbers(entry: Entry) -> None:
    complexity, size = count_model(entry.arch, entry.img_size, num_classes=entry.num_classes, **entry.options)

    assert size == entry.img_size
    assert not complexity.unsupported
    for published, counted in ((entry.published_params, complexity.params), (entry.published_macs, complexity.macs)):
        if published is not None:
            agrees = published.agrees(counted) != (entry.arch in OTHER_STRUCTURE)
            assert agrees, f"published {published.text}, counted {counted:,}"
    stored = (entry.params, entry.macs)
    assert stored == (complexity.params, complexity.macs), "Metadata of the metafile is out of date"
