"""What `PeftModel` itself has to do otherwise for our adapters: save, load and present them.

PEFT gives a tuner no say in how its adapter is saved, loaded or pushed. So the class of a `PeftModel` around one of our
tuners is swapped for a subclass of it, when it is made; other models stay as they are.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from transformers.utils.hub import PushToHubMixin

from mona_peft.files.checks import check_adapter_state, check_weight_file, check_weights
from mona_peft.files.saving import add_digest, move_into_place, unfinished_folder
from mona_peft.host.class_swap import swap_class
from mona_peft.integration.attachment import attached_tuners
from mona_peft.integration.card import write_card
from mona_peft.integration.tuner import MethodModel

HUB_ARGUMENTS = ("subfolder", "revision", "cache_dir", "token", "force_download", "local_files_only")


class MethodPeftModel:
    """Mixin in front of the class of a `PeftModel` of a method of ours: saves, loads and presents it."""

    _loading: str | None = None
    """Name of the adapter that `load_adapter` is about to load."""

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
        with unfinished_folder(folder) as new:
            if (folder / "README.md").is_file():
                shutil.copy(folder / "README.md", new)
            super().save_pretrained(str(new), **settings)
            folders = [weights.parent for weights in sorted(new.rglob(SAFETENSORS_WEIGHTS_NAME))]
            for adapter_folder in folders:
                add_digest(adapter_folder / SAFETENSORS_WEIGHTS_NAME)
            all_folders = folders if new in folders else [*folders, new]
            for written in all_folders:
                write_card(written, self._base_config)
            for written in all_folders:
                move_into_place(written, folder / written.relative_to(new))

    def load_adapter(self, model_id: str | Path, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """Load an adapter as `PeftModel.load_adapter` does; one that does not fit changes nothing.

        Raises:
            ValueError: If its weights are missing, damaged or pickled, or do not fit the model, or its name has a dot.
        """
        if "." in adapter_name:
            raise ValueError(
                f"adapter_name={adapter_name!r}: PyTorch takes no '.' in the name of a module. Give another, such as "
                f"{adapter_name.replace('.', '_')!r}."
            )
        is_new = adapter_name not in self.peft_config
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        self._loading = None if kwargs.get("ignore_mismatched_sizes") else adapter_name
        try:
            _check_weights(model_id, kwargs)
            return super().load_adapter(str(model_id), adapter_name, *args, **kwargs)
        except KeyError as error:
            self._forget(adapter_name, is_new, trained)
            raise ValueError(
                f"The adapter in {model_id} lacks {error}, and nothing was loaded: its configuration names "
                f"modules_to_save whose weights are not in its file."
            ) from error
        except BaseException:
            self._forget(adapter_name, is_new, trained)
            raise
        finally:
            self._loading = None

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights as `nn.Module.load_state_dict` does; what `load_adapter` loads has to be one whole adapter."""
        if self._loading is not None:
            state_dict = dict(state_dict)
            self.base_model.rename_weights(state_dict, "base_model.model.", self._loading)
            check_adapter_state(self.base_model, state_dict, "base_model.", self._loading)
        return super().load_state_dict(state_dict, *args, **kwargs)

    def create_or_update_model_card(self, output_dir: str | Path) -> None:
        """Write the adapter's card: how to load it, the base model, the tag of the method."""
        super().create_or_update_model_card(str(output_dir))
        write_card(Path(output_dir), self._base_config)

    @property
    def _base_config(self) -> Any:
        return getattr(self.get_base_model(), "config", None)

    def _forget(self, adapter_name: str, is_new: bool, trained: set[str]) -> None:
        if is_new and adapter_name in self.peft_config:
            self.delete_adapter(adapter_name)
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name in trained)


def _check_weights(model_id: str | Path, arguments: dict[str, Any]) -> None:
    if Path(model_id).exists():
        check_weight_file(model_id, arguments.get("subfolder"), is_needed=True)
        return
    try:
        hub_arguments = {key: value for key, value in arguments.items() if key in HUB_ARGUMENTS}
        path = hf_hub_download(str(model_id), SAFETENSORS_WEIGHTS_NAME, **hub_arguments)
    except EntryNotFoundError as error:
        raise ValueError(
            f"{model_id} has no {SAFETENSORS_WEIGHTS_NAME}. Pickled weights are not read: unpickling a file of others "
            "can run their code."
        ) from error
    check_weights(Path(path))


def adapt_peft_model() -> None:
    """Make `PeftModel` swap its class around our tuners, take them off when loading fails, and push their card."""
    if hasattr(PeftModel.__init__, "__wrapped__"):
        return
    PeftModel.__init__ = _swapping(PeftModel.__init__)
    PeftModel.from_pretrained = classmethod(_all_or_nothing(PeftModel.from_pretrained.__func__))
    PushToHubMixin._upload_modified_files = _with_card(PushToHubMixin._upload_modified_files)


def _swapping(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def swap_after_init(self: PeftModel, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if isinstance(self.base_model, MethodModel):
            swap_class(self, MethodPeftModel)

    return swap_after_init


def _all_or_nothing(from_pretrained: Callable[..., PeftModel]) -> Callable[..., PeftModel]:
    @functools.wraps(from_pretrained)
    def load_or_give_back(cls: type[PeftModel], *args: Any, **kwargs: Any) -> PeftModel:
        with attached_tuners() as tuners:
            try:
                return from_pretrained(cls, *args, **kwargs)
            except BaseException:
                for tuner in tuners:
                    tuner.give_back()
                raise

    return load_or_give_back


def _with_card(upload: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(upload)
    def write_card_and_upload(self: Any, working_dir: str, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # transformers has put its own card over the adapter's at this point.
        write_card(Path(working_dir), getattr(self, "config", None), repo_id)
        return upload(self, working_dir, repo_id, *args, **kwargs)

    return write_card_and_upload
