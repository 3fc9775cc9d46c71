"""Failures in words: bounded, without secrets, and with what to do where something can be done."""

from __future__ import annotations

import re

from .errors import LM, error_text, is_a, names, provider_words
from .redaction import redact
from .replies import ReplyFault

__all__ = ["describe", "fatal_message", "no_lm_message"]

_PYDANTIC = re.compile(r"\b(\d+) validation errors? for (\S+)\s*$")
"""The first line of a pydantic error; the field's path follows, then what is wrong with it, indented."""


def describe(error: BaseException, limit: int = 300, fault: ReplyFault | None = None) -> str:
    """Exception type and the line of its message that tells, without secrets: what may enter a prompt or a record.

    That is the last line, as in a traceback; for an LM's error the first, which general advice follows; for an error
    of pydantic what was wrong where; for a reply that could not be parsed what it lacked, where that is known.
    """
    line = _unparsed(error, fault) if is_a(error, LM + "AdapterParseError") else _telling_line(error)
    kind = type(error).__name__
    text = f"{kind}: {line}" if line else kind
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _telling_line(error: BaseException) -> str:
    text, words = error_text(error), redact(provider_words(error))
    lines = [line for line in redact(text).splitlines() if line.strip()]
    if is_a(error, LM + "LMError"):
        first = lines[0].strip() if lines else ""
        return first if words in first else f"{first} {words}".strip()
    if not lines:
        return ""
    head = next((i for i, line in enumerate(lines) if _PYDANTIC.search(line)), None)
    return lines[-1].strip() if head is None else _validation(lines[head:])


def _validation(lines: list[str]) -> str:
    """What a pydantic error finds wrong first, and how many more there are; not the value, which may be long."""
    head = _PYDANTIC.search(lines[0])
    assert head is not None
    where = lines[1].strip() if len(lines) > 2 and not lines[1].startswith(" ") else ""
    said = next((line.strip() for line in lines[1:] if line.startswith(" ")), "")
    said = said.partition(" [type=")[0]
    more = f" (and {int(head[1]) - 1} more)" if int(head[1]) > 1 else ""
    return ": ".join(filter(None, [head[2], where, said])) + more


def _unparsed(error: BaseException, fault: ReplyFault | None) -> str:
    fields = ", ".join(getattr(getattr(error, "signature", None), "output_fields", ()))
    reply = str(getattr(error, "lm_response", None) or "").strip()
    if fault is None and reply in ("", "None"):
        fault = ReplyFault.EMPTY
    elif fault is None and "empty or null response" in str(error):  # DSPy shows what else there was as a mapping
        fault = ReplyFault.TOOL_CALL if "'tool_calls': " in reply else ReplyFault.REASONING
    return f"{fault.value}; wanted: {fields}" if fault else f"the reply could not be parsed into {fields}"


_ADVICE = {
    "LMAuthError": "the key was refused: check the provider's API key in the environment or in dspy.LM(api_key=...)",
    "LMBillingError": "the account has no credit or quota left: top it up, or use another model",
    "LMUnsupportedModelError": "the provider does not know this model: check the model string, "
    "e.g. 'openai/gpt-4o-mini'",
    "LMUnsupportedFeatureError": "the model does not support what the program asks for: change the program's settings "
    "or the model",
    "LMConfigurationError": "the LM is not configured: check dspy.LM(...) and the provider's environment variables",
}


def fatal_message(error: BaseException, model: str, failed_requests: int = 0) -> str:
    """What is wrong, with which model, and what to do; no secrets. So many failed requests in a row ended the run."""
    if failed_requests:
        return (
            f"LM {model!r}: none of {failed_requests} requests got a reply. Check that the service is up and that "
            "address, network, timeout and parameters of the LM are right, then run again. "
            f"The last error: {describe(error)}"
        )
    kinds = [name.removeprefix(LM) for name in names(error)]
    hint = next((_ADVICE[kind] for kind in kinds if kind in _ADVICE), "nothing further can succeed")
    return f"LM {model!r}: {hint}. The backend said: {describe(error)}"


def no_lm_message() -> str:
    """What to do when a program has no LM at all."""
    return (
        "no LM is configured: call dspy.configure(lm=dspy.LM('openai/gpt-4o-mini')) "
        "or give the program's predictors one"
    )
