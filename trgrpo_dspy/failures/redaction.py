"""Secrets in texts: those the LMs were given, and what looks like one.

The patterns are ours. `detect-secrets` takes 9 ms for a clean text of 2 KB (this takes 0.03 ms) and calls most of the
words in it secrets; Betterleaks comes as 54 MB of Go runtime, and scanners of repositories miss what error messages
quote: `Bearer ...`, `Cookie: ...`, `pwd=...`, masked keys.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .secrets import blank

__all__ = ["PATTERNS", "redact"]

_VALUE = r"""[^\s'",;&]"""
_RANDOM = rf"(?:(?={_VALUE}*[0-9]){_VALUE}{{8,}}|{_VALUE}{{20,}})"  # a long word, or one with digits in it
_MIXED = rf"(?={_VALUE}*[0-9])(?={_VALUE}*[A-Za-z]){_VALUE}{{12,}}"
_QUOTED = r"""(?:(?<=")[^"\\\n]{4,}(?=\\?")|(?<=')[^'\\\n]{4,}(?=\\?'))"""  # may hold spaces
# Quotes and signs may be escaped; a pair may be a tuple, and the value wrapped: b'...', SecretStr('...').
_WRAP = r"""\w{1,20}\((?=b?["'])"""
_IS = rf"""\\?["']?\s*(?:[:=]|%3[ad]|(?<=["']),(?=\s*b?["']{_RANDOM}))\s*(?:{_WRAP})?(?:\\?["']|b["'])?(?!{_WRAP})"""
_KEYS = ("api", "access", "private", "secret", "account", "shared", "signing", "encryption", "subscription", "master")
_NAMED_KEY = "key(?:" + "|".join(f"(?<={name}[-_ ]key)|(?<={name}key)" for name in _KEYS) + ")"
_PASSWORD = r"(?:secret|pass[-_ ]?(?:word|wd|phrase|code))"
_MAKES = [
    "sk-", "sk_", "pk-", "pk_", "rk_", "gsk_", "hf_", "xai-", "nvapi-", "glpat-", "glsa_", "r8_", "xoxa-", "xoxb-",
    "xoxe-", "xoxo-", "xoxp-", "xoxr-", "xoxs-", "xapp-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "npm_",
    "pypi-", "dop_v1_", "shpat_", "shpca_", "shppa_", "shpss_", "hvs.", "hvb.", "lin_api_", "ntn_", "figd_", "tvly-",
    "pplx-", "pcsk_", "sbp_", "dckr_pat_", "whsec_", "tskey-", "gocspx-", "age-secret-key-",
]  # fmt: skip
# Group 1 is what stays. Before each pattern what it needs, in lower case: a first text, and one of the others. To look
# for these takes a thirtieth of the time of a pattern.
_SECRETS: tuple[tuple[str, Sequence[str], str], ...] = (
    # Keys of known make, masked ones too: sk-..., ghp_..., AKIA..., and JSON web tokens.
    *(
        (end, made, rf"()\b(?i:{'|'.join(map(re.escape, made))})(?:(?=[A-Za-z_-]*[0-9*])[-\w*]{{8,}}|[-\w*]{{20,}})")
        for end in "-_."
        if (made := [make for make in _MAKES if make.endswith(end)])
    ),
    ("", ("aiza", "akia", "asia", "eyj", "ya29"), r"()\b(?:AIza|AKIA|ASIA|eyJ|ya29)[-._A-Za-z0-9*]{8,}"),
    # A private key, also one that is cut or has its line ends escaped.
    (
        "",
        ("private key",),
        r"(-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----)(?!\*)"
        r"(?:[^-]|-(?!----))+(?:-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----)?",
    ),
    # Headers, which may name a scheme before the secret.
    (
        "",
        ("authorization",),
        rf"(?i:(authorization{_IS}(?:(?:bearer|basic|digest|token|apikey|negotiate)\s+)?){_VALUE}+)",
    ),
    ("", ("bearer",), rf"(?i:(\bbearer\s+){_RANDOM})"),
    ("", ("basic",), r"(?i:(\bbasic\s+)(?=[a-z0-9+/]*[0-9+/=])[a-z0-9+/]{8,}=*)"),
    ("", ("cookie",), rf"""(?i:(cookies?{_IS})(?:[^\s=;,"'{{]+=[^\n"']+|{_RANDOM}))"""),
    # Names with a value after ':' or '='. 'max_tokens: 4096' and 'unexpected token: foo' tell nothing.
    ("key", _KEYS, rf"(?i:({_NAMED_KEY}[\w -]{{0,20}}?{_IS}){_VALUE}{{4,}})"),
    ("", ("secret", "pass"), rf"(?i:({_PASSWORD}[\w -]{{0,20}}?{_IS})(?:{_QUOTED}|{_VALUE}{{4,}}))"),
    ("", ("pwd",), rf"(?i:((?:\b|_)pwd{_IS})(?!/){_VALUE}{{4,}})"),
    ("", ("pass", "pw"), rf"(?i:((?:\b|_)(?:pass|pw){_IS}){_RANDOM})"),
    (
        "",
        ("token", "credential"),
        rf"(?i:((?:token(?!s)|credential)[\w -]{{0,20}}?{_IS})(?!\d+(?:\.\d+)?(?![\w/])){_RANDOM})",
    ),
    (
        "",
        ("key", "sess", "sig", "auth", "connect.sid"),
        rf"(?i:((?:\b(?:key|auth|sig(?:nature)?|session)|sess(?:ion)?[-_]?(?:id|key)|connect\.sid){_IS})"
        rf"(?!\d+\b){_RANDOM})",
    ),
    ("", ("=",), rf"(?i:([?&](?:key|sig|signature|auth)=|(?:\b|_)token=)(?!\d+\b){_VALUE}+)"),
    # A value beside its noun: 'token Zx81Qp47Lm22 expired'.
    (
        "",
        ("token", "key", "secret", "credential", "passw", "jwt"),
        rf"""(?i:((?:\b|_)(?:token|(?:api)?key|secret|credential|passw(?:or)?d|jwt)\s+(?:is\s+)?["'`(]?){_MIXED})""",
    ),
    # Options of commands, what curl is given, and user and password as a pair.
    (
        "--",
        ("key", "token", "secret", "passw"),
        rf"(?i:(--(?:[\w-]{{0,20}}-)?(?:key|token|secret|passw(?:or)?d)\s+[\"']?){_VALUE}{{4,}})",
    ),
    ("-u", (":",), rf"((?<!\w)-(?:u|-user) [^\s:]+:){_VALUE}+"),
    ("auth", ("(",), rf"""(?i:(auth["']?\s*[:=]\s*\w*\(\s*["'][^"'\n]*["'],\s*["']){_VALUE}+)"""),
    # Paths of addresses that are keys: hooks of Slack and Discord, Telegram's bots.
    ("", ("hooks.slack.com/",), rf"(hooks\.slack\.com/\w+/){_VALUE}+"),
    ("", ("/webhooks/",), rf"(/webhooks/\d+/){_VALUE}+"),
    ("", ("/bot",), r"(/bot\d+:)[\w-]+"),
    # User and password in an address.
    ("", ("://",), r"((?<=://))[^/\s?#'\"]+(?=@)"),
)
PATTERNS = tuple((first, tuple(needed), re.compile(pattern)) for first, needed, pattern in _SECRETS)
"""The patterns, and before each what it needs."""


def redact(text: str) -> str:
    """Blank the secrets of the LMs in use, and what looks like a key, a token, a password or an address with one.

    Both are looked for in the text as it is: what one has blanked could hide from the other what is left of a secret.
    What a blank uncovers, such as a key that had no space before it, is looked for once more.
    """
    shown = blank(text, _spans(text))
    return shown if shown == text else blank(shown, _spans(shown))


def _spans(text: str) -> list[tuple[int, int]]:
    """Where something looks like a secret."""
    # Letters outside ASCII may match one inside it without regard to case: then every pattern is tried.
    lower = text.lower() if text.isascii() else None
    return [
        (found.end(1), found.end())
        for first, needed, pattern in PATTERNS
        if lower is None or (first in lower and any(part in lower for part in needed))
        for found in pattern.finditer(text)
    ]
