"""Networks in one file: the shipped one does what it says, and any run can become one."""

import dataclasses

import chex
import jax
import numpy as np
from PIL import Image
import pytest

import lcaps_jax
from lcaps_jax import data, pretrained, training
from lcaps_jax.config import ConfigError
from lcaps_jax.training import wilson_interval
from lcaps_jax.views import classify


@pytest.mark.parametrize("path", [pretrained.MNIST_SMALL, pretrained.MNIST_FRAMED], ids=lambda path: path.stem)
def test_the_shipped_networks_are_small_and_as_good_as_they_say(path):
    assert path.stat().st_size < 8_000_000
    run = lcaps_jax.load_pretrained(path.stem)
    assert run.config.framed == (path == pretrained.MNIST_FRAMED)
    assert run.results["mnist"]["count"] == 10_000 and run.config.dataset == "mnist"
    sample = data.load("sample").test  # of MNIST's test part
    evaluation = training.evaluate(training.make_eval_steps(run.network), run.params, training.on_devices(sample), 100)
    low, high = wilson_interval(evaluation.errors, evaluation.count, level=0.999)
    assert low <= run.results["mnist"]["error"] <= high


def test_a_run_becomes_a_file_and_comes_back(tiny_run, tmp_path):
    run = lcaps_jax.load_run(tiny_run[0])
    path = tmp_path / "tiny"
    pretrained.save(dataclasses.replace(run, config=dataclasses.replace(run.config, data_dir=str(tmp_path))), path)
    back = lcaps_jax.load_pretrained(path)
    assert (back.config, back.class_names, back.channels, back.step) == (run.config, run.class_names, 1, 160)
    assert back.results == run.results
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(back.params))
    chex.assert_trees_all_close(back.params, jax.device_get(run.params), rtol=1e-3, atol=1e-6)


_DAMAGED = bytearray(pretrained.MNIST_SMALL.read_bytes())
_DAMAGED[1000:1100] = bytes(100)  # inside of a compressed array


@pytest.mark.parametrize("content", [b"", b"no archive", _DAMAGED, None], ids=["empty", "other", "damaged", "array"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "other.npz"
    if content is None:
        np.savez(path, a=np.ones(3))
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"other\.npz is not a network of lcaps_jax"):
        lcaps_jax.load_pretrained(path)
    with pytest.raises(ConfigError, match=r"none\.npz is not a network"):
        lcaps_jax.load_pretrained(tmp_path / "none.npz")


def test_ink_on_paper_is_read_by_the_shipped_network(tmp_path, capsys):
    """Digits on part of a sheet, as they are, and inverted and centred."""
    split, run = data.load("sample").test.take(np.arange(24)), lcaps_jax.load_pretrained()
    files = []
    for i, digit in enumerate(split.images[..., 0]):
        large = Image.fromarray(digit).resize((84, 84), Image.Resampling.LANCZOS)
        sheet = np.pad(np.asarray(large), ((90, 20), (10, 60)))
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(240 - (0.8 * sheet).astype(np.uint8)).save(files[-1])

    def right(**how):
        labels = [classified.output.activity[0].argmax() for classified in classify.classify(run, files, **how)]
        return np.sum(labels == split.labels)

    assert right() < 8
    assert "the ground of 24 of 24 images is unlike the training data's" in capsys.readouterr().out
    assert right(invert=True, centre=True) >= 22
    assert capsys.readouterr().out == ""
