"""The phrases that `screening` looks for, as regular expressions without case, one alternative a line.

English first, then Chinese, Japanese, Korean, Spanish, Portuguese, Italian, French, German, Dutch, Polish, Turkish,
Vietnamese, Russian, Arabic and Hindi. A phrase is a request; its words alone, in a condition or a warning, are none.
"""

# ruff: noqa: RUF001 (letters of other scripts are what this is about)
from __future__ import annotations

__all__ = [
    "ADDRESSES", "COMMANDS", "CREDENTIALS", "DESCRIBED", "ENCODED", "IGNORE", "NEGATIONS", "PERSONAS", "REVEAL",
    "SECRETS",
]  # fmt: skip

ADDRESSES = (
    r"\b[a-z][a-z0-9+.-]{1,20}://\S{1,60}",
    r"\bhxxps?\b\S{0,60}",
    r"\b(?:javascript|vbscript|mailto):\S{1,60}|\bdata:[\w.+-]{1,40}/[\w.+-]{1,40}[;,]\S{1,60}",
    r"(?<![\w:/])//[\w-]+(?:\.[\w-]+)+/\S{0,60}|\b[\w-]{2,63}\.[a-z]{2,10}:\d{2,5}/\S{0,60}",
    r"\bwww\d?\.[\w-]{1,60}",
    r"[\w.+-]{1,60}@[\w-]{1,60}\.[\w.-]{2,60}",
    # Few names without a path: `logger.info`, `page.click` and `np.int` are code.
    r"\b(?!(?:asp|vb|ado|system)\.net\b)[\w-]{2,63}\.(?:com|org|net|edu|gov|mil|biz|xyz|onion|ru|cn)\b(?!\()",
    r"\b(?:[\w-]{1,63}\.){1,5}(?:com|org|net|edu|gov|mil|int|info|biz|xyz|top|site|online|shop|club|link|click|"
    r"onion|ru|cn|tk|io|ai|co|me|sh|ly|gg|to|uk|de|fr|jp|kr|in|br|eu|us|ws|app|dev|cloud)(?::\d{2,5})?/[\w?=&%.-]{1,60}",
    r"\b[\w-]{2,63}\s?(?:\[\.\]|\[dot\]|\(dot\)|\(\.\))\s?[a-z]{2,10}\b",
    r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.]*\d)",
    r"(?<![\w:])(?=[0-9:]{0,40}[a-f])(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}\b",
    r"\b(?:0x[0-9a-f]{40}|bc1[a-z0-9]{25,60})\b",
)
"""URLs, hosts, mail, IP and wallet addresses, also defanged ones."""

COMMANDS = (
    r"\b(?:curl|wget)\s+(?:-|[\x22'$]|[\w-]+[.:/])\S*",
    r"\|\s*(?:sudo\s+)?(?:ba|z|k|da)?sh\b",
    r"\bsudo\s+(?!access|rights|permission|privilege|password|user|group)[\w-]+",
    r"\brm\s+-\w*[rf]\w*",
    r"\b(?:ssh|scp|sftp|rsync)\s+(?:-\w+\s+)*\S+[@:]\S+",
    r"\b(?:nc|netcat|ncat)\s+-\w+",
    r"\bchmod\s+[+\d]\S*",
    r"\b(?:pip3?|npm|pnpm|yarn|brew|gem|cargo|apt|apt-get)\s+(?:-\S+\s+)*(?:install|add)\s+(?!error|issue|problem|fail|hang|question|ticket|command)\S+",
    r"\bgit\s+clone\s+\S*[/:@]\S*|\bgit\s+push\s+(?:-\S+|origin\b|upstream\b)",
    r"\b(?:ba|z)?sh\s+-c\b",
    r"\bpython3?\s+-c\b",
    r"\bpowershell\b.{0,20}\s-\w+",
    r"\bcmd(?:\.exe)?\s+/c\b",
    r"\binvoke-(?:webrequest|expression)\b",
    r"\biex\s*\(",
    r"\bos\.(?:system|popen)\s*\(|\bos\.environ\b",
    r"\$\((?:curl|wget|cat|bash|sh|nc)\b",
    r"\|\s*(?:nc|netcat|ncat|telnet)\b|\btelnet\s+[\w-]+\.\S+|\bdocker\s+run\s+-",
    r"\bsubprocess\.\w+\s*\(",
    r"\b__import__\s*\(",
    r"\bchild_process\b",
    r"/etc/(?:passwd|shadow)\b",
    r"~/\.(?:ssh|aws|netrc)\b",
    r"\bbase64\s+(?:-d|--decode)\b",
    r">\s*/dev/tcp/",
    r"\bcrontab\s+-",
)
"""Commands of a shell, and calls that start one."""

ENCODED = (
    r"(?-i:(?<![\w+/-])(?=[\w+/-]{0,60}[a-z])(?=[\w+/-]{0,60}[A-Z])(?=[\w+/-]{0,60}[0-9])[A-Za-z0-9+/_-]{40,}={0,2})",
    r"\b[0-9a-f]{40,}\b",
)
"""Long runs of base64 or hexadecimal digits."""

CREDENTIALS = (
    r"(?-i:\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}|\bgh[pousr]_\w{20,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b)",
    r"\beyj[\w-]{8,}\.[\w-]{2,}",
    r"\bbearer\s+(?=\S*\d)[\w.+/=-]{8,}",
    r"\b(?:api[_-]?key|secret|token|passw(?:or)?d|pwd)\s*[=:]\s*(?=\S*\d)[\w+/-]{6,}",
)
"""Keys, tokens and passwords themselves."""

SECRETS = (
    r"\b(?:ask|request|demand|requir|collect|obtain|enter|typ|send|shar|includ|reveal|print|output|provid|giv|"
    r"tell|show|log|return|append|post|upload|forward|email|submit|disclos|leak|expos|confirm|read|steal|sav|"
    r"stor)(?:e|ing)?\b\s+(?:[\w'\u2019]+[\s,]+){0,6}?(?:pass(?:word|code|phrase)s?|api[\s_-]?keys?|(?:secret|"
    r"private|ssh|encryption|access|signing)[\s_-]keys?|(?:access|auth\w*|bearer|session|refresh)[\s_-]tokens?|"
    r"login details|credentials?|(?:seed|recovery) phrases?|"
    r"(?:session|auth|browser) cookies|(?:credit|debit|bank)[\s-]?card numbers?|cvv|"
    r"social security numbers?|ssn|one-time codes?|otp|2fa codes?|verification codes?|environment variables|env "
    r"vars|\.env\b)(?!['\u2019]?s?\s*(?:reset|chang|recover|polic|issue|problem|field|expir|lock|rotat|manager|"
    r"request|link|help|last))",
    r"(?:发送|提供|索要|输入|询问|要求|告诉|透露|發送|輸入|詢問).{0,10}(?:密码|密碼|密钥|密鑰|口令|令牌|验证码|驗證碼)",
    r"(?:パスワード|秘密鍵|認証情報|暗証番号).{0,8}(?:送信|尋ね|聞い|入力させ|教え|要求|表示)",
    r"비밀번호.{0,8}(?:물어|요청|보내|알려|요구)",
    r"\b(?:pide|solicit\w+|env[ií]\w+|compart\w+|pe[çc]a|demand\w+|envo\w+|partag\w+).{0,20}(?:contraseña|senha|"
    r"mot de passe)",
    r"\b(?:frag\w*|send\w*|teil\w*|verrat\w*|forder\w*|nenn\w*).{0,30}(?:passw[oö]rt\w*|zugangsdaten|"
    r"kennw[oö]rt\w*)\b",
    r"(?:спроси|запроси|отправь|покажи|сообщи|раскро).{0,20}(?:парол|ключ доступа)",
)
"""A request for what gives access; what only names it, such as a password reset, is none."""

IGNORE = (
    r"\b(?:ignore|disregard|forget|override|bypass|discard|neglect|circumvent)\s+(?:about\s+)?(?:(?:all|any|every|"
    r"the|your|these|those|my|our|of)\s+){0,4}(?:previous|prior|above|earlier|preceding|foregoing|former|system|"
    r"original|initial|existing)\s+(?:\w+\s+)?(?:instructions?|prompts?|rules|guidelines?|directives?|safeguards?)\b",
    r"\b(?:ignore|disregard|forget|override|bypass|circumvent)\s+(?:all|your)\s+(?:(?:of|the|your|other|own|safety)"
    r"\s+){0,3}(?:instructions|prompts?|guidelines|safeguards)\b",
    r"\b(?:ignore|disregard|forget)\s+(?:everything|all|anything)\s+(?:\w+\s+){0,3}(?:above|before|said|told|"
    r"written)\b",
    r"\b(?:ignore|disregard|forget)\s+(?:all\s+)?(?:the\s+|your\s+)?(?:instructions|prompt|rules|guidelines)\s+(?:above|before)\b",
    r"\b(?:previous|prior|above|earlier|system|original)\s+(?:instructions?|prompts?)\s+(?:\w+\s+){0,2}(?:no "
    r"longer|void|obsolete|outdated|superseded|cancell?ed|(?:not|n['\u2019]t)\s+apply)",
    r"(?:忽略|忽视|忽視|无视|無視|忘记|忘記|不要理会|不用管|绕过|繞過).{0,10}(?:指令|指示|提示|规则|規則|要求|设定|說明|说明)",
    r"(?:以前|これまで|前|上記|上|すべて|全て|元|システム)の.{0,10}(?:指示|命令|プロンプト|ルール|規則).{0,8}(?:無視|忘れ|従わな)",
    r"(?:이전|앞선|앞의|위의|기존|모든|지금까지).{0,12}(?:지시|명령|프롬프트|규칙|지침).{0,8}(?:무시|잊)",
    r"\b(?:ignor\w+|olvid\w+|omit\w+|esque\w+|desconsider\w+|dimentic\w+|haz caso omiso).{0,24}(?:instru[cç]\w+|"
    r"istruzion\w+|indicaciones|reglas|regras|regole|órdenes|ordens).{0,16}(?:anterior\w+|previ\w+|prévi\w+|"
    r"precedent\w+|arriba|acima|sistema)",
    r"\b(?:ignor\w+|oubli\w+|néglig\w+|tiens pas compte|tenez pas compte).{0,24}(?:instructions|consignes|règles|"
    r"directives).{0,16}(?:précédent\w+|antérieur\w+|ci-dessus|système)",
    r"\b(?:ignorier\w*|vergiss|vergesst|missacht\w*|übergeh\w*|negeer|vergeet).{0,24}(?:vorherig\w*|vorig\w*|"
    r"bisherig\w*|obig\w*|früher\w*|alle\w*|eerdere|vorige).{0,16}(?:anweisung\w*|instruktion\w*|instructies|"
    r"regel\w*|befehl\w*|vorgabe\w*|prompt\w*)",
    r"\b(?:zignoruj|ignoruj|zapomnij).{0,24}(?:instrukcj\w+|polece\w+|zasad\w*)",
    r"(?:önceki|yukarıdaki|tüm).{0,16}(?:talimat|kural|komut)\w*.{0,10}(?:yok say|unut|görmezden)",
    r"bỏ qua.{0,24}(?:hướng dẫn|chỉ dẫn|lệnh|quy tắc)",
    r"(?:игнориру|проигнориру|забуд|отброс|не обращай внимания).{0,28}(?:инструкц|указани|правил|команд|промпт)",
    r"(?:تجاهل|انس|أهمل|اهمل).{0,24}(?:التعليمات|الأوامر|القواعد|الإرشادات)",
    r"(?:पिछले|पूर्व|ऊपर|सभी).{0,16}(?:निर्देश|आदेश|नियम).{0,16}(?:अनदेखा|भूल|नज़रअंदाज़|नजरअंदाज)",
)
"""'Ignore what you were told before.'"""

REVEAL = (
    r"\b(?:reveal|print|show|repeat|output|display|leak|disclose|expose|quote|recite|dump|share|send|return|tell|"
    r"copy|translate|summari[sz]e|include|append|write)(?:ing)?\s+(?:\w+\s+){0,4}?(?:(?:system|developer|hidden|"
    r"initial|secret)[\s-]+(?:prompt|message|instructions?)|(?:your|these)\s+(?:own\s+|full\s+|hidden\s+|"
    r"original\s+)?(?:instructions|prompt|guidelines))\b",
    r"\b(?:repeat|print|output|show)\s+(?:everything|the (?:text|words|message))\s+above\b",
    r"(?:透露|泄露|洩露|输出|輸出|显示|顯示|打印|重复|告诉|展示|公开|公開).{0,10}(?:系统提示|系統提示|系统指令|提示词|提示詞|隐藏指令)",
    r"システムプロンプト.{0,10}(?:表示|出力|開示|公開|教え|明か|漏ら|示)",
    r"시스템\s?프롬프트.{0,10}(?:공개|출력|보여|알려|표시|드러)",
    r"\b(?:revel\w+|muestr\w+|mostr\w+|imprim\w+|repit\w+|divulg\w+|rivel\w+|affich\w+|montr\w+|révèl\w+|"
    r"répèt\w+).{0,24}(?:prompt|mensaje|mensagem|messag\w+|instruc\w+|istruzioni|invite)\s+(?:del?\s|do\s|di\s|"
    r"du\s)?(?:sistema|système)",
    r"\b(?:verrat\w*|zeig\w*|gib|offenbar\w*|wiederhol\w*|nenn\w*|toon).{0,24}(?:system-?\s?prompt|"
    r"systemnachricht|systemanweisung\w*)",
    r"(?:покажи|раскро|выведи|сообщи|повтори).{0,24}системн\w*\s(?:промпт|сообщени|инструкц|подсказк)",
    r"(?:اكشف|أظهر|اظهر|اعرض|اطبع).{0,20}(?:موجه النظام|تعليمات النظام|رسالة النظام)",
)
"""'Show the system prompt.'"""

PERSONAS = (
    r"\byou are (?:now|no longer)\s+(?:a|an|in|the|bound|restricted|dan)\b",
    r"\b(?:enter|enable|activate|in|switch to)\s+(?:developer|god|dan|unrestricted|jailbreak) mode\b",
    r"\bjailbreak",
    r"\bdo anything now\b",
    r"\bpretend (?:that )?(?:you|to be)\b",
    r"\bnew (?:system )?instructions?\s*:",
    r"\bfrom now on,? you\b",
)
"""Another role, or no rules."""

NEGATIONS = (
    r"\b(?:never|not|cannot|refus\w+ to|declin\w+ to|avoid|without|instead of|rather than|stop|nor|ne|nie|niemals|"
    r"nunca|n\u00e3o|no|\u043d\u0435)\b",
    r"n['\u2019]t\b",
    r"\u4e0d\u8981",
    r"\u4e0d\u5f97",
    r"\u8bf7\u52ff",
    r"\u5207\u52ff",
    r"\u7981\u6b62",
    r"\u522b",
)
"""What forbids the request that follows."""

DESCRIBED = (
    r"\b(?:users?|customers?|clients?|callers?|people|they|who|that|tickets?|messages?|requests?|e?-?mails?|"
    r"texts?|pages?|documents?|results?|attackers?|someone|anyone|it)(?:\s+(?:may|might|will|can|could|would|try "
    r"to|tries to))?\s+$",
)
"""Who else makes the request: 'when users share credentials' describes."""
