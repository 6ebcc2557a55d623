"""Autoencoders, text encoders, and where they are looked for."""

import huggingface_hub
import pytest
import torch

import backbones
from backbones.diffusion import Autoencoder, TextEncoder, check_channels, check_size
from backbones.diffusion.folders import find_part
from tests.tiny_encoders import TEXT_WIDTH, write_autoencoder, write_text_encoder, write_video_autoencoder


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    write_autoencoder(folder / "vae")
    return write_text_encoder(folder)


@pytest.fixture(scope="module")
def video_autoencoder(tmp_path_factory):
    return Autoencoder(write_video_autoencoder(tmp_path_factory.mktemp("video")))


def test_autoencoder_of_pictures(pipeline):
    autoencoder = Autoencoder(pipeline)
    assert (autoencoder.channels, autoencoder.stride, autoencoder.frame_stride) == (4, 2, 1)
    pixels = torch.rand(2, 3, 16, 24) * 2 - 1
    mean, std = autoencoder.encode(pixels)
    with torch.inference_mode():
        posterior = autoencoder.vae.encode(pixels).latent_dist
        torch.testing.assert_close(mean, posterior.mean * autoencoder.vae.config.scaling_factor)
        torch.testing.assert_close(std, posterior.std * autoencoder.vae.config.scaling_factor)
        decoded = autoencoder.vae.decode(posterior.mean).sample.clamp(-1, 1)
    torch.testing.assert_close(autoencoder.decode(mean), decoded)
    frames = torch.stack([mean, mean.flip(-1)], dim=2)  # a video of two frames
    torch.testing.assert_close(autoencoder.decode(frames)[:, :, 0], decoded)
    assert autoencoder.decode(frames).shape == (2, 3, 2, 16, 24)


def test_autoencoder_of_videos(video_autoencoder):
    assert (video_autoencoder.channels, video_autoencoder.stride, video_autoencoder.frame_stride) == (4, 4, 4)
    mean, std = video_autoencoder.encode(torch.rand(1, 3, 16, 24))
    assert mean.shape == std.shape == (1, 4, 4, 6) and video_autoencoder.decode(mean).shape == (1, 3, 16, 24)
    latents = video_autoencoder.latent_frames(9)
    assert latents == 3 and video_autoencoder.decode(torch.randn(1, 4, latents, 4, 6)).shape == (1, 3, 9, 16, 24)
    with pytest.raises(ValueError, match="8 frames: .* 1 more than a multiple of 4"):
        video_autoencoder.latent_frames(8)


def test_shifted_latents(pipeline):
    autoencoder = Autoencoder(pipeline / "vae")
    mean, std = autoencoder.encode(torch.zeros(1, 3, 8, 8))
    autoencoder.shift = 0.5
    shifted, same_std = autoencoder.encode(torch.zeros(1, 3, 8, 8))
    torch.testing.assert_close(shifted, mean - 0.5 * autoencoder.scale)
    assert torch.equal(same_std, std)
    torch.testing.assert_close(autoencoder.decode(shifted), Autoencoder(pipeline / "vae").decode(mean))


def test_what_a_model_can_draw(pipeline, video_autoencoder):
    latents = backbones.create_model("test_ptdit", depth=1)  # 4 channels, patch 2
    pixels = backbones.create_model("test_ptdit", depth=1, in_chans=3)
    check_size(latents, 32, 48, video_autoencoder)
    for size in ((32, 36), (0, 32)):
        with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}: both sides must be multiples of 8"):
            check_size(latents, *size, video_autoencoder)
    with pytest.raises(ValueError, match="7x8: both sides must be multiples of 2"):
        check_size(pixels, 7, 8)
    check_channels(latents, video_autoencoder)
    check_channels(pixels, None)
    with pytest.raises(ValueError, match="name their autoencoder"):
        check_channels(latents, None)
    with pytest.raises(ValueError, match="latents have 4 channels, the model's 3"):
        check_channels(pixels, video_autoencoder)


def test_text_encoder(pipeline):
    encoder = TextEncoder(pipeline, max_length=6)
    states, mask = encoder(["a red seven", "", "a a a a a a a a a"])
    assert states.shape == (3, 6, TEXT_WIDTH) and encoder.width == TEXT_WIDTH
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [1] * 6]
    alone, _ = encoder(["a red seven"])
    torch.testing.assert_close(alone[0, :4], states[0, :4])
    assert (encoder(["a blue seven"])[0][0, :4] - states[0, :4]).abs().max() > 1e-3


def test_text_encoder_in_one_folder(pipeline, tmp_path):
    for part in ("tokenizer", "text_encoder"):
        for file in (pipeline / part).iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    for ours, theirs in zip(TextEncoder(tmp_path, 6)(["a red"]), TextEncoder(pipeline, 6)(["a red"])):
        torch.testing.assert_close(ours, theirs)


def test_parts_that_are_missing(pipeline, tmp_path):
    with pytest.raises(ValueError, match=r"neither vae/config.json nor config.json"):
        Autoencoder(tmp_path)
    with pytest.raises(ValueError, match="neither tokenizer/tokenizer_config.json"):
        TextEncoder(pipeline / "vae")
    with pytest.raises(ValueError, match="no autoencoder that is read here"):
        Autoencoder(pipeline / "text_encoder")
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_bytes((pipeline / "text_encoder" / "config.json").read_bytes())
    (tmp_path / "tokenizer").symlink_to(pipeline / "tokenizer")
    with pytest.raises(ValueError, match="no T5 that transformers reads"):
        TextEncoder(tmp_path)  # without weights


def test_parts_on_the_hub(monkeypatch):
    files = {"vae/config.json", "tokenizer_config.json"}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, name: None)
    monkeypatch.setattr(huggingface_hub, "file_exists", lambda repository, name: name in files)
    assert find_part("someone/pipeline", "vae") == "vae"
    assert find_part("someone/pipeline", "tokenizer", "tokenizer_config.json") == ""
    with pytest.raises(ValueError, match="no repository of the hub that has text_encoder/config.json or config.json"):
        find_part("someone/pipeline", "text_encoder")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, name: f"/cache/{name}")
    files.clear()
    assert find_part("someone/pipeline", "vae") == "vae"  # no network is needed


@pytest.mark.parametrize("error", [OSError, Exception])  # the latter of an HTTP library
def test_hub_without_network(monkeypatch, error):
    def refuse(repository, name):
        raise error("no route to host")

    monkeypatch.setattr(huggingface_hub, "file_exists", refuse)
    with pytest.raises(ValueError, match="is no folder, and the hub does not answer: no route to host"):
        find_part("someone/pipeline", "vae")
    with pytest.raises(ValueError, match="is no folder"):
        find_part("not a name: at all", "vae")
