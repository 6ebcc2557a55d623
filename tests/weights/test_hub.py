"""timm's hub functions with models of the zoo: a folder, and a server that speaks the hub's protocol."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch

import backbones

COMMIT = "0" * 40


@pytest.mark.parametrize(("name", "safe"), [("test_van", False), *((n, True) for n in backbones.list_models("test_*"))])
def test_folder_both_ways(tmp_path, name, safe):
    torch.manual_seed(0)
    model = backbones.create_model(name, num_classes=7).eval()
    timm.models.save_for_hf(model, tmp_path, safe_serialization=safe)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == name and config["num_classes"] == 7
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert type(loaded) is type(model)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_options_of_the_model_are_in_the_config(tmp_path):
    model = backbones.create_model("test_litv2", num_classes=3, attn_window_size=4, in_chans=1)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert loaded.cfg.attn_window_size == 4 and loaded.in_chans == 1 and loaded.num_classes == 3


def test_folder_adapts_to_other_classes(tmp_path):
    model = backbones.create_model("test_van")
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=5)
    assert loaded.head.fc.out_features == 5
    assert torch.equal(loaded.stages[0].norm.weight, model.stages[0].norm.weight)


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that creating a repository, one commit and downloads need."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, dict[str, bytes]]

    def log_message(self, *args) -> None: ...

    def answer(self, status: int, body: bytes | dict = b"", **headers: str) -> None:
        body = json.dumps(body).encode() if isinstance(body, dict) else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            content = json.loads(body)
            name = "/".join(part for part in (content.get("organization"), content["name"]) if part)
            self.repositories.setdefault(name, {})
            self.answer(200, {"url": f"http://{self.headers['Host']}/{name}", "id": name, "name": name})
        elif path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif path.endswith("/commit/main"):
            name = path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
            self.answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:  # checks of the model card
            self.answer(200, {"errors": [], "warnings": []})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
            if name in self.repositories:
                siblings = [{"rfilename": file} for file in self.repositories[name]]
                self.answer(200, {"id": name, "modelId": name, "sha": COMMIT, "private": False, "siblings": siblings})
                return
        elif "/resolve/" in path:
            name, _, rest = path.strip("/").partition("/resolve/")
            file = rest.partition("/")[2]
            if file in self.repositories.get(name, {}):
                content = self.repositories[name][file]
                self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)
                return
            if name in self.repositories:
                self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
                return
        self.answer(404, b"", X_Error_Code="RepoNotFound")


@pytest.fixture
def hub():
    handler = type("OneHub", (Hub,), {"repositories": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    server.repositories = handler.repositories
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
def test_server_both_ways(hub, tmp_path):
    """The hub's library reads the address of the server when it is imported, hence the process of its own."""
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "BACKBONES_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("BACKBONES_MIRROR", None)
    session = Path(__file__).with_name("hub_session.py")
    done = subprocess.run([sys.executable, str(session)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4:] == [
        "pushed and loaded 10 1 4",
        "fetched model.safetensors config.json",
        "converted test_litv2.safetensors",
        "absent DownloadError",
    ]
    assert {"config.json", "model.safetensors", "README.md"} <= hub.repositories["someone/digits"].keys()
