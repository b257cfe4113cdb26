"""Where the metrics of a run go: ``metrics.jsonl``, TensorBoard and the terminal."""

from collections.abc import Iterator, Mapping
import contextlib
import json
import pathlib
import sys
import time

from tqdm import tqdm

from lcaps_jax.util.files import write_whole
from lcaps_jax.util.process import write_line

METRICS_FILE = "metrics.jsonl"
BOARD_FOLDER = "tb"
_EVENTS = "events.out.tfevents.*"  # TensorBoard's name of its files
_NOT_METRICS = ("step", "epoch", "split")
_FIGURES = ("step", "epoch", "loss", "error", "seconds")  # that every line has


def read_metrics(workdir: pathlib.Path) -> list[dict]:
    """The lines of a run's ``metrics.jsonl`` up to the first that is damaged, as the last one is by a kill."""
    path = pathlib.Path(workdir) / METRICS_FILE
    lines = []
    for text in path.read_text(errors="replace").split("\n") if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict) or not isinstance(line.get("split"), str):
            break
        if not all(type(line.get(name)) in (int, float) for name in _FIGURES):
            break
        lines.append(line)
    return lines


def rounded(value: float) -> float:
    """A metric as the log holds it, to six digits."""
    return float(f"{value:.6g}")


class MetricLog:
    """Writes the metrics of a run to ``metrics.jsonl``, to TensorBoard, and to a progress bar or as plain lines.

    Each line is on its way to the disk, in the log and in TensorBoard's events alike, before the next is begun. A run
    that continues writes the events of its log anew, so that they are whole whatever became of them.

    Args:
      workdir: Folder of the run.
      start_step: Step that the run continues from. Lines of later steps are dropped and will be written again.
      total_steps: Number of steps of the whole run.
      print_every: Least steps between lines of training on the terminal; the files have them all. Epochs of a small set
        have few steps, and so many lines.
      quiet: Whether nothing at all is written, as on all processes but one.

    Attributes:
      kept: Lines that were there already, up to ``start_step``.
      seconds_before: Seconds that the run had taken by then.
    """

    def __init__(
        self, workdir: pathlib.Path, start_step: int, total_steps: int, print_every: int = 1, *, quiet: bool = False
    ):
        self._quiet = quiet
        self._total = total_steps
        self._print_every = print_every
        self._printed = start_step
        self.kept = [line for line in read_metrics(workdir) if line["step"] <= start_step]
        self.seconds_before = max((line["seconds"] for line in self.kept), default=0.0)
        if quiet:
            return
        path = workdir / METRICS_FILE
        write_whole(path, "".join(json.dumps(line) + "\n" for line in self.kept))
        self._file = path.open("a")
        self._board = _Board(workdir / BOARD_FOLDER)
        now = time.time()
        for line in self.kept:  # as if the run had gone on without a pause
            metrics = {name: value for name, value in line.items() if name not in _NOT_METRICS}
            self._board.write(line["split"], line["step"], metrics, now - (self.seconds_before - line["seconds"]))
        self._board.flush()
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
        self._board.write(split, step, metrics, time.time())
        self._board.flush()
        if split != "train":
            self.say(f"epoch {epoch:.4g}: {split} error {metrics['error']:.2f} %, loss {metrics['loss']:.4f}")
            return
        text = (
            f"loss {metrics['loss']:.4f}, error {metrics['error']:.2f} %, {metrics['images_per_second']:.0f} images/s"
        )
        if self._bar.disable:
            if step - self._printed >= self._print_every or step == self._total:
                left = tqdm.format_interval(seconds_left)
                write_line(f"step {step}/{self._total}, epoch {epoch:.2f}: {text}, {left} left")
                self._printed = step
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


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Hides PyTorch. Where it is installed, tensorboardX imports it, which takes seconds and is of no use here."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        yield
    finally:
        if hidden:
            sys.modules.pop("torch", None)


class _Board:
    """The events of a run for TensorBoard, begun anew. They are written at once, not by a thread beside training."""

    def __init__(self, place: pathlib.Path):
        with _without_torch():
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto.event_pb2 import Event, SessionLog

        place.mkdir(exist_ok=True)
        for events in place.glob(_EVENTS):
            events.unlink()
        self._event, self._scalar = Event, summary.scalar
        self._writer = event_file_writer.EventsWriter(str(place / "events"))
        # Has a TensorBoard that looks on forget what it had read.
        self._writer.write_event(Event(session_log=SessionLog(status=SessionLog.START)))

    def write(self, split: str, step: int, metrics: Mapping[str, float], when: float) -> None:
        """Writes metrics of a step, which was done at ``when``, in seconds since 1970."""
        for name, value in metrics.items():
            summary = self._scalar(f"{split}/{name}", value)
            self._writer.write_event(self._event(step=step, wall_time=when, summary=summary))

    def flush(self) -> None:
        """Hands to the operating system what was written."""
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
