"""Sums and counts into figures people read: intervals, ``metrics.jsonl``, TensorBoard, and the terminal's progress."""

from collections.abc import Mapping
import json
import math
import pathlib
import statistics
import sys

from tqdm import tqdm

from lcaps_jax.config import PARTIAL

METRICS_FILE = "metrics.jsonl"


def wilson_interval(errors: float, count: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of an error rate, in percent (Wilson, 1927).

    Args:
      errors: wrong among ``count``, at least 1; means over repetitions need not be whole.
      level: probability to cover the true rate.

    Returns:
      Lower and upper bound, percent.
    """
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    rate = errors / count
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


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
    """A figure as the log holds it: to six digits."""
    return float(f"{value:.6g}")


class MetricLog:
    """Where the figures of a run go: ``metrics.jsonl``, TensorBoard, and a progress bar or plain lines.

    Args:
      workdir: the run's folder.
      start_step: step that the run continues from; what was logged beyond it is dropped, as it will come again.
      total_steps: of the whole run.
      quiet: write nothing at all (for all processes but one).

    Attributes:
      kept: the lines already there, up to ``start_step``.
      seconds_before: that the run had taken by then.
    """

    def __init__(self, workdir: pathlib.Path, start_step: int, total_steps: int, *, quiet: bool = False):
        self._quiet = quiet
        self._total = total_steps
        self.kept = [line for line in read_metrics(workdir) if line["step"] <= start_step]
        self.seconds_before = max((line["seconds"] for line in self.kept), default=0.0)
        if quiet:
            return
        from tensorboardX import SummaryWriter  # here, for it imports PyTorch where that is installed

        path = workdir / METRICS_FILE
        partial = path.with_name(path.name + PARTIAL)
        partial.write_text("".join(json.dumps(line) + "\n" for line in self.kept))
        partial.replace(path)
        self._file = path.open("a")
        self._board = SummaryWriter(str(workdir / "tb"), purge_step=start_step + 1)
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def write(self, split: str, step: int, epoch: float, figures: Mapping[str, float]) -> None:
        """Writes a line.

        Args:
          split: ``train``, ``validation`` or a data set's name.
          step: steps done.
          epoch: epochs done.
          figures: by name; ``error`` is in percent, ``seconds`` since the run began, pauses left out.
        """
        if self._quiet:
            return
        logged = {name: rounded(value) for name, value in figures.items()}
        self._file.write(json.dumps({"step": step, "epoch": round(epoch, 4), "split": split, **logged}) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        if split != "train":
            self.say(f"epoch {epoch:.4g}: {split} error {figures['error']:.2f} %, loss {figures['loss']:.4f}")
            return
        text = (
            f"loss {figures['loss']:.4f}, error {figures['error']:.2f} %, {figures['images_per_second']:.0f} images/s"
        )
        if self._bar.disable:
            left = (self._total - step) * figures["seconds_per_step"]
            print(
                f"step {step}/{self._total}, epoch {epoch:.2f}: {text}, {tqdm.format_interval(left)} left", flush=True
            )
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """Prints a line without disturbing the bar."""
        if self._quiet:
            return
        if self._bar.disable:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def close(self) -> None:
        """Closes the files."""
        if not self._quiet:
            self._bar.close()
            self._board.close()
            self._file.close()
