"""Downloads over real connections, on the loopback address."""

import hashlib
import multiprocessing
import os
import sys
import types
from pathlib import Path

import pytest

from backbones.weights import fetch as fetching
from backbones.weights.fetch import Address, DownloadError, fetch, sha256_of

DATA = os.urandom(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def data(server, home):
    server.files["model.pth"] = DATA


def left_over(folder: Path) -> list[str]:
    """Files in the cache that are neither whole downloads nor locks."""
    return [p.name for p in folder.rglob("*") if p.is_file() and p.suffix not in (".lock", ".pth")]


def test_a_file_comes_once(server, home):
    path = fetch(f"{server.url}/plain/model.pth")
    assert path.read_bytes() == DATA and home in path.parents and sha256_of(path) == SHA256
    assert fetch(f"{server.url}/plain/model.pth") == path
    assert server.count("plain") == 1 and not left_over(home)


def test_files_of_one_name_from_two_places(server):
    server.files["other/model.pth"] = b"other"
    one, two = fetch(f"{server.url}/plain/model.pth"), fetch(f"{server.url}/plain/other/model.pth")
    assert one.read_bytes() == DATA and two.read_bytes() == b"other"


@pytest.mark.parametrize("kind", ["cut", "untagged", "no-range"])
def test_a_cut_connection_is_continued(server, home, kind):
    assert fetch(f"{server.url}/{kind}/model.pth").read_bytes() == DATA
    ranges = [wanted for _, wanted in server.requests]
    # without a version to compare, the second attempt starts again
    assert ranges == [None, None if kind == "untagged" else f"bytes={len(DATA) // 2}-"]
    assert not left_over(home)


def test_a_later_process_continues(server, home, monkeypatch):
    monkeypatch.setattr(fetching, "RETRIES", 0)
    with pytest.raises(DownloadError, match="ended after 150000 of 300000 bytes"):
        fetch(f"{server.url}/cut/model.pth")
    assert sorted(p.rpartition(".")[2] for p in left_over(home)) == ["etag", "part"]
    assert fetch(f"{server.url}/cut/model.pth").read_bytes() == DATA
    assert server.requests[-1][1] == "bytes=150000-"


def test_a_file_that_changed_meanwhile_starts_again(server):
    assert fetch(f"{server.url}/changed/model.pth").read_bytes() == DATA[::-1]


def test_a_part_longer_than_the_file_starts_again(server, home, monkeypatch):
    monkeypatch.setattr(fetching, "RETRIES", 0)
    with pytest.raises(DownloadError):
        fetch(f"{server.url}/cut/model.pth")
    part = next(home.rglob("*.part"))
    part.write_bytes(DATA + b"more")
    monkeypatch.setattr(fetching, "RETRIES", 2)
    assert fetch(f"{server.url}/cut/model.pth").read_bytes() == DATA


def test_redirect(server):
    assert fetch(f"{server.url}/redirect/model.pth").read_bytes() == DATA
    assert server.count("plain") == 1


@pytest.mark.parametrize("kind", ["busy", "silent-once"])
def test_passing_trouble_is_retried(server, kind, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.5)
    assert fetch(f"{server.url}/{kind}/model.pth").read_bytes() == DATA
    assert server.count(kind) == 2


def test_a_silent_server_times_out(server, home, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.2)
    with pytest.raises(DownloadError, match="timed out.*last of 3 attempts"):
        fetch(f"{server.url}/silent/model.pth")
    assert not list(home.rglob("*.pth"))


def test_missing_is_not_retried(server, home):
    with pytest.raises(DownloadError, match="404") as caught:
        fetch(f"{server.url}/missing/model.pth")
    assert caught.value.status == 404 and server.count("missing") == 1 and not list(home.rglob("*.pth"))


def test_no_server():
    with pytest.raises(DownloadError, match="refused"):
        fetch("http://127.0.0.1:9/model.pth")


def test_a_file_that_always_ends_early(server, home):
    """What the server sends is never as long as it says."""
    with pytest.raises(DownloadError, match="of 300000 bytes"):
        fetch(f"{server.url}/always-cut/model.pth")
    assert not list(home.rglob("*.pth"))


@pytest.mark.parametrize(
    ("kind", "note", "message"),
    [
        ("plain", "#size=299999", "gave 300000 bytes, it should have 299999"),
        ("plain", f"#sha256={'0' * 64}", f"has SHA-256 {SHA256}, it should begin with 0000"),
        ("page", "", "web page"),
    ],
)
def test_a_wrong_file_is_not_kept(server, home, kind, note, message):
    with pytest.raises(DownloadError, match=message):
        fetch(f"{server.url}/{kind}/model.pth{note}")
    assert not list(home.rglob("*.pth")) and not left_over(home)


def test_the_right_file_is_checked_too(server):
    assert fetch(f"{server.url}/plain/model.pth#size=300000&sha256={SHA256}").read_bytes() == DATA


def test_hash_in_the_name(server):
    good, bad = f"net-{SHA256[:8]}.pth", "net-0123abcd.pth"
    server.files |= {good: DATA, bad: DATA, "net-20220909.pth": DATA}
    fetch(f"{server.url}/plain/{good}")
    fetch(f"{server.url}/plain/net-20220909.pth")  # a date
    with pytest.raises(DownloadError, match="should begin with 0123abcd"):
        fetch(f"{server.url}/plain/{bad}")


def test_a_damaged_file_in_the_cache_is_not_trusted(server):
    address = f"{server.url}/plain/model.pth#sha256={SHA256}"
    fetch(address).write_bytes(DATA[:-1])
    with pytest.raises(DownloadError, match="changed or damaged"):
        fetch(address)


def _fetch_length(url: str) -> int:
    return len(fetch(url).read_bytes())


def test_processes_share_one_download(server, home):
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as pool:
        lengths = pool.map(_fetch_length, [f"{server.url}/cut/model.pth"] * 4)
    assert lengths == [len(DATA)] * 4
    assert server.count("cut") == 2 and not left_over(home)  # one download, continued once


def test_paths(tmp_path):
    (tmp_path / "a b#c.pth").write_bytes(b"x")
    assert fetch(str(tmp_path / "a b#c.pth")) == tmp_path / "a b#c.pth"
    with pytest.raises(FileNotFoundError, match="absent"):
        fetch(str(tmp_path / "absent"))


def test_addresses():
    assert Address.parse("https://h/a/b.pth?x=1#sha256=AB12CD34&size=5") == (
        "https://h/a/b.pth?x=1",
        "b.pth",
        "ab12cd34",
        5,
    )
    assert Address.parse("https://h/folders/1#file=n-1.pth")[:2] == ("https://h/folders/1", "n-1.pth")
    assert Address.parse("hf-hub:a/b@v2#file=c.bin")[:2] == ("hf-hub:a/b@v2", "c.bin")


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("BACKBONES_HOME", str(tmp_path / "a"))
    assert fetching.home() == tmp_path / "a"
    monkeypatch.delenv("BACKBONES_HOME")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "b"))
    assert fetching.home() == tmp_path / "b" / "hub" / "checkpoints" / "backbones"


# Mirrors --------------------------------------------------------------------------------------------------------------


def test_mirror_on_a_server(server, monkeypatch):
    monkeypatch.setenv("BACKBONES_MIRROR", f"{server.url}/plain/")
    assert fetch("https://example.invalid/somewhere/model.pth").read_bytes() == DATA
    assert fetch("https://huggingface.co/a/b/resolve/main/model.pth").read_bytes() == DATA
    assert fetch("https://drive.google.com/drive/folders/1#file=model.pth").read_bytes() == DATA


def test_mirror_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKBONES_MIRROR", str(tmp_path))
    (tmp_path / "model.pth").write_bytes(DATA)
    assert fetch(f"https://example.invalid/model.pth#sha256={SHA256}") == tmp_path / "model.pth"
    with pytest.raises(DownloadError, match="should begin with 00000000"):
        fetch("https://example.invalid/model.pth#sha256=00000000")
    with pytest.raises(DownloadError, match="mirror .*other.pth"):
        fetch("https://example.invalid/other.pth")


def test_mirror_of_a_repository_without_a_file_name(server, tmp_path, home, monkeypatch):
    server.files["net.in1k.safetensors"] = DATA
    monkeypatch.setenv("BACKBONES_MIRROR", f"{server.url}/plain")
    assert fetch("hf-hub:someone/net.in1k@v2").read_bytes() == DATA
    assert [path for path, _ in server.requests] == ["/plain/net.in1k.safetensors"]
    monkeypatch.setenv("BACKBONES_MIRROR", str(tmp_path))
    with pytest.raises(DownloadError, match="mirror .*net.in1k.safetensors"):
        fetch("hf-hub:someone/net.in1k")


# Pages ----------------------------------------------------------------------------------------------------------------


def test_page_that_needs_a_person():
    with pytest.raises(
        DownloadError, match="open https://x.sharepoint.com/y in a browser and download net.pth"
    ) as caught:
        fetch("https://x.sharepoint.com/y#file=net.pth")
    assert caught.value.by_hand == "net.pth"


class Drive(types.ModuleType):
    """Stands for gdown, which needs the internet."""

    def __init__(self, content):
        super().__init__("gdown")
        self.content = content
        self.asked = []

    def download_folder(self, url, quiet, skip_download):
        assert skip_download
        return [types.SimpleNamespace(id=f"id-{name}", path=f"weights/{name}") for name in ("a.pth", "net.pth")]

    def download(self, url, output, quiet, resume):
        self.asked.append(url)
        Path(output).write_bytes(self.content)
        return output


FOLDER = "https://drive.google.com/drive/folders/1abc#file=net.pth"


def test_file_in_a_drive_folder(home, monkeypatch):
    drive = Drive(DATA)
    monkeypatch.setitem(sys.modules, "gdown", drive)
    assert fetch(FOLDER).read_bytes() == DATA and fetch(FOLDER).name == "net.pth"
    assert drive.asked == ["https://drive.google.com/uc?id=id-net.pth"]


@pytest.mark.parametrize(
    ("module", "file", "reason"),
    [
        (None, "net.pth", "pip install gdown"),
        (Drive(b"<!DOCTYPE html>Quota exceeded"), "net.pth", "web page"),
        (Drive(DATA), "other.pth", "not in the folder"),
    ],
)
def test_a_drive_that_does_not_give_names_page_and_file(home, monkeypatch, module, file, reason):
    monkeypatch.setitem(sys.modules, "gdown", module)
    with pytest.raises(DownloadError, match=f"{reason}.*open https://drive.google.com/.*1abc in a browser.* {file}"):
        fetch(FOLDER.replace("net.pth", file))
    assert not list(home.rglob("*.pth")) and not left_over(home)


def test_drive_calls_fit_gdown():
    """The real library takes what it is given here."""
    import inspect

    import gdown

    assert {"url", "quiet", "skip_download"} <= inspect.signature(gdown.download_folder).parameters.keys()
    assert {"url", "output", "quiet", "resume"} <= inspect.signature(gdown.download).parameters.keys()
