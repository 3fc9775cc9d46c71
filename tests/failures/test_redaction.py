"""What looks like a secret is blanked, and ordinary text stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.growth import assert_linear

from trgrpo_dspy.failures import secrets
from trgrpo_dspy.failures.redaction import PATTERNS, redact
from trgrpo_dspy.failures.secrets import blank, remember

SECRET = "Zx81Qp47Lm22Vb90"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\nMIIE{SECRET}+/\n{SECRET}==\n-----END RSA PRIVATE KEY-----"
LEAKS = [
    f"sk-{SECRET}", f"sk-proj-{SECRET}-{SECRET}",
    "Incorrect API key provided: sk-Zx81***Vb90. Find yours at https://x",
    *(f"{make}{SECRET}" for make in ("gsk_", "hf_", "xai-", "ghp_", "github_pat_", "AIza", "AKIA", "npm_", "hvs.")),
    f"eyJ{SECRET}.eyJ{SECRET}.{SECRET}", f"Bearer {SECRET}", f"Authorization: Bearer {SECRET}",
    f"authorization: Basic {SECRET}==", f"'Authorization': 'Token {SECRET}'", f"Authorization={SECRET} and more",
    f"Basic {SECRET}==", f"api_key={SECRET}", f'{{"api_key": "{SECRET}"}}', f"OPENAI_API_KEY={SECRET}",
    f"x-api-key: {SECRET}", f"aws_secret_access_key = {SECRET}", f"client_secret: {SECRET}", f"Password: {SECRET}",
    f"access_token: {SECRET}", f'"refresh_token": "{SECRET}"', f"https://x/?key={SECRET}&n=1",
    f"https://x/?a=1&sig={SECRET}", f"https://user:{SECRET}@{SECRET}@host/x",
    f"postgres://user:{SECRET}@host:5432/db", f"https://{SECRET}@host/x", f"key={SECRET}", f"client(key={SECRET})",
    f"{{'key': '{SECRET}'}}", f"Pwd={SECRET};", f"user=bob pass={SECRET}", f"passphrase={SECRET}",
    f"pass phrase: {SECRET}", f"Cookie: session={SECRET}; theme=dark", f"{{'Cookie': 'sid={SECRET}; a=b'}}",
    f"Set-Cookie: id={SECRET}; Path=/", f"cookies={{'session': '{SECRET}'}}",
    f"AccountName=x;AccountKey={SECRET}==;EndpointSuffix=y", f"SharedAccessKey={SECRET}", PEM,
    PEM.replace("\n", "\\n"), PEM[:60], f"token {SECRET} expired", f"password is {SECRET}", f"JWT {SECRET}.{SECRET}",
    f"DB_PASS={SECRET}", f"MYSQL_PWD={SECRET}", f"api_key%3D{SECRET}", f'api_key=\\"{SECRET}\\"',
    f"curl -u user:{SECRET} https://x", f"https://hooks.slack.com/services/T00/B00/{SECRET}",
    f"the key '{SECRET}' is not known", f"password='correct {SECRET} battery'",
    f'{{"passphrase": "correct {SECRET} battery"}}', f"api_key=SecretStr('{SECRET}')",
    f"'authorization': b'Token {SECRET}'", f"[('cookie', 'sid={SECRET}')]", f"('x-api-key', '{SECRET}')",
    f"{{'Cookie': '{SECRET}'}}", f"auth=('me', '{SECRET}')", f"{{'auth': ('me', '{SECRET}')}}",
    f"auth=HTTPBasicAuth('me', '{SECRET}')", f"curl --user me:{SECRET} https://x", f"login --password {SECRET}",
    f"serve --api-key {SECRET}", f"refresh_token: '1//0g{SECRET}'", f"JSESSIONID={SECRET}", f"auth_token {SECRET}",
    f"https://api.telegram.org/bot123456789:{SECRET}/send", f"https://discord.com/api/webhooks/123/{SECRET}",
    f"AGE-SECRET-KEY-1{SECRET}",
]  # fmt: skip


@pytest.mark.parametrize("given", [None, PEM.replace(SECRET, "Ab12"), "-----BEGIN", "api_key", "Authorization"])
def test_secrets_are_blanked(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the key that a run was given shares words with what tells a secret from other text."""
    monkeypatch.setattr(secrets, "_known", secrets._known)
    if given:
        remember({"api_key": given})
    for text in LEAKS:
        shown = redact(f"call failed ({text})")
        assert "Zx81" not in shown and "Vb90" not in shown and "***" in shown, text
        assert shown.startswith("call failed (") and redact(shown) == shown, text


@pytest.mark.parametrize(
    "text",
    [
        "the token count: 12; max_tokens: 4096 exceeds the limit; tokens=12000, limit=8192; token limit 128000 reached",
        "Unexpected token: identifier at 3",
        "the basic strategy is right; basic understanding of JavaScript",
        "skepticism about skateboards, hfs and pkgs; risk-based sk-learn pk_id",
        "no bearer capabilities; KeyError: 'authorization'; KeyError: 'customer_2024_id'",
        "key 'name' not found in {'secretary': 3}; sorted() got key=len; key=lambda x: x; primary key: id",
        "see https://example.com/a?b=c or mail me@example.com; 2024-01-01T10:00:00 user@host: ready",
        "a cookie: chocolate; cookies = 3; the pass rate: 0.8; bypass=True; compass: north; session: closed; auth: no",
        "key takeaways: revenue rose 12%; keyword: gpt-4o-mini-2024; author: Smith1990 et al; monkey=banana1234",
        "pwd: /home/me/2024; password must be longer; expected ':' at line 4, column 7; -----BEGIN CERTIFICATE-----",
        "unknown option --token in 'serve'; use --api-key; (auth) failed; ('key', 'value'); d = {'secret', 'open'}",
        "author=('Ada', 'Lovelace'); /bottom/3; see /webhooks/ for more; sessions: 12; obsession: chess2024pieces",
        "",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "piece",
    ["a", "token ", "secret ", "://", "bearer ", "sk-", "?key=", "-", "api key ", "authorization ", "eyJ", "1",
     "cookie: ", "cookie:a=", "--", "--key ", "-u ", "auth=('", "password='a ",
     "key','", "-----BEGIN PRIVATE KEY-----", "session_"],
)  # fmt: skip
def test_long_messages_take_no_time(piece: str) -> None:
    assert_linear(redact, lambda size: piece * size, 20_000, seconds=2)


PIECES = [
    "sk-", "ghp_", "AKIA", "eyJ", "Authorization", "Bearer", "BASIC", "api_key", "Secret", "passwd", "token", "://",
    "=", "credential", "?sig=", "user:pw@", ":", " ", "\n", "a1b2c3d4e5f6", "x" * 20, "\u017fecret", "\u212aey", "'",
    "-", "cookie", "pwd", "hvs.", "session", "PRIVATE KEY-----", "-----BEGIN ",
    "--token ", "-u ", "/bot1:", "('", "','", "auth=",
]  # fmt: skip


def test_a_key_that_another_one_runs_into_is_blanked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", frozenset({"known-to-the-run"}))
    assert redact("refused: known-to-the-runsk-abcd1234efgh") == "refused: ******"


@given(st.lists(st.sampled_from(PIECES), max_size=8))
def test_no_pattern_is_left_out_that_would_have_matched(parts: list[str]) -> None:
    text = "".join(parts)
    for _ in range(2):
        text = blank(
            text, [(found.end(1), found.end()) for *_, pattern in PATTERNS for found in pattern.finditer(text)]
        )
    assert redact("".join(parts)) == text
