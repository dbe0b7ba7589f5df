"""What `PeftModel` itself has to do otherwise for our adapters: save, load and present them.

PEFT gives a tuner no say in this. So the class of a `PeftModel` around one of our tuners is swapped for a subclass of
it, when it is made (`patches.py`); other models stay as they are.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mona_peft.files.saving import move_into_place, unfinished_folder
from mona_peft.files.weights import WEIGHTS_NAME, add_digest
from mona_peft.integration.card import write_card
from mona_peft.integration.saved_adapter import HUB_ARGUMENTS, CheckedFolder, checked_folder, read_adapter
from mona_peft.integration.tuner import check_adapter_name


class MethodPeftModel:
    """Mixin in front of the class of a `PeftModel` of a method of ours: saves, loads and presents it."""

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        selected_adapters: list[str] | None = None,
        save_embedding_layers: str | bool = "auto",
        is_main_process: bool = True,
        **kwargs: Any,
    ) -> None:
        """Save adapters as `PeftModel.save_pretrained` does; a kill at any moment leaves the old files or the new.

        Raises:
            ValueError: If `safe_serialization=False` asks for a pickle, or `save_directory` is a file.
        """
        if not safe_serialization:
            raise ValueError(
                "safe_serialization=False would write a pickle, which can run code when it is read; these adapters are "
                "saved as safetensors only. Leave it out."
            )
        if save_embedding_layers == "auto":
            # PEFT would ask the hub whether the vocabulary was resized; images have none.
            save_embedding_layers = False
        settings = {
            "selected_adapters": selected_adapters,
            "save_embedding_layers": save_embedding_layers,
            "is_main_process": is_main_process,
            **kwargs,
        }
        folder = Path(save_directory)
        if not is_main_process or folder.is_file():
            super().save_pretrained(str(folder), **settings)
            return
        self._check_attached(selected_adapters)
        with unfinished_folder(folder) as new:
            if (folder / "README.md").is_file():
                shutil.copy(folder / "README.md", new)
            super().save_pretrained(str(new), **settings)
            folders = [weights.parent for weights in sorted(new.rglob(WEIGHTS_NAME))]
            for adapter_folder in folders:
                add_digest(adapter_folder / WEIGHTS_NAME)
            all_folders = folders if new in folders else [*folders, new]
            for written in all_folders:
                write_card(written, self._base_config)
            for written in all_folders:
                move_into_place(written, folder / written.relative_to(new))

    def load_adapter(self, model_id: str | Path, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """Load an adapter as `PeftModel.load_adapter` does; one that does not fit changes nothing.

        Raises:
            ValueError: If its weights are missing, damaged or pickled, or do not fit the model, or nothing can be
                called by its name.
        """
        check_adapter_name(adapter_name)
        saved = None if isinstance(model_id, CheckedFolder) else read_adapter(model_id, kwargs)
        if saved is None:
            return super().load_adapter(str(model_id), adapter_name, *args, **kwargs)
        config = self.peft_config.get(adapter_name, saved.config)
        is_whole = not kwargs.get("ignore_mismatched_sizes")
        elsewhere = {name: value for name, value in kwargs.items() if name not in HUB_ARGUMENTS}
        with checked_folder(self.get_base_model(), config, saved, is_whole) as folder:
            return super().load_adapter(folder, adapter_name, *args, **elsewhere)

    def create_or_update_model_card(self, output_dir: str | Path) -> None:
        """Write the adapter's card: how to load it, the base model, the tag of the method."""
        super().create_or_update_model_card(str(output_dir))
        write_card(Path(output_dir), self._base_config)

    def _check_attached(self, selected_adapters: list[str] | None) -> None:
        names = list(self.peft_config) if selected_adapters is None else selected_adapters
        pattern = self.base_model.weight_names
        there = {match["adapter"] for name, _ in self.base_model.named_parameters() if (match := pattern.match(name))}
        if gone := [name for name in names if name in self.peft_config and name not in there]:
            raise ValueError(
                f"There is nothing to save: the adapters {gone} are no longer in the model, as after unload(). Save "
                "before unload(), or save the plain model that unload() returned."
            )

    @property
    def _base_config(self) -> Any:
        return getattr(self.get_base_model(), "config", None)
