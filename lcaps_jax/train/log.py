"""The metrics of a run: timed, and written to ``metrics.jsonl``, TensorBoard and the terminal."""

from collections.abc import Callable, Mapping
import json
import pathlib
import sys
import time

import numpy as np
from tqdm import tqdm

from lcaps_jax.train.plan import Call, StepPlan
from lcaps_jax.util.errors import UserError
from lcaps_jax.util.files import write_whole
from lcaps_jax.util.process import write_line

METRICS_FILE = "metrics.jsonl"
BOARD_FOLDER = "tb"
_NOT_METRICS = ("step", "epoch", "split")
_FIGURES = ("step", "epoch", "loss", "error", "seconds")  # that every line has


class DivergenceError(UserError):
    """The loss or a parameter is no longer finite; the message names the step."""


def read_metrics(workdir: pathlib.Path) -> list[dict]:
    """The lines of a run's ``metrics.jsonl``, up to the first damaged one: a kill can cut off the last."""
    path = pathlib.Path(workdir) / METRICS_FILE
    lines = []
    for text in path.read_text(errors="replace").split("\n") if path.exists() else ():
        try:
            line = json.loads(text)
            whole = isinstance(line["split"], str) and all(type(line[name]) in (int, float) for name in _FIGURES)
        except (ValueError, TypeError, KeyError):
            break
        if not whole:
            break
        lines.append(line)
    return lines


def rounded(value: float) -> float:
    """A metric with the six digits that the log holds."""
    return float(f"{value:.6g}")


class MetricLog:
    """Times the steps, and writes metrics to ``metrics.jsonl``, TensorBoard, and a progress bar or plain lines.

    A run that continues from ``start_step`` drops the lines of later steps and keeps the others in ``kept``, from which
    it writes TensorBoard's events again, so that they are complete even if they were damaged. A ``quiet`` log, as on
    every process but the main one, writes nothing at all.
    """

    def __init__(self, workdir: pathlib.Path, start_step: int, plan: StepPlan, *, quiet: bool = False):
        self._plan, self._quiet, self._printed = plan, quiet, start_step
        self.kept = [line for line in read_metrics(workdir) if line["step"] <= start_step]
        before = max((line["seconds"] for line in self.kept), default=0.0)
        self._began = time.monotonic() - before
        self._pending: tuple[Call, Mapping] | None = None
        self._free_since, self._steps = self.elapsed(), 0
        self._pauses = 0.0  # seconds of saving, evaluating and drawing between steps
        if quiet:
            return
        path = workdir / METRICS_FILE
        write_whole(path, "".join(json.dumps(line) + "\n" for line in self.kept))
        self._file = path.open("a")
        self._board = _board(workdir / BOARD_FOLDER)
        for line in self.kept:  # as if the run had gone on without a pause
            metrics = {name: value for name, value in line.items() if name not in _NOT_METRICS}
            self._to_board(line["split"], line["step"], metrics, time.time() - (before - line["seconds"]))
        hidden = not sys.stderr.isatty()
        self._bar = tqdm(total=plan.total_steps, initial=start_step, unit="step", disable=hidden, dynamic_ncols=True)

    def elapsed(self) -> float:
        """Seconds since the run began, without the pauses between its sessions."""
        return time.monotonic() - self._began

    def restart(self) -> None:
        """Starts the clock of the next call, as after an evaluation, when the devices are free again."""
        now = self.elapsed()
        self._pauses += now - self._free_since if self._steps else 0.0
        self._free_since = now

    def add(self, call: Call, metrics: Mapping, advice: Callable[[], str]) -> None:
        """Takes ``loss [S]`` and ``errors [S]`` of a call that has started, and logs those of the previous call.

        Raises DivergenceError where a loss of the previous call is not finite; ``advice`` says what to try.
        """
        self.flush(advice)
        self._pending = call, metrics

    def flush(self, advice: Callable[[], str]) -> None:
        """Waits for the pending metrics, and logs them; raises as ``add`` does."""
        if self._pending is None:
            return
        (call, metrics), self._pending = self._pending, None
        losses, errors = np.asarray(metrics["loss"]), np.asarray(metrics["errors"])
        began, self._free_since = self._free_since, self.elapsed()
        if not np.isfinite(losses).all():
            bad = int(np.argmin(np.isfinite(losses)))
            step = call.first_step + bad + 1
            raise DivergenceError(f"The loss of step {step} is {losses[bad]}, not a finite number. {advice()}")
        batch_size, seconds = self._plan.batch_size, (self._free_since - began) / call.steps
        self._steps += call.steps
        means = {
            "loss": float(losses.mean(dtype=np.float64)),
            "error": 100 * float(errors.sum()) / (call.steps * batch_size),
            "images_per_second": batch_size / seconds,
            "seconds_per_step": seconds,
            "seconds": self._free_since,
        }
        self.write("train", call.last_step, means)

    def write(self, split: str, step: int, metrics: Mapping[str, float]) -> None:
        """Writes and flushes a line after ``step`` steps; ``split`` is train, validation or the name of a data set.

        Of the metrics, ``error`` is in percent, and ``seconds`` is the time since the run started.
        """
        if self._quiet:
            return
        epoch, total = step / self._plan.steps_per_epoch, self._plan.total_steps
        logged = {name: rounded(value) for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, "epoch": round(epoch, 4), "split": split, **logged}) + "\n")
        self._file.flush()
        self._to_board(split, step, metrics, time.time())
        if split != "train":
            self.say(f"epoch {epoch:.4g}: {split} error {metrics['error']:.2f} %, loss {metrics['loss']:.4f}")
            return
        rate = f"{metrics['images_per_second']:.0f} images/s"
        text = f"loss {metrics['loss']:.4f}, error {metrics['error']:.2f} %, {rate}"
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        elif step - self._printed >= self._plan.schedule.log_every or step == total:
            each = metrics["seconds_per_step"] + self._pauses / self._steps
            left = tqdm.format_interval((total - step) * each)
            write_line(f"step {step}/{total}, epoch {epoch:.2f}: {text}, {left} left")
            self._printed = step

    def _to_board(self, split: str, step: int, metrics: Mapping[str, float], when: float) -> None:
        for name, value in metrics.items():
            self._board.add_scalar(f"{split}/{name}", value, step, when)

    def say(self, text: str) -> None:
        """Prints a line without disturbing the bar."""
        if not self._quiet:
            write_line(text) if self._bar.disable else self._bar.write(text)

    def close(self) -> None:
        """Closes the files."""
        if not self._quiet:
            self._bar.close()
            self._board.close()
            self._file.close()


def _board(folder: pathlib.Path):
    """A writer of TensorBoard's events, in place of those in the folder."""
    # tensorboardX imports PyTorch where it is installed, which takes seconds.
    if hidden := "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]
    from tensorboardX import SummaryWriter

    if hidden:
        del sys.modules["torch"]
    for events in folder.glob("events.out.tfevents.*"):  # as TensorBoard names its files
        events.unlink()
    return SummaryWriter(str(folder), flush_secs=1)  # by a thread of its own, whatever its method flush promises
