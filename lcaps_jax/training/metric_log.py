"""Where the metrics of a run go: ``metrics.jsonl``, TensorBoard and the terminal."""

from collections.abc import Mapping
import json
import pathlib
import sys

from tqdm import tqdm

from lcaps_jax.files import write_whole
from lcaps_jax.runtime import write_line

METRICS_FILE = "metrics.jsonl"


def read_metrics(workdir: pathlib.Path) -> list[dict]:
    """The lines of a run's ``metrics.jsonl``; a last line cut off by a kill is left out."""
    path = pathlib.Path(workdir) / METRICS_FILE
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def rounded(value: float) -> float:
    """A metric as the log holds it, to six digits."""
    return float(f"{value:.6g}")


class MetricLog:
    """Writes the metrics of a run to ``metrics.jsonl``, to TensorBoard, and to a progress bar or as plain lines.

    Args:
      workdir: Folder of the run.
      start_step: Step that the run continues from. Lines of later steps are dropped and will be written again.
      total_steps: Number of steps of the whole run.
      quiet: Whether nothing at all is written, as on all processes but one.

    Attributes:
      kept: Lines that were there already, up to ``start_step``.
      seconds_before: Seconds that the run had taken by then.
    """

    def __init__(self, workdir: pathlib.Path, start_step: int, total_steps: int, *, quiet: bool = False):
        self._quiet = quiet
        self._total = total_steps
        self.kept = [line for line in read_metrics(workdir) if line["step"] <= start_step]
        self.seconds_before = max((line["seconds"] for line in self.kept), default=0.0)
        if quiet:
            return
        from tensorboardX import SummaryWriter  # imported here because it imports PyTorch where that is installed

        path = workdir / METRICS_FILE
        write_whole(path, "".join(json.dumps(line) + "\n" for line in self.kept))
        self._file = path.open("a")
        self._board = SummaryWriter(str(workdir / "tb"), purge_step=start_step + 1)
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def write(
        self, split: str, step: int, epoch: float, metrics: Mapping[str, float], seconds_left: float = 0.0
    ) -> None:
        """Writes a line.

        Args:
          split: ``train``, ``validation`` or the name of a data set.
          step: Steps done.
          epoch: Epochs done.
          metrics: Metrics by name. ``error`` is in percent; ``seconds`` count from the run's beginning, without pauses.
          seconds_left: Time that the run will still take, which a line of training says.
        """
        if self._quiet:
            return
        logged = {name: rounded(value) for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, "epoch": round(epoch, 4), "split": split, **logged}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        if split != "train":
            self.say(f"epoch {epoch:.4g}: {split} error {metrics['error']:.2f} %, loss {metrics['loss']:.4f}")
            return
        text = (
            f"loss {metrics['loss']:.4f}, error {metrics['error']:.2f} %, {metrics['images_per_second']:.0f} images/s"
        )
        if self._bar.disable:
            left = tqdm.format_interval(seconds_left)
            text = f"step {step}/{self._total}, epoch {epoch:.2f}: {text}, {left} left"
            write_line(text)
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """Prints a line without disturbing the bar."""
        if self._quiet:
            return
        if self._bar.disable:
            write_line(text)
        else:
            self._bar.write(text)

    def close(self) -> None:
        """Closes the files."""
        if not self._quiet:
            self._bar.close()
            self._board.close()
            self._file.close()
