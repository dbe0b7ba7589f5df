"""Whether transformers' own adapter methods (`add_adapter` and its siblings) go with the PEFT that is installed.

transformers asks for a PEFT of its own choice there, which may not be released yet; LoRA has none of them then either.
"""

import peft
import pytest
from packaging.version import Version
from transformers.integrations.peft import MIN_PEFT_VERSION

HAS_NATIVE_ADAPTERS = Version(peft.__version__) >= Version(MIN_PEFT_VERSION)

needs_native_adapters = pytest.mark.skipif(
    not HAS_NATIVE_ADAPTERS,
    reason=f"transformers' own adapter methods ask for PEFT {MIN_PEFT_VERSION}, and this is {peft.__version__}",
)
