"""Sixty pieces of advice as people and models write them: markup, code, math, tables and many scripts."""

# ruff: noqa: RUF001 (look-alikes are what some of this is about)
from __future__ import annotations

LESSONS = tuple(
    """
Wrap the final value in <result></result> tags.
Close every <b> with </b>; never nest <i> inside <code>.
Write '## Summary' as the heading, then '### Risks' below it.
## Headings first, details after
Put code into ```python fences``` and the shell's output into ```text fences```.
Use `inline code` for names and **bold** for warnings, *never* both.
Type the argument as List[S], the result as dict[str, list[int]].
Prefer Map<String, List<T>> to raw types; in C++ write std::vector<std::pair<int, int>>.
Use f(x) <| g when piping backwards, x |> f otherwise.
Read arr[i][j] as row i, column j; arr[[1, 2], [3, 4]] picks pairs.
In matrices such as [[1, 2], [3, 4]] the rows come first.
Link pages as [[Page#section]] and files as [text](path/to/file.md).
Answer with JSON such as {"queue": "billing", "confidence": 0.9}, keys in this order.
Return [] for no match, [null] for an empty one and {} for no rule.
Escape quotes in JSON: "say \\"hi\\"", and a backslash as \\\\.
When the table is | id | name | sum |, take the third column.
Rows of dashes like |---|---:| separate a header from its table.
A line of --- in Markdown ends a section; === underlines a title.
YAML front matter stands between two lines of ---.
When x < 5 and y > 3, choose a; when x <= 5 or y >= 3, choose b.
Solve for x: x^2 - 5x + 6 = 0 gives x = 2 or x = 3; check both.
$E = mc^2$ stays inline; \\[ \\int_0^1 x\\,dx = \\tfrac{1}{2} \\] goes on its own.
For ∑ᵢ xᵢ² ≤ n·max(xᵢ)² the bound is tight when all xᵢ agree.
If ∀ε>0 ∃δ>0: |x−a|<δ ⇒ |f(x)−L|<ε, then say 'continuous'.
Convert 10 km to 10 000 m before dividing by 3.6 s.
Use SELECT COUNT(*) FROM t WHERE a <> 'x' -- never a != NULL.
In regexes write ^\\d{3}-[A-Z]+$ and not .*; escape \\. and \\[.
Use `git rebase --onto main`, never --force, when the branch is shared.
for (int i = 0; i < n; ++i) { sum += a[i]; } counts from 0 to n-1.
In Python use xs[-1] for the last item, xs[::-1] to reverse, and {**a, **b} to merge.
Set CSS as .a > .b { color: #fff; } with #ids only where needed.
Format dates as 2024-03-01T09:00:00Z, money as $1,234.50 or €1.234,50.
Replace {name} and {{amount}} in the template; leave %s and ${HOME} alone.
Chess: 1. e4 e5 2. Nf3 Nc6 3. Bb5 is the Ruy Lopez.
[x] means done, [ ] open, [~] unclear.
Entry [E3] wins over [E1] when both apply.
Step 1: read. Step 2: compare -> decide. Step 3: answer (A) or (B).
Don't write "ca. 5" or «about 5»; write 5 ± 1.
Mention <ticket-id> as a placeholder, never as a tag of your own.
Think inside <think> and </think>, then give one line.
当金额超过五百元时，选择“审批”；否则回答“账单”。
如果用户要求退款（七天以内），先询问订单号，再转给财务。
先列出方程，再检查单位：1公里＝1000米。
500ドルを超える返金なら「承認」を選び、それ以外は「請求」と答える。
敬語を使い、結論を先に述べる。例：「はい、可能です。」
ユーザーが　全角スペース　で区切るときは、そのまま残す。
환불 금액이 50만 원을 넘으면 '승인'을, 아니면 '청구'를 고르세요.
답은 한 문장으로, 존댓말로 쓰세요.
ถ้าจำนวนเงินเกิน 500 บาท ให้เลือก "อนุมัติ" มิฉะนั้นตอบ "เรียกเก็บเงิน"
عندما يتجاوز المبلغ 500 دولار، اختر «الموافقة»؛ وإلا فأجب «الفواتير».
اگر می‌خواهید مبلغ را برگردانید، نخست شمارهٔ سفارش را بپرسید.
כאשר הסכום גדול מ-500 ש״ח, בחר «אישור».
जब राशि ₹500 से अधिक हो, तो "अनुमोदन" चुनें।
Если сумма больше 500 ₽, выберите «Одобрение», иначе — «Счета».
Όταν το ποσό υπερβαίνει τα 500 €, διαλέξτε «έγκριση».
Wähle 'Genehmigung' über 500 €; sonst 'Rechnung' (außer bei Großkunden).
Réponds « oui » ou « non » ; n’ajoute rien après.
Use 👍🏽 for yes, 👩‍💻 for developers, 🏳️‍🌈 as it stands, ❤️‍🔥 never.
Keep flags whole: 🇪🇺, 🏴󠁧󠁢󠁥󠁮󠁧󠁿.
Hex colours like #FF8800 and C# or F# names keep their sign.
""".strip().splitlines()
)
