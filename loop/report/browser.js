"use strict";
// The sample browser. Samples are hostile text: they are only ever set by textContent, and never become HTML.
(() => {
  const PAGE = 30;
  const data = JSON.parse(document.getElementById("sample-data").textContent);
  const byId = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const SCRIPTS = { thai: "Thai", latin: "Latin script", "": "none" };
  const where = (answer) => (answer.r === null ? "SFT" : `round ${answer.r}`);
  const column = (answer) => (data.runs.length > 1 ? `${data.runs[answer.n]} · ${where(answer)}` : where(answer));
  const cards = data.cards.map((card) => ({
    ...card,
    text: [card.p, ...card.a.map((answer) => answer.t)].join("\n").toLowerCase(),
    defects: new Set(card.a.flatMap((answer) => answer.d || [])),
  }));
  const count = (values) => {
    const found = new Map();
    for (const value of values) found.set(value, (found.get(value) || 0) + 1);
    return [...found].sort((a, b) => b[1] - a[1]);
  };
  const fill = (select, all, values, name) => {
    if (all) select.append(new Option(all, ""));
    for (const [value, number] of values) {
      const option = new Option(`${name(value)} (${number})`, `=${value}`);
      select.append(option);
    }
  };
  const last = (card, score) => {
    const found = card.a.filter((answer) => score in answer.m);
    return found.length ? found[found.length - 1].m[score] : null;
  };
  const change = (card, score) => {
    const found = card.a.filter((answer) => score in answer.m && answer.n === 0);
    return found.length > 1 ? found[found.length - 1].m[score] - found[0].m[score] : null;
  };
  const scores = [...new Set(cards.flatMap((card) => card.a.flatMap((answer) => Object.keys(answer.m))))];
  const orders = [["as asked", null]];
  for (const score of scores) {
    orders.push([`lowest ${score}`, (card) => last(card, score), 1], [`highest ${score}`, (card) => last(card, score), -1]);
    orders.push([`${score} fell most`, (card) => change(card, score), 1], [`${score} rose most`, (card) => change(card, score), -1]);
  }

  const kinds = count(cards.map((card) => card.k)).sort((a, b) => a[0].localeCompare(b[0])); // held-out before labeled
  fill(byId("kind"), null, kinds, (kind) => kind);
  fill(byId("source"), "all", count(cards.map((card) => card.s)), (source) => source || "unnamed");
  fill(byId("language"), "all", count(cards.map((card) => card.l)), (script) => SCRIPTS[script] || script);
  fill(byId("defect"), "any answer", count(cards.flatMap((card) => [...card.defects])), (rule) => rule);
  orders.forEach(([name], number) => byId("order").append(new Option(name, String(number))));

  const reply = (answer, before) => {
    const box = make("article", "reply");
    const head = make("p", "where", column(answer));
    if (before !== undefined && before === answer.t) head.append(make("span", "same", "as before"));
    box.append(head);
    const text = make("div", "user", answer.t === "" ? "(empty)" : answer.t);
    text.dir = "auto";
    box.append(text);
    if (answer.o !== undefined) {
      const own = make("div", "user own", `${answer.q} → ${answer.o === "" ? "(empty)" : answer.o}`); // what the policy read and wrote
      own.dir = "auto";
      box.append(own);
    }
    const facts = make("ul");
    const [won, lost, tied] = answer.w || [0, 0, 0];
    if (won) facts.append(make("li", "won", `chosen ${won}×`));
    if (lost) facts.append(make("li", "lost", `rejected ${lost}×`));
    if (tied) facts.append(make("li", "", `tie ${tied}×`));
    for (const rule of answer.d || []) facts.append(make("li", "fires", rule.replaceAll("_", " ")));
    if (answer.u) facts.append(make("li", "fires", "not ended"));
    for (const [name, value] of Object.entries(answer.m)) {
      facts.append(make("li", "", `${name} ${name === "length" ? value : value.toFixed(2)}`));
    }
    box.append(facts);
    return box;
  };
  const show = (card) => {
    const element = make("div", "card");
    const prompt = make("p", "prompt user", card.p);
    prompt.dir = "auto";
    element.append(prompt, make("p", "meta", [card.s, SCRIPTS[card.l] || card.l, card.i].filter(Boolean).join(" · ")));
    const rows = new Map();
    for (const answer of card.a) {
      const row = card.k === "labeled" ? column(answer) : answer.n;
      if (!rows.has(row)) rows.set(row, []);
      rows.get(row).push(answer);
    }
    for (const answers of rows.values()) {
      const row = make("div", "row");
      row.tabIndex = 0;
      answers.forEach((answer, number) => {
        const before = number && card.k !== "labeled" ? answers[number - 1].t : undefined;
        row.append(reply(answer, before));
      });
      element.append(row);
    }
    return element;
  };

  let found = [];
  let shown = 0;
  const more = () => {
    const next = found.slice(shown, shown + PAGE);
    byId("cards").append(...next.map(show));
    shown += next.length;
    byId("more").replaceChildren();
    if (shown < found.length) {
      const button = make("button", "", `Show ${Math.min(PAGE, found.length - shown)} more of ${found.length - shown}`);
      button.type = "button";
      button.addEventListener("click", more);
      byId("more").append(button);
    }
  };
  const picked = (id) => (byId(id).value ? byId(id).value.slice(1) : null);
  const filter = () => {
    const words = byId("find").value.toLowerCase().trim();
    const [kind, source, language, defect] = ["kind", "source", "language", "defect"].map(picked);
    found = cards.filter(
      (card) =>
        (kind === null || card.k === kind) &&
        (source === null || card.s === source) &&
        (language === null || card.l === language) &&
        (defect === null || card.defects.has(defect)) &&
        (!words || card.text.includes(words)),
    );
    const [, value, sign] = orders[Number(byId("order").value)];
    if (value) {
      const [scored, others] = [true, false].map((has) => found.filter((card) => (value(card) !== null) === has));
      found = [...scored.sort((a, b) => sign * (value(a) - value(b))), ...others]; // those without the score come last
    }
    byId("found").textContent = `${found.length} prompt${found.length === 1 ? "" : "s"}, ${found.reduce((sum, card) => sum + card.a.length, 0)} answers`;
    byId("cards").replaceChildren();
    shown = 0;
    more();
  };
  byId("filters").addEventListener("input", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  filter();
})();
