"""Pictures that eval.py draws of classified files."""

from PIL import Image
import pytest

from lcaps_jax.cli.predict import classify_files
from lcaps_jax.util.errors import ConfigError
import workloads


def _files(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("L", (28, 28)).save(folder / f"{name}.png")
    return f"{folder}/*.png"


def test_the_run_s_folder_holds_the_pictures_of_the_latest_files_alone(tmp_path, capsys):
    model, pictures = workloads.untrained_model(), tmp_path / "run" / "figures" / "classified"
    classify_files(model, _files(tmp_path / "first", "a", "b", "c"), tmp_path / "run")
    (pictures / "kept.png").write_bytes(b"")  # not a picture that this package drew
    classify_files(model, _files(tmp_path / "second", "d"), tmp_path / "run")
    assert sorted(path.name for path in pictures.iterdir()) == ["000_d.png", "kept.png"]
    assert capsys.readouterr().out.count(f"The pictures are in {pictures}") == 2
    classify_files(model, _files(tmp_path / "first"), tmp_path / "run", output_dir=tmp_path / "other")
    assert len(list((tmp_path / "other").iterdir())) == 3 and (pictures / "000_d.png").exists()


@pytest.mark.parametrize("form", ["text", "json"])
def test_labels_do_not_wait_for_pictures_that_cannot_be_written(tmp_path, capsys, form):
    (tmp_path / "file").write_text("in the place of the folder")
    with pytest.raises(ConfigError, match="output_dir=.*file"):
        classify_files(
            workloads.untrained_model(), _files(tmp_path / "in", "a", "b"), None, form, output_dir=tmp_path / "file"
        )
    assert len(capsys.readouterr().out.splitlines()) == 2
