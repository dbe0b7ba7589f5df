"""The weight file of an adapter: its header, and the digest of its tensors that tells whether it is whole.

A safetensors file begins with the length of its header, then the header as JSON (names, types, shapes and places of the
tensors, and free metadata), then the data. The digest stands in the metadata.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

WEIGHTS_NAME = "adapter_model.safetensors"
"""Name of an adapter's weight file, as PEFT has it."""

DIGEST = "sha256"
"""Name of the digest of all tensors in a weight file's metadata."""

LENGTH_BYTES = ALIGNMENT = 8
"""The header's length is a little-endian integer of so many bytes; data begin at a multiple of so many."""


def add_digest(weights: Path) -> None:
    """Write the digest of all tensors of a weight file into its metadata."""
    header, data = _parts(weights.read_bytes())
    # safetensors' own writer puts several entries of metadata in another order every time.
    header["__metadata__"] = {**header.get("__metadata__", {}), DIGEST: _digest(header, data)}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % ALIGNMENT)
    weights.write_bytes(len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded + data)


def recorded_digest(content: bytes) -> str | None:
    """Return the digest in a weight file's metadata; None if it has none, as when another program wrote it.

    Raises:
        ValueError: If the header can't be read.
    """
    metadata = _parts(content)[0].get("__metadata__")
    return metadata.get(DIGEST) if isinstance(metadata, dict) else None


def is_intact(content: bytes) -> bool:
    """Whether the tensors of a weight file are those that its digest was made of; a file without one counts as such.

    Raises:
        ValueError: If the header can't be read.
    """
    recorded = recorded_digest(content)
    return recorded is None or recorded == _digest(*_parts(content))


def _parts(content: bytes) -> tuple[dict[str, Any], memoryview]:
    start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    if start > len(content):
        raise ValueError(f"its header is said to be {start} bytes long")
    header = json.loads(content[LENGTH_BYTES:start])
    if not isinstance(header, dict):
        raise ValueError("its header is no table of tensors")
    return header, memoryview(content)[start:]


def _digest(header: dict[str, Any], data: memoryview) -> str:
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    digest = hashlib.sha256(json.dumps(tensors, sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()
