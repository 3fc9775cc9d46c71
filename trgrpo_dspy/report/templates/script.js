"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = JSON.parse($("#data").textContent);
  const text = (number) => data.texts[number] ?? "";

  // Everything shown is data: elements are made one by one, and a text only ever becomes a text node.
  const el = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== undefined) node.setAttribute(name, value);
    node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return node;
  };
  const datum = (tag, value, attributes = {}) => el(tag, { dir: "auto", ...attributes, class: `data ${attributes.class ?? ""}` }, value);

  // -- theme -----------------------------------------------------------------------------------------------------
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const button = $("#theme");
  const say = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colours`); };
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; say(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", say);
  say();

  // -- where the reader is ---------------------------------------------------------------------------------------
  const links = new Map(all(".bar nav a").map((link) => [link.getAttribute("href").slice(1), link]));
  const watcher = new IntersectionObserver((seen) => {
    const top = seen.filter((one) => one.isIntersecting).map((one) => one.target.id)[0];
    if (!top) return;
    for (const link of links.values()) link.removeAttribute("aria-current");
    links.get(top)?.setAttribute("aria-current", "true");
  }, { rootMargin: "-15% 0px -75% 0px" });
  all("main > section").forEach((section) => watcher.observe(section));

  // -- examples by step ------------------------------------------------------------------------------------------
  all("[data-grid]").forEach((panel) => {
    const rows = all("tbody tr", panel), buttons = all(".chips button", panel), found = $("[role=status]", panel);
    buttons.forEach((chip) => chip.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === chip)));
      rows.forEach((row) => { row.hidden = chip.value !== "" && row.dataset.state !== chip.value; });
      found.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} examples`;
      enter();
    }));
    // One stop for the Tab key; arrows go from cell to cell.
    const shown = () => rows.filter((row) => !row.hidden).map((row) => all("a.cell", row));
    const enter = () => { all("a.cell", panel).forEach((cell) => { cell.tabIndex = -1; }); shown().flat().slice(0, 1).forEach((cell) => { cell.tabIndex = 0; }); };
    enter();
    panel.addEventListener("mouseover", (event) => { if (event.target.matches("a.cell")) event.target.title = event.target.getAttribute("aria-label"); });
    panel.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step || !event.target.matches("a.cell")) return;
      const grid = shown(), y = grid.findIndex((row) => row.includes(event.target)), x = grid[y].indexOf(event.target);
      const line = grid[Math.min(grid.length - 1, Math.max(0, y + step[0]))];
      const next = line[Math.min(line.length - 1, Math.max(0, x + step[1]))];
      event.preventDefault(); event.target.tabIndex = -1; next.tabIndex = 0; next.focus();
    });
  });

  // -- one group -------------------------------------------------------------------------------------------------
  const number = new Map(data.groups.map((group, index) => [group.link, index]));
  const chooser = $("#choose");
  const format = (score) => (score === null ? "unscored" : Math.abs(score) < 10 ? score.toFixed(3).replace(/\.?0+$/, (zeros) => (zeros[0] === "." ? ".0" : "")) : String(Number(score.toPrecision(4))));

  const attempt = (one, best) => {
    const failed = one.error !== 0 || /error|window|infrastructure/.test(one.outcome);
    const part = (title, value, tag = "div", attributes = {}) => (value ? [el("h5", {}, title), datum(tag, text(value), attributes)] : []);
    const shown = text(one.shown).split(" ").filter(Boolean);
    const folded = (title, ...content) => el("details", {}, el("summary", {}, title), ...content);
    const many = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
    const spent = [many(one.calls, "LM call"), one.tools ? many(one.tools, "tool call") : null, many(one.tokens, "token"), one.cost === null ? null : `$${one.cost.toFixed(4)}`, one.seconds ? `${one.seconds} s` : null];
    return el("article", { class: `attempt ${failed ? "failed" : one.score !== null && one.score === best ? "best" : ""}` },
      el("header", {}, el("h4", {}, `Attempt ${one.attempt + 1}`), el("span", { class: "points" }, one.score === null ? "–" : format(one.score))),
      el("p", { class: "small muted" }, one.outcome.replaceAll("_", " ") + (one.score === null && one.outcome !== "label_free" ? ", unscored" : "")),
      ...part("Answer", one.answer), ...part("Feedback", one.feedback), ...part("Error", one.error), ...part("Summary for the comparison", one.summary),
      ...(one.transcript ? [el("h5", {}, "Transcript"), datum("pre", text(one.transcript), { tabindex: "0", role: "region", "aria-label": `Transcript of attempt ${one.attempt + 1}` })] : []),
      el("h5", {}, "Shown of the library"),
      shown.length ? folded(`${shown.length} ${shown.length === 1 ? "entry" : "entries"}`, el("p", { class: "refs small" }, ...shown.flatMap((id) => [entryLink(id), " "]))) : el("p", { class: "small muted" }, "nothing"),
      el("p", { class: "meta" }, spent.filter(Boolean).join(" · ")));
  };
  const entryLink = (id) => ($(`#entry-${CSS.escape(id)}`) ? el("a", { href: `#entry-${id}` }, id) : id);
  const folds = (list, node) => (list.length > 4 ? el("details", {}, el("summary", {}, `${list.length} edits`), node) : node);
  const edits = (title, list, tone, reason) => (list && list.length ? [el("h4", {}, title), folds(list, el("ul", { class: "edits" }, ...list.map((edit) => el("li", {},
    el("span", { class: `chip ${tone}` }, edit.operation), edit.id ? el("span", { class: "chip id" }, entryLink(edit.id)) : "",
    edit.targets ? el("span", { class: "chip" }, `for ${edit.targets}`) : "", datum("span", text(edit.text)),
    reason && edit.reason ? el("p", { class: "small muted" }, "Refused: ", datum("span", text(edit.reason))) : ""))))] : []);

  const show = (link) => {
    const group = data.groups[number.get(link)];
    if (!group) return false;
    const scores = group.attempts.map((one) => one.score).filter((score) => score !== null);
    const mixed = Math.max(...scores) > Math.min(...scores);
    const taught = { contrast: "Teaches by contrast: some attempts beat others.", mistakes: "Teaches by mistakes: all attempts fell short.", answers: "Teaches by answers: the attempts disagree.", "": "Nothing was to be learned from it." }[group.teaches];
    const learned = [
      ...(group.comparison ? [el("h4", {}, "Comparison"), datum("div", text(group.comparison), { class: "quote", tabindex: "0", role: "region", "aria-label": "Comparison" })] : []),
      ...(group.with ? [el("h4", {}, "Comparison"), el("p", {}, "Compared together with ", el("a", { href: `#${group.with}` }, data.groups[number.get(group.with)].title), ", where it stands.")] : []),
      ...edits("Proposed by the comparison", group.proposed, ""), ...edits("Took effect, with this example among their sources", group.applied, "good"),
      ...edits("Refused", group.refused, "bad", true),
      ...(group.lost && group.lost.length ? [el("h4", {}, "Replies that could not be used"), el("ul", { class: "list" }, ...group.lost.map((one) => datum("li", text(one))))] : [])];
    $("#shown").replaceChildren(
      el("h3", { id: "shown-title", tabindex: "-1" }, group.title), group.teaches === undefined ? "" : el("p", { class: "small muted" }, taught ?? group.teaches),
      el("div", { class: "pair" }, el("div", {}, el("h4", {}, "Task"), datum("div", text(group.task), { class: "quote", tabindex: "0", role: "region", "aria-label": "Task" })),
        el("div", {}, el("h4", {}, "Expected"), group.expected ? datum("div", text(group.expected), { class: "quote" }) : el("p", { class: "muted" }, "no label"))),
      el("div", { class: `attempts ${group.attempts.some((one) => text(one.transcript).length > 700) ? "long" : ""}`, role: "group", "aria-label": "Attempts side by side", tabindex: "0" }, ...group.attempts.map((one) => attempt(one, mixed ? Math.max(...scores) : undefined))),
      el("div", { class: "stack" }, ...learned));
    $("#showing").textContent = `Showing ${group.title}, ${group.attempts.length} attempts`;
    chooser.value = link;
    $("#before").disabled = number.get(link) === 0;
    $("#after").disabled = number.get(link) === data.groups.length - 1;
    return true;
  };
  if (chooser) {
    chooser.append(...data.groups.map((group) => {
      const scores = group.attempts.map((one) => one.score).filter((score) => score !== null);
      const mean = scores.length ? format(scores.reduce((sum, score) => sum + score, 0) / scores.length) : "unscored";
      return el("option", { value: group.link }, `${group.title}: ${mean}${group.teaches ? `, ${group.teaches}` : ""}`);
    }));
    const go = (link) => { history.replaceState(null, "", `#${link}`); show(link); };
    const move = (by) => { const next = data.groups[number.get(chooser.value) + by]; if (next) go(next.link); };
    chooser.addEventListener("change", () => go(chooser.value));
    $("#before").addEventListener("click", () => move(-1));
    $("#after").addEventListener("click", () => move(1));
    const follow = () => {
      const link = decodeURIComponent(location.hash.slice(1));
      if (!number.has(link)) return false;
      show(link); $("#group").scrollIntoView(); $("#shown-title").focus({ preventScroll: true });
      return true;
    };
    addEventListener("hashchange", follow);
    if (!follow() && data.groups.length) show((data.groups.find((group) => group.teaches === "contrast" && group.applied.length) ?? data.groups[0]).link);
    // A cell whose group is shown already changes no address.
    document.addEventListener("click", (event) => { const cell = event.target.closest?.("a[href^='#g-'], a[href^='#v-']"); if (cell && cell.hash === location.hash) follow(); });
  }

  // -- library ---------------------------------------------------------------------------------------------------
  const list = $("#entries");
  if (list) {
    const items = all(":scope > li", list), query = $("#query"), status = $("#status"), order = $("#order"), found = $("#found");
    const words = new Map(items.map((item) => [item, $(".text", item).textContent.toLowerCase() + " " + item.dataset.id.toLowerCase() + " " + (item.dataset.targets ?? "").toLowerCase()]));
    const filter = () => {
      const wanted = query.value.toLowerCase().split(/\s+/).filter(Boolean);
      items.forEach((item) => { item.hidden = !(item.dataset.status.split(" ").includes(status.value) || status.value === "all") || !wanted.every((word) => words.get(item).includes(word)); });
      const key = { number: (item) => Number(item.dataset.id.slice(1)), support: (item) => -Number(item.dataset.support), against: (item) => -Number(item.dataset.against), changed: (item) => -Number(item.dataset.changed) }[order.value];
      list.append(...[...items].sort((a, b) => key(a) - key(b)));
      found.textContent = `${items.filter((item) => !item.hidden).length} of ${items.length} entries`;
    };
    [query, status, order].forEach((control) => control.addEventListener("input", filter));
    filter();
    const reveal = () => { const item = document.getElementById(decodeURIComponent(location.hash.slice(1))); if (item && items.includes(item)) { if (item.hidden) { query.value = ""; status.value = "all"; filter(); } item.scrollIntoView(); $("details", item)?.setAttribute("open", ""); } };
    addEventListener("hashchange", reveal);
    reveal();
  }

  // -- difference of two libraries -------------------------------------------------------------------------------
  const marked = (a, b) => {
    const before = a.split(/(\s+|[,.;:()'"]+)/).filter(Boolean), after = b.split(/(\s+|[,.;:()'"]+)/).filter(Boolean);
    if (before.length * after.length > 250000) return [el("del", {}, a), " ", el("ins", {}, b)];
    const table = Array.from({ length: before.length + 1 }, () => new Uint16Array(after.length + 1));
    for (let i = before.length - 1; i >= 0; i--) for (let j = after.length - 1; j >= 0; j--) table[i][j] = before[i] === after[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
    const parts = [];
    const put = (tag, word) => { const last = parts[parts.length - 1]; if (last && last[0] === tag) last[1] += word; else parts.push([tag, word]); };
    let i = 0, j = 0;
    while (i < before.length || j < after.length) {
      if (i < before.length && j < after.length && before[i] === after[j]) { put("span", before[i]); i++; j++; }
      else if (j >= after.length || (i < before.length && table[i + 1][j] >= table[i][j + 1])) put("del", before[i++]);
      else put("ins", after[j++]);
    }
    return parts.map(([tag, words]) => el(tag, {}, words));
  };
  // Marked when a history is opened first: a long run has thousands of changes.
  all("#entries details").forEach((details) => details.addEventListener("toggle", () => all(".change", details).forEach((change) => {
    change.replaceChildren(...marked($("del", change).textContent, $("ins", change).textContent));
  }), { once: true }));
  const from = $("#from"), to = $("#to");
  if (from) {
    const compare = () => {
      const [a, b] = [from, to].map((select) => new Map(data.libraries[select.value].map((entry) => [entry.id, entry])));
      const lines = [];
      const line = (tone, what, id, ...content) => lines.push(el("li", {}, el("span", {}, el("span", { class: `chip ${tone}` }, what)), el("span", {}, entryLink(id)), el("div", { class: "data", dir: "auto" }, ...content)));
      for (const [id, entry] of a) if (!b.has(id)) line("bad", "removed", id, el("del", {}, text(entry.text)));
      for (const [id, entry] of a) {
        const other = b.get(id);
        if (other && (other.text !== entry.text || other.targets !== entry.targets || other.pinned !== entry.pinned)) line("", "changed", id, ...marked(text(entry.text), text(other.text)), other.targets === entry.targets ? "" : ` (for ${other.targets || "all"}, was for ${entry.targets || "all"})`);
      }
      for (const [id, entry] of b) if (!a.has(id)) line("good", "added", id, text(entry.text));
      $("#difference").replaceChildren(...(lines.length ? lines : [el("li", {}, el("span", { class: "muted" }, "No difference."))]));
      const count = (what) => lines.filter((item) => $(".chip", item).textContent === what).length;
      $("#differs").textContent = `${count("added")} added, ${count("changed")} changed, ${count("removed")} removed`;
    };
    [from, to].forEach((select) => select.addEventListener("input", compare));
    compare();
  }
})();
