"""The output directory of a run: refused if it holds another run, found again to resume; files written whole or not."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from mona_peft.tasks.messages import first_of
from mona_peft.tasks.trained import ADAPTER, MODEL, WHOLE_RECORD

BEGUN = "arguments.json"
"""File that says what a run trains, from its beginning on."""

LAST = ("last", "true")  # values of --resume_from_checkpoint that stand for the newest checkpoint


def find_checkpoint(args: TrainingArguments, settings: dict[str, Any] | None = None) -> str | None:
    """Returns the checkpoint to resume from, or None for a run from the start.

    Args:
        args: Of the run.
        settings: What it trains, as `begin` has noted it of the run that the directory holds.

    Raises:
        ValueError: The output directory holds a run that has ended, or another one, or something else and nothing is to
            be resumed, or there is no such checkpoint.
    """
    output_dir = Path(args.output_dir)
    wanted = args.resume_from_checkpoint
    if wanted is None:
        return _unfinished(output_dir, settings, quiet=args.process_index > 0)
    if str(wanted).lower() not in LAST:
        if not _is_complete(Path(wanted)):
            raise ValueError(
                f"--resume_from_checkpoint {wanted}: not a complete checkpoint (no readable {TRAINER_STATE_NAME}). "
                f"{output_dir} has: {_names(output_dir) or 'none'}; `last` takes the newest."
            )
        return str(wanted)
    complete = complete_checkpoints(output_dir)
    if not complete:
        raise ValueError(
            f"--resume_from_checkpoint {wanted}: there is no complete checkpoint in {output_dir}. Without this "
            "argument and with a new --output_dir the run starts from the beginning."
        )
    return str(complete[-1])


def _unfinished(output_dir: Path, settings: dict[str, Any] | None, quiet: bool) -> str | None:
    """Returns the newest checkpoint of what a directory holds, if the same run was begun there and has not ended."""
    present = sorted(path.name for path in output_dir.iterdir()) if output_dir.is_dir() else []
    if not present:
        return None
    begun = _read(output_dir / BEGUN)
    if begun is None or {ADAPTER, MODEL, WHOLE_RECORD} & {*present}:
        raise ValueError(
            f"--output_dir {output_dir} already holds {first_of(present)}. To go on with that run add "
            "`--resume_from_checkpoint last`; for a new one choose another directory, or remove this one yourself."
        )
    complete = complete_checkpoints(output_dir)
    if not complete:
        if not quiet:
            print(f"{output_dir} holds a run that stopped before its first checkpoint. It begins anew.", flush=True)
        return None
    if settings is not None and (other := _differing(begun, json.loads(json.dumps(settings)))):
        raise ValueError(
            f"--output_dir {output_dir} holds a run that stopped at {complete[-1].name}. Other arguments: {other}. "
            "Give the arguments that it was started with, or another directory."
        )
    if not quiet:
        print(f"{output_dir} holds the same run, which has not ended. It goes on from {complete[-1].name}.", flush=True)
    return str(complete[-1])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _differing(begun: dict[str, Any], settings: dict[str, Any]) -> str:
    pairs = {
        name: (begun.get(part, {}).get(name), values.get(name))
        for part, values in settings.items()
        for name in {**begun.get(part, {}), **values}
    }
    return ", ".join(f"{name} was {old!r} and is {new!r}" for name, (old, new) in pairs.items() if old != new)


def begin(args: TrainingArguments, settings: dict[str, Any], checkpoint: str | None) -> None:
    """Notes in the output directory what is trained there, and removes checkpoints that were not written to their end.

    Args:
        args: Of the run.
        settings: What it trains: arguments by name, by what they are about.
        checkpoint: From which it goes on.
    """
    output_dir = Path(args.output_dir)
    if checkpoint is None:
        for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            shutil.rmtree(path)
    with replace_file(output_dir / BEGUN) as new:
        new.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def complete_checkpoints(output_dir: Path) -> list[Path]:
    """Returns the checkpoints of a run that were written to their end, oldest first."""
    numbered = {
        int(path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")): path
        for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-").isdecimal()
    }
    return [path for _, path in sorted(numbered.items()) if _is_complete(path)]


def _names(output_dir: Path) -> str:
    return ", ".join(str(path) for path in complete_checkpoints(output_dir))


def _is_complete(checkpoint: Path) -> bool:
    """`Trainer` writes its state last: a checkpoint whose writing was interrupted has none, or half of it."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def check_same_weights(checkpoint: str, model: PeftModel | PreTrainedModel) -> None:
    """Checks that a checkpoint holds the very tensors that the model trains; whatever fits is loaded, silently.

    Raises:
        ValueError: It holds others.
    """
    find = _other_adapter_weights if isinstance(model, PeftModel) else _other_model_weights
    if different := sorted(find(Path(checkpoint), model)):
        raise ValueError(
            f"{checkpoint} holds other weights than this run trains: {len(different)} tensors differ in name or shape, "
            f"such as {different[0]}. Resume with the model, data and method arguments that the run was started with."
        )


def _other_adapter_weights(checkpoint: Path, model: PeftModel) -> set[str]:
    """Returns the names of the tensors that only one side has, or with another shape."""
    expected = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
    file = checkpoint / SAFETENSORS_WEIGHTS_NAME
    if not file.exists():  # a whole model's
        return expected.keys()
    with safe_open(file, framework="pt") as file:
        saved = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return {name for name in saved.keys() | expected.keys() if saved.get(name) != expected.get(name)}


def _other_model_weights(checkpoint: Path, model: PreTrainedModel) -> set[str]:
    """The same for a whole model, whose names in the file are not those of its modules."""
    if not any((checkpoint / name).exists() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):  # an adapter's
        return model.state_dict().keys()
    _, loading = type(model).from_pretrained(
        checkpoint, config=model.config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    mismatched = {name for name, *_ in loading["mismatched_keys"]}
    return mismatched.union(loading["missing_keys"], loading["unexpected_keys"])


@contextmanager
def replace_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Gives an empty directory to fill, which takes the place of `path` when all went well.

    Whatever goes wrong inside leaves what was at `path` before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        new.chmod(0o755)  # mkdtemp's directories are their owner's alone
        yield new
        if path.exists():
            old = Path(mkdtemp(prefix=f".{path.name}-", dir=path.parent))
            os.replace(path, old)
            os.replace(new, path)
            shutil.rmtree(old)
        else:
            os.replace(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a path beside `path` to write to, which takes its place when all went well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield new
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
