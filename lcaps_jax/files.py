"""Files that are written whole or not at all."""

import json
import pathlib

# The ending of a file's name while the file is being written.
PARTIAL = ".partial"


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file of text or bytes; a process that is killed meanwhile leaves what was there before."""
    partial = path.with_name(path.name + PARTIAL)
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)


def write_json(path: pathlib.Path, value, indent: int | None = 2) -> None:
    """Writes a JSON file as ``write_whole`` does; without an indent it is one line."""
    write_whole(path, json.dumps(value, indent=indent) + "\n")
