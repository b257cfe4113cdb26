"""Writes docs/reference/flags.md, every flag with default, help and owner; --check fails where the page is old."""

import collections
import pathlib
import sys

from absl import flags

from lcaps_jax.cli import flags as cli_flags
from lcaps_jax.train.config import declared_settings

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "reference" / "flags.md"
text = """# Flags

<!-- Written by python -m scripts.list_flags: do not edit. -->

Give flags as `--name=value`, or one per line in a file for `--flagfile`. `--name` sets a Boolean flag, `--noname`
clears it. The recipe of `train.py` may replace defaults to fit your data, and prints its choices. `--lr` is short for
`--learning_rate`. The owner is the class that uses the setting.
"""
groups: dict[str, list[tuple]] = collections.defaultdict(list)
for name, settings in declared_settings().items():
    owner, choices, help_ = settings[-1].owner, settings[0].metadata["choices"], settings[0].metadata["help"]
    part = "Network" if "lcaps_jax.nn" in owner.__module__ else owner.__name__.removesuffix("Config") or "Preset"
    listed = "" if all(choice in help_ for choice in choices) else f" ({', '.join(choices)})"
    owners = ", ".join(dict.fromkeys(setting.owner.__name__ for setting in settings))
    groups[f"train.py: {part}"].append((name, settings[0].default, help_ + listed, owners))
known = set(flags.FLAGS)
cli_flags.define_evaluation()
cli_flags.define_distributed()
for flag in (flags.FLAGS[name] for name in flags.FLAGS if name not in known):
    groups["eval.py, and both with --distributed"].append((flag.name, flag.default, flag.help.replace("|", ", "), ""))
for title, rows in groups.items():
    text += f"\n## {title}\n\n|flag|default|help|owner|\n|---|---|---|---|\n"
    text += "".join(f"|`{n}`|{'' if d in ('', (), None) else f'`{d}`'}|{h}|{o}|\n" for n, d, h, o in rows)
if "--check" not in sys.argv:
    PAGE.write_text(text)
elif PAGE.read_text() != text:
    sys.exit(f"{PAGE} is out of date: python -m scripts.list_flags writes it.")
