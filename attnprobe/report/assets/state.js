// The state of the page, which its address holds, and its words.

const element = (id) => document.getElementById(id);
const PAGE_SIZE = 25;
const FILTERS = ["id", "task", "split", "style", "passed"];
const OUTCOMES = { passed: true, failed: false, unscored: null };

const source = document.querySelector('meta[name="attnprobe-source"]').content === "embedded"
  ? embeddedSource() : servedSource();
const WORDS = JSON.parse(document.querySelector('script[data-piece="words"]').textContent);

const state = {
  layer: null, head: null, view: "difference", record: null, by: "attention", at: "head", step: null,
  lang: null, theme: "auto", page: 0, filters: Object.fromEntries(FILTERS.map((name) => [name, ""])),
};
let overview, records, maps, words, sides = [], current = null, order = 0;

// The address holds the view, so that a link reopens it.
function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const whole = (text) => (/^\d{1,6}$/.test(text ?? "") ? Number(text) : null);
  const [layer, head] = (asked.get("head") ?? "").split(".").map(whole);
  const there = overview.run.layers.includes(layer) && overview.run.heads.includes(head);
  [state.layer, state.head] = there ? [layer, head] : strongest()[0] ?? [overview.run.layers[0], overview.run.heads[0]];
  state.view = asked.get("view") ?? "difference";
  state.record = records.id.includes(asked.get("record")) ? asked.get("record") : null;
  state.by = asked.get("by") ?? "attention";
  state.at = asked.get("at") ?? "head";
  const step = (asked.get("step") ?? "").split(".").map(whole);
  state.step = step.length === 2 && !step.includes(null) ? step : null;
  const preferred = navigator.language?.startsWith("zh") ? "zh" : "en";
  state.lang = asked.get("lang") in WORDS ? asked.get("lang") : preferred;
  state.theme = ["light", "dark"].includes(asked.get("theme")) ? asked.get("theme") : "auto";
  state.page = whole(asked.get("page")) ?? 0;
  for (const name of FILTERS) state.filters[name] = asked.get(`f.${name}`) ?? "";
}

function writeAddress() {
  const said = new URLSearchParams({ head: `${state.layer}.${state.head}` });
  if (state.view !== "difference") said.set("view", state.view);
  if (state.record !== null) said.set("record", state.record);
  if (state.by !== "attention") said.set("by", state.by);
  if (state.at !== "head") said.set("at", state.at);
  if (state.step) said.set("step", state.step.join("."));
  said.set("lang", state.lang);
  if (state.theme !== "auto") said.set("theme", state.theme);
  if (state.page) said.set("page", state.page);
  for (const name of FILTERS) if (state.filters[name]) said.set(`f.${name}`, state.filters[name]);
  history.replaceState(null, "", `#${said}`);
}

// Words.
const filled_in = (template, values) =>
  template.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)} %`);

function applyWords() {
  words = WORDS[state.lang];
  document.documentElement.lang = state.lang === "zh" ? "zh-CN" : "en";
  for (const place of document.querySelectorAll("[data-word]")) place.textContent = words[place.dataset.word];
  for (const place of document.querySelectorAll("[data-label]")) place.setAttribute("aria-label", words[place.dataset.label]);
  for (const button of document.querySelectorAll(".csv")) {
    button.textContent = "CSV";
    button.title = words.download;
    button.setAttribute("aria-label", `${words.download}: ${words[`csv_${button.dataset.csv}`]}`);
  }
}

const darkScheme = matchMedia("(prefers-color-scheme: dark)");
function applyTheme() {
  const dark = state.theme === "dark" || (state.theme === "auto" && darkScheme.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

// Small parts of the page.
const fillSelect = (select, entries, chosen) => {
  select.replaceChildren(...entries.map(([value, text]) => make("option", { value, textContent: text })));
  select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
};

const fillFacts = (list, facts) => list.replaceChildren(...facts.flatMap(([name, value]) =>
  [make("dt", { textContent: name }), make("dd", { textContent: value })]));

const flat = (value) =>
  value === null ? "–" : Array.isArray(value) ? value.map(flat).join(", ")
    : typeof value === "object" ? Object.entries(value).map(([name, inner]) => `${name}: ${flat(inner)}`).join(" · ") : String(value);

function tableOf(columns, rows) {
  const line = (cells, tag) => make("tr", {}, ...cells.map((cell, i) => {
    const box = make(tag, { className: columns[i].number ? "number" : "" });
    box.append(cell);
    return box;
  }));
  return make("table", {}, make("thead", {}, line(columns.map((column) => column.name), "th")),
    make("tbody", {}, ...rows.map((row) => line(row, "td"))));
}

const outcomeOf = (place) => {
  const passed = records.passed[place];
  return passed === null ? "–" : make("span", { className: passed ? "passed" : "failed", textContent: passed ? `✓ ${words.passed}` : `✗ ${words.failed}` });
};
