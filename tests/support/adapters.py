"""DSPy's adapters by name, each without falling back to another one; the offline model extracts for the last."""

from __future__ import annotations

import dspy
import pytest

from trgrpo_dspy.offline import offline_lm

STYLES = ["chat", "json", "xml", "two"]
every_adapter = pytest.mark.parametrize("style", STYLES)


def adapter(style: str) -> dspy.Adapter:
    """A new one."""
    return {
        "chat": dspy.ChatAdapter(use_json_adapter_fallback=False),
        "json": dspy.JSONAdapter(),
        "xml": dspy.XMLAdapter(),
        "two": dspy.TwoStepAdapter(offline_lm(3)),
    }[style]
