"""Every registered model against its metafile: the published numbers, and those counted here."""

import pytest

import backbones
from tools.complexity import count_model
from tools.model_zoo import Entry, load_metafiles

ENTRIES = load_metafiles()


@pytest.mark.parametrize("name", [n for n in backbones.list_models() if not n.startswith("test_")])
def test_registered_model_has_published_numbers(name: str) -> None:
    published = [entry for entry in ENTRIES if entry.arch == name]
    assert published, f"{name} has no entry in a metafile (docs/metafile.md)"
    assert any(entry.published_params for entry in published), f"no entry of {name} has published parameters"


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
            assert published.agrees(counted), f"published {published.text}, counted {counted:,}"
    stored = (entry.params, entry.macs)
    assert stored == (complexity.params, complexity.macs), "Metadata of the metafile is out of date"
