"""The model card of an adapter: how to load it, what it stands on, what it is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from huggingface_hub import ModelCard, ModelCardData
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import CONFIG_NAME

from mona_peft.config import MethodConfig
from mona_peft.version import __version__

NOT_FILLED_IN = "[More Information Needed]"
VERSIONS = {
    "mona-peft": __version__,
    "peft": peft.__version__,
    "transformers": transformers.__version__,
    "torch": torch.__version__,
}
MOST_GAPS = 10
"""A card with more gaps than this is a template that nobody has filled in."""
BOOKKEEPING = {"auto_mapping", "peft_version", "revision", "inference_mode", "base_model_name_or_path", "task_type"}
"""Fields of a saved configuration that say nothing of the method."""

TITLE = "# {method} for {base_model}"

LOADING = """## Load it

```python
import mona_peft  # registers the method with PEFT
from peft import PeftModel
from transformers import {base_class}

base = {base_class}.from_pretrained({arguments})
model = PeftModel.from_pretrained(base, {adapter})
```

{import_note}

## What it is

{description} The backbone is unchanged and not part of these files. The adapter's configuration:

```json
{settings}
```

Saved with {versions}."""


def import_note(peft_type: str) -> str:
    """Return the sentences that say why a program that loads an adapter of this type imports `mona_peft`."""
    return (
        "`import mona_peft` comes first: it registers the method with PEFT, which otherwise stops with "
        f"`KeyError: '{peft_type}'`. It is installed by `pip install git+https://github.com/mona-peft/mona-peft`."
    )


def write_card(folder: Path, model_config: Any = None, repo_id: str | None = None) -> None:
    """Write the card of the adapter in a folder, or complete the one that is there; does nothing without an adapter.

    What somebody has written is kept; a template that nobody has filled in is replaced. The tag of the method, the
    library and the base model are entered in any case.

    Args:
        folder: Folder with an adapter, or with folders of adapters.
        model_config: Configuration of the base model, which tells the number of labels.
        repo_id: Name under which the adapter is going to be found.
    """
    saved = [path for path in (folder / CONFIG_NAME, *sorted(folder.glob(f"*/{CONFIG_NAME}"))) if path.is_file()]
    config = json.loads(saved[0].read_text(encoding="utf-8")) if saved else {}
    if not issubclass(PEFT_TYPE_TO_CONFIG_MAPPING.get(config.get("peft_type"), PeftConfig), MethodConfig):
        return
    path = folder / "README.md"
    card = ModelCard.load(path) if path.is_file() else ModelCard.from_template(ModelCardData())
    _complete_front_matter(card.data, config)
    subfolder = saved[0].parent.relative_to(folder).as_posix()
    loading = _loading(config, model_config, repo_id, None if subfolder == "." else subfolder)
    if card.text.count(NOT_FILLED_IN) > MOST_GAPS:
        title = TITLE.format(method=_method(config), base_model=_base_name(config))
        # PEFT enters its version below this heading when it updates a card, and looks for it.
        card.text = f"{title}\n\n{loading}\n\n### Framework versions\n\n- PEFT {peft.__version__}\n"
    elif "import mona_peft" not in card.text:
        card.text = f"{card.text.rstrip()}\n\n{loading}\n"
    unfinished = path.with_name(".README.md")
    card.save(unfinished)
    unfinished.replace(path)


def _complete_front_matter(data: ModelCardData, config: dict[str, Any]) -> None:
    data.library_name = "peft"
    tags = {*(data.tags or []), config["peft_type"].lower()}
    base_model = config["base_model_name_or_path"]
    # The hub takes its own names only, not a folder on somebody's machine.
    if not base_model or Path(base_model).exists():
        data.base_model = None
        tags = {tag for tag in tags if not tag.startswith("base_model:")}
    else:
        data.base_model = base_model
        tags.add(f"base_model:adapter:{base_model}")
    data.tags = sorted(tags)


def _method(config: dict[str, Any]) -> str:
    return PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]].title


def _base_name(config: dict[str, Any]) -> str:
    name = config["base_model_name_or_path"]
    return Path(name).name if name else _base_class(config)


def _base_class(config: dict[str, Any]) -> str:
    return (config.get("auto_mapping") or {}).get("base_model_class") or "AutoModel"


def _loading(config: dict[str, Any], model_config: Any, repo_id: str | None, subfolder: str | None) -> str:
    arguments = [repr(config["base_model_name_or_path"] or "path/to/the/base/model")]
    if config["modules_to_save"] and hasattr(model_config, "num_labels"):
        arguments += [f"num_labels={model_config.num_labels}", "ignore_mismatched_sizes=True"]
    adapter = repr(repo_id or "path/to/this/adapter")
    heads = config["modules_to_save"]
    trained = f"with the trained modules {', '.join(heads)}" if heads else "and nothing else"
    return LOADING.format(
        base_class=_base_class(config),
        arguments=", ".join(arguments),
        adapter=f"{adapter}, subfolder={subfolder!r}" if subfolder else adapter,
        import_note=import_note(config["peft_type"]),
        description=f"{_method(config)} weights, {trained}.",
        settings=json.dumps({key: config[key] for key in sorted(config.keys() - BOOKKEEPING)}, indent=2),
        versions=", ".join(f"{name} {version}" for name, version in VERSIONS.items()),
    )
