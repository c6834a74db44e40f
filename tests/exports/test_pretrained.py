"""`save_pretrained` and `from_pretrained`: read by safetensors and by huggingface_hub's own model card."""

import base64
import dataclasses
import functools
import http.server
import json
import threading

import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import CheckpointError, DownloadError, ExportError, MismatchError, UsageError

safetensors = pytest.importorskip("safetensors.numpy")
MEASURED = {"data": "flowers", "images": 50, "accuracy": 0.94, "loss": 0.2, "step": 120}


@pytest.fixture(scope="module")
def model():
    model = itf.create_model("lenet", classes=3, input_shape=(32, 32, 1))
    model.card = dataclasses.replace(model.card, labels=["ü: a", "b", "c"], evaluation=MEASURED)
    return model


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    return itf.save_pretrained(model, tmp_path_factory.mktemp("saved") / "tiny", license="apache-2.0")


def same(model, other):
    return all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))


def test_it_comes_back(model, saved):
    again = itf.from_pretrained(saved)
    assert again.card == model.card and again.input_shape == model.input_shape and same(model, again)
    tensors = safetensors.load_file(saved / "model.safetensors")
    assert np.array_equal(tensors["LeNet/conv1/weights"], model.get_layer("conv1").get_weights()[0])
    with pytest.raises(UsageError, match="exists"):
        itf.save_pretrained(model, saved)
    with pytest.raises(UsageError, match="fused"):
        itf.save_pretrained(itf.fuse_for_inference(model), saved.parent / "fused")


def test_the_card_is_the_hubs(model, saved, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard.load(saved / "README.md").data
    assert (data.license, data.pipeline_tag, data.library_name) == (
        "apache-2.0",
        "image-classification",
        "inception_tf",
    )
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.94, "flowers")
    measured = {**MEASURED, "mean_ap": 0.8125}  # of several labels an image
    del measured["accuracy"]
    monkeypatch.setattr(model, "card", dataclasses.replace(model.card, thresholds=[0.5] * 3, evaluation=measured))
    (result,) = hub.ModelCard.load(itf.save_pretrained(model, tmp_path / "tags") / "README.md").data.eval_results
    assert (result.metric_type, result.metric_value) == ("mean_average_precision", 0.8125)


def test_what_is_wrong_is_said(saved, tmp_path):
    config, weights = (saved / "config.json").read_text("utf-8"), safetensors.load_file(saved / "model.safetensors")

    def changed(tensors, **changes):
        (tmp_path / "config.json").write_text(json.dumps({**json.loads(config), **changes}), "utf-8")
        (tmp_path / "model.safetensors").write_bytes(safetensors.save(tensors))
        return itf.from_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match="has no"):
        itf.from_pretrained(tmp_path)
    name = "LeNet/conv1/weights"
    with pytest.raises(MismatchError, match=f"missing: {name}"):
        changed({key: value for key, value in weights.items() if key != name})
    with pytest.raises(MismatchError, match=r"not in the model: x"):
        changed({**weights, "x": np.zeros(1, "float32")})
    with pytest.raises(MismatchError, match=r"is \(2,\), expected"):
        changed({**weights, name: np.zeros(2, "float32")})
    options = json.loads(config)["options"]
    for wrong in ({"library_name": "other"}, {"options": {**options, "classifier_activation": {"class_name": "X"}}}):
        with pytest.raises(CheckpointError, match="not written by save_pretrained"):
            changed(weights, **wrong)
    for broken in ({"input_shape": 3}, {"options": 7}, {"network": "nothing"}):
        with pytest.raises((CheckpointError, UsageError)):
            changed(weights, **broken)
    (tmp_path / "config.json").write_text(config, "utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"\x07")
    with pytest.raises(CheckpointError):
        itf.from_pretrained(tmp_path)


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download and an upload ask for."""

    def __init__(self, folder, *args):
        self.folder = folder
        super().__init__(*args)

    def do_GET(self):
        name, commit = self.path.rpartition("/")[2].partition("?")[0], "a" * 40
        names = [path.name for path in self.folder.iterdir()]
        if "owner/tiny" not in self.path or self.headers["Authorization"] == "Bearer hf_wrong":
            self.send_error(404)
            return
        body = json.dumps({"id": "owner/tiny", "sha": commit, "siblings": [{"rfilename": n} for n in names]}).encode()
        if "/tree/" in self.path:
            body = json.dumps([{"type": "file", "path": n, "size": 1, "oid": n} for n in names]).encode()
        if "/resolve/" in self.path:
            body = (self.folder / name).read_bytes()
        self.answer(body, {"X-Repo-Commit": commit, "ETag": f'"{name}"'})

    do_HEAD = do_GET

    def do_POST(self):
        text, url = self.rfile.read(int(self.headers["Content-Length"])), f"http://{self.headers['Host']}/owner/tiny"
        if self.headers["Authorization"] != "Bearer hf_test":
            self.send_error(401)
            return
        answer = {"url": url}  # of a new repository
        if "/validate-yaml" in self.path:
            answer = {"warnings": [], "errors": []}
        elif "/preupload/" in self.path:
            files = json.loads(text)["files"]
            answer["files"] = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
        elif "/commit/" in self.path:
            for line in map(json.loads, text.splitlines()):
                if line["key"] == "file":
                    (self.folder / line["value"]["path"]).write_bytes(base64.b64decode(line["value"]["content"]))
            answer = {"commitUrl": f"{url}/commit/{'b' * 40}", "commitOid": "b" * 40, "success": True}
        self.answer(json.dumps(answer).encode())

    def answer(self, body, headers=()):
        self.send_response(200)
        for key, value in {**dict(headers), "Content-Length": len(body)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_to_a_hub_and_back(model, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    (tmp_path / "remote").mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, tmp_path / "remote"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    download = functools.partial(hub.snapshot_download, endpoint=endpoint, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(hub, "snapshot_download", download)
    api = hub.HfApi
    try:
        monkeypatch.setattr(hub, "HfApi", functools.partial(api, endpoint, token="hf_wrong"))
        with pytest.raises(ExportError, match="hf://owner/tiny cannot be written.*401"):
            itf.push_to_hub(model, "owner/tiny")
        monkeypatch.setattr(hub, "HfApi", functools.partial(api, endpoint, token="hf_test"))
        assert itf.push_to_hub(model, "hf://owner/tiny", "mit") == f"{endpoint}/owner/tiny/commit/{'b' * 40}"
        assert same(model, itf.from_pretrained("hf://owner/tiny"))
        assert hub.ModelCard.load(tmp_path / "remote" / "README.md").data.license == "mit"
        with pytest.raises(DownloadError, match="hf://owner/none"):
            itf.from_pretrained("hf://owner/none@main")
    finally:
        server.shutdown()
        server.server_close()
