"""The former name of `mona_peft.files.saving`; scripts that import it, or replace a function in it, go on working."""

import sys
import warnings

from mona_peft.files import saving

warnings.warn("mona_peft.adapter_saving is now mona_peft.files.saving.", DeprecationWarning, stacklevel=2)
sys.modules[__name__] = saving
