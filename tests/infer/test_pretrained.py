"""Networks in one file: the shipped ones give what they gave, and any trained network can become one."""

import dataclasses

import chex
import jax
import numpy as np
from PIL import Image
import pytest

from lcaps_jax import data
from lcaps_jax.infer import image_files
from lcaps_jax.infer.pretrained import PACKAGED, load_model, save_model
from lcaps_jax.train.config import Config
from lcaps_jax.train.evaluate import wilson_interval
from lcaps_jax.util.errors import ConfigError
import reference


@pytest.mark.parametrize("name", PACKAGED)
def test_the_shipped_networks_are_as_good_as_their_results_say_and_give_what_they_gave(name):
    stored, model = reference.load("shipped_networks.npz"), load_model(name)
    assert PACKAGED[name].stat().st_size < 8_000_000
    assert (model.network.frame is not None) == (name == "mnist_framed")
    assert model.results["mnist"]["count"] == 10_000 and model.config.data.dataset == "mnist"
    sample = data.load("sample").test  # of MNIST's test part
    errors = np.sum(model.predict(sample.images).activity.argmax(axis=1) != sample.labels)
    low, high = wilson_interval(errors, len(sample), level=0.999)
    assert low <= model.results["mnist"]["error"] <= high
    np.testing.assert_allclose(model(stored["images"]).activity, stored[name], atol=1e-6)
    if model.network.frame:
        searched = model.with_rotation_search([-10, 0, 10])(stored["images"])
        np.testing.assert_allclose(searched.activity, stored[f"{name}_search"], atol=1e-6)


def test_a_trained_network_becomes_a_file_and_comes_back(tiny_run, tmp_path):
    model, path = load_model(tiny_run[0]), tmp_path / "tiny"
    local = Config.from_settings({**model.config.settings, "data_dir": str(tmp_path)})
    save_model(dataclasses.replace(model, config=local), path)
    back = load_model(path)
    for field in dataclasses.fields(model):
        if field.name != "params":
            assert getattr(back, field.name) == getattr(model, field.name), field.name
    assert back.channels == 1 and back.step == 160
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(back.params))
    chex.assert_trees_all_close(back.params, jax.device_get(model.params), rtol=1e-3, atol=1e-6)


_DAMAGED = bytearray(PACKAGED["mnist_small"].read_bytes())
_DAMAGED[1000:1100] = bytes(100)  # inside of a compressed array


@pytest.mark.parametrize("content", [b"", b"no archive", _DAMAGED, None], ids=["empty", "other", "damaged", "array"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "other.npz"
    if content is None:
        np.savez(path, a=np.ones(3))
    else:
        path.write_bytes(content)
    for each in (path, tmp_path / "none.npz"):
        with pytest.raises(ConfigError, match=each.name):
            load_model(each)
    with pytest.raises(ConfigError, match="^checkpoint=best: "):
        load_model("mnist_small", "best")


def test_ink_on_paper_is_read_by_the_shipped_network(tmp_path, capsys):
    """Digits on part of a sheet, as they are, and inverted and centred."""
    split, model = data.load("sample").test.take(np.arange(24)), load_model("mnist_small")
    files = []
    for i, digit in enumerate(split.images[..., 0]):
        large = Image.fromarray(digit).resize((84, 84), Image.Resampling.LANCZOS)
        sheet = np.pad(np.asarray(large), ((90, 20), (10, 60)))
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(240 - (0.8 * sheet).astype(np.uint8)).save(files[-1])

    def right(**how):
        found = image_files.classify(model, files, **how)
        return np.sum([each.output.activity[0].argmax() for each in found] == split.labels)

    assert right() < 8
    assert "24 of 24" in capsys.readouterr().out  # are unlike the training images
    assert right(invert=True, centre=True) >= 22
    assert capsys.readouterr().out == ""
