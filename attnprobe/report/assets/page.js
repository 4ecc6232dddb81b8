// The page: its state, which the address holds, and what each control does.

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

// Verdict.
function drawVerdict() {
  const { contrast, measure, run, model } = overview;
  element("title").textContent = `attnprobe · ${overview.title}`;
  element("subtitle").textContent = filled_in(words.subtitle, {
    model: model.name ?? model.id ?? "?", n: run.records.sealed, items: run.items, layers: run.layers.length, heads: run.heads.length,
  });
  const path = measure.key ? `${measure.query} → ${measure.key}` : measure.query;
  element("headline").textContent = contrast
    ? filled_in(contrast.n_differ ? words.headline : words.headline_none, { ...contrast, measure: measure.name, path })
    : words.headline_without;
  element("verdict-lines").replaceChildren(...(contrast?.verdict ?? []).map((line) => make("p", { textContent: line })));
  const { scores } = overview;
  const rate = (row, which) => (row[`${which}_rate`] === null ? "–"
    : `${percent(row[`${which}_rate`])} (${Math.round(100 * row[`${which}_low`])}–${Math.round(100 * row[`${which}_high`])})`);
  element("scores").replaceChildren(...(scores.length ? [make("h3", { textContent: words.pass_rates }), make("p", { className: "hint", textContent: words.pass_rates_hint }), make("div", { className: "scroll" }, tableOf(
    [{ name: words.style }, { name: words.split }, { name: "n", number: true }, { name: words.fine, number: true }, { name: words.chance, number: true }, { name: words.coarse, number: true }, { name: words.chance, number: true }, { name: words.parsed, number: true }],
    scores.map((row) => [row.style, row.split, String(row.n), rate(row, "pass"), percent(row.chance), rate(row, "coarse"), percent(row.coarse_chance), percent(row.parsed)]),
  ))] : []));
  element("notices").replaceChildren(...overview.notices.filter((notice) => !notice.kind.startsWith("thinned")).map((notice) =>
    make("li", { className: "notice", textContent: filled_in(words[`notice_${notice.kind}`] ?? notice.kind, notice.values) })));
}

// Heads.
const effectAt = (name, layer, head) => {
  const { grid } = overview;
  const [row, column] = [grid.layers.indexOf(layer), grid.heads.indexOf(head)];
  return (name in (grid.effects ?? {}) ? grid.effects[name] : grid[name])?.[row]?.[column] ?? null;
};

function strongest(count = 8) {
  const { grid } = overview;
  if (!grid) return [];
  const rank = ([layer, head]) => [effectAt("p_adjusted", layer, head) ?? 2, -Math.abs(effectAt("g_z", layer, head) ?? effectAt("difference", layer, head) ?? grid.styles[0][grid.layers.indexOf(layer)][grid.heads.indexOf(head)] ?? 0)];
  return grid.layers.flatMap((layer) => grid.heads.map((head) => [layer, head]))
    .map((place) => [rank(place), place])
    .sort(([a], [b]) => a[0] - b[0] || a[1] - b[1]).slice(0, count).map(([, place]) => place);
}

function fillHeadControls() {
  const { styles, grid, run } = overview;
  const views = [...(grid?.difference ? [["difference", `${styles[0]} − ${styles[1]}`]] : []), ...styles.map((style, i) => [String(i), style])];
  if (!views.some(([value]) => value === state.view)) [[state.view]] = views;
  fillSelect(element("view"), views, state.view);
  fillSelect(element("layer"), run.layers.map((n) => [n, n]), state.layer);
  fillSelect(element("head"), run.heads.map((n) => [n, n]), state.head);
  element("strongest").replaceChildren(make("span", { textContent: words.strongest }), ...strongest().map(([layer, head]) => make("button", {
    type: "button", textContent: `${layer}.${head}`, title: `${words.layer} ${layer}, ${words.head} ${head}`,
    onclick: () => selectHead(layer, head), "aria-pressed": String(layer === state.layer && head === state.head),
  })));
  element("strongest").hidden = !grid;
  for (const id of ["grid", "view"]) element(id).hidden = !grid;
}

const redrawGrid = () => (overview.grid
  ? drawGrid(element("grid"), overview, state.view, [state.layer, state.head], words) : Promise.resolve());

async function selectHead(layer, head) {
  const mine = ++order;
  state.layer = layer;
  state.head = head;
  writeAddress();
  fillHeadControls();
  element("head-title").textContent = `${words.layer} ${layer}, ${words.head} ${head}`;
  const piece = await source.head(layer, head);
  if (mine !== order) return; // another head was chosen meanwhile
  current = piece;
  fillHeadFacts(layer, head);
  const { grid } = overview;
  await Promise.all([grid && moveFrame(element("grid"), grid, [layer, head]), drawHead(piece)]);
  drawExamples(piece);
  if (sides.length && state.at === "head" && state.by === "attention") await recolour();
  if (mine === order) document.body.dataset.head = `${layer}.${head}`;
}

function fillHeadFacts(layer, head) {
  const { grid, styles, measure, contrast } = overview;
  if (!grid) return fillFacts(element("head-facts"), []);
  const [row, column] = [grid.layers.indexOf(layer), grid.heads.indexOf(head)];
  const facts = styles.map((style, i) => [style, `${show(grid.styles[i][row][column])} ${measure.unit}`]);
  if (grid.difference) {
    const estimate = effectAt("estimate", layer, head) ?? effectAt("difference", layer, head);
    const ends = grid.effects ? ` [${show(effectAt("low", layer, head))}, ${show(effectAt("high", layer, head))}]` : "";
    facts.push([words.difference, `${estimate === null ? "–" : signed(estimate)}${ends} ${measure.unit}`]);
  }
  if (grid.effects) {
    const p = effectAt("p_adjusted", layer, head);
    const differs = p === null ? words.not_tested : p < contrast.alpha ? words.differs : words.does_not_differ;
    facts.push([words.p_adjusted, `${show(p, 2)} (${differs})`]);
  }
  return fillFacts(element("head-facts"), facts);
}

async function drawHead(piece) {
  const { styles } = overview;
  const { segments, profile } = piece;
  const parts = [];
  element("segments").hidden = !segments;
  element("profile").hidden = !profile;
  if (segments) parts.push(drawSegments(element("segments"), segments, styles, words));
  if (profile) parts.push(drawProfile(element("profile"), profile, styles, words));
  element("segments-note").textContent = segments ? filled_in(words.segments_note, { n: overview.n_pairs }) : words.no_segments;
  element("profile-note").textContent = profile ? filled_in(words.profile_note, { n: profile.n_items, all: overview.n_pairs }) : words.no_profile;
  await Promise.all(parts);
}

function drawExamples({ examples }) {
  const { styles, measure } = overview;
  element("examples-hint").textContent = styles.length > 1 ? words.examples_hint : words.examples_hint_one;
  element("examples").replaceChildren(tableOf(
    [{ name: words.item }, ...styles.map((style) => ({ name: `${style} (${measure.unit})`, number: true })), { name: "" }],
    examples.map((example) => [example.item, ...example.values.map((value) => show(value)),
      make("button", { type: "button", textContent: words.open, "aria-label": `${words.open} ${example.item}`, onclick: () => openRecord(example.records[0], { jump: true, at: "head" }) })]),
  ));
}

function gridKeys(event) {
  const { layers, heads } = overview.grid;
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  if (!(event.key in moves)) return;
  event.preventDefault();
  const [down, right] = moves[event.key];
  const move = (axis, at, by) => axis[Math.max(0, Math.min(axis.length - 1, axis.indexOf(at) + by))];
  selectHead(move(layers, state.layer, down), move(heads, state.head, right)).catch(fail);
}

// Records.
const matching = () => {
  const { id, task, split, style, passed } = state.filters;
  const sought = id.toLowerCase();
  return records.id.map((_, place) => place).filter((place) =>
    (!sought || records.id[place].toLowerCase().includes(sought) || records.item[place].toLowerCase().includes(sought))
    && (!task || records.task[place] === task) && (!split || records.split[place] === split)
    && (!style || records.style[place] === style) && (!(passed in OUTCOMES) || records.passed[place] === OUTCOMES[passed]));
};

function fillFilters() {
  for (const name of ["task", "split", "style"]) {
    const values = [...new Set(records[name])].sort();
    fillSelect(element(`f-${name}`), [["", words.all], ...values.filter(Boolean).map((value) => [value, value])], state.filters[name]);
    state.filters[name] = element(`f-${name}`).value;
  }
  fillSelect(element("f-passed"), [["", words.all], ...Object.keys(OUTCOMES).map((name) => [name, words[name]])], state.filters.passed);
  element("f-id").value = state.filters.id;
}

function drawRecords() {
  const found = matching();
  const last = Math.max(0, Math.ceil(found.length / PAGE_SIZE) - 1);
  state.page = Math.min(state.page, last);
  const shown = found.slice(state.page * PAGE_SIZE, (state.page + 1) * PAGE_SIZE);
  const mapWord = (id) => (maps === null ? words.maps_all : maps[id] ? Object.keys(maps[id].attention ?? {}).length > 1 ? words.maps_heads : words.maps_mean : "–");
  const number = (name) => ({ name: words[name], number: true });
  element("count").textContent = filled_in(words.count, { n: found.length, all: records.id.length });
  const table = tableOf(
    [{ name: words.record }, { name: words.item }, { name: words.style }, { name: words.task }, { name: words.split }, number("tokens"), number("steps"), { name: words.outcome }, { name: words.maps }],
    shown.map((place) => [
      make("button", { type: "button", textContent: records.id[place], onclick: () => openRecord(records.id[place], { jump: true }) }),
      records.item[place], records.style[place], records.task[place], records.split[place],
      String(records.n_tokens[place]), String(records.n_steps[place]), outcomeOf(place), mapWord(records.id[place]),
    ]),
  );
  shown.forEach((place, i) => { if (records.id[place] === state.record) table.tBodies[0].rows[i].setAttribute("aria-current", "true"); });
  element("table").replaceChildren(table);
  element("page").textContent = filled_in(words.page, { page: state.page + 1, pages: last + 1 });
  element("previous").disabled = state.page === 0;
  element("next").disabled = state.page >= last;
}

// Text.
function sidesOf(id) {
  const place = records.id.indexOf(id);
  const { styles } = overview;
  if (!styles.includes(records.style[place])) return [id];
  return styles.map((style) => (records.style[place] === style ? id
    : records.id.find((_, i) => records.item[i] === records.item[place] && records.style[i] === style))).filter((found) => found !== undefined);
}

async function openRecord(id, { jump = false, at = null, keepStep = false } = {}) {
  const mine = ++openRecord.order;
  state.record = id;
  if (at) state.at = at;
  if (!keepStep) state.step = null;
  const ids = sidesOf(id);
  const found = await Promise.all(ids.map(source.record));
  if (mine !== openRecord.order) return;
  sides = found.map((record, i) => (record === null ? null
    : new Side(record, titleOf(ids[i]), words, (position) => stepped(i, position))));
  sides.forEach((side, i) => { if (side) side.id = ids[i]; });
  element("sides").replaceChildren(...sides.map((side, i) => side?.element ?? make("p", { className: "hint", textContent: filled_in(words.text_not_here, { id: ids[i] }) })));
  drawRecords();
  await recolour();
  if (mine !== openRecord.order) return;
  writeAddress();
  document.body.dataset.record = id;
  if (jump) jumpTo("text");
}
openRecord.order = 0;

const titleOf = (id) => {
  const place = records.id.indexOf(id);
  const outcome = records.passed[place] === null ? "" : ` · ${records.passed[place] ? `✓ ${words.passed}` : `✗ ${words.failed}`}`;
  return `${records.style[place]} · ${id}${outcome}`;
};

function fillTextControls(choices) {
  const methods = [...new Set(choices.flatMap((choice) => choice.methods))];
  const names = [...new Set(choices.flatMap((choice) => choice.heads))].filter((name) => name !== "mean");
  if (state.by !== "attention" && !methods.includes(state.by)) state.by = "attention";
  fillSelect(element("by"), [["attention", words.attention], ...methods.map((name) => [name, name])], state.by);
  const named = (name) => filled_in(words.layer_head, { layer: name.split(".")[0], head: name.split(".")[1] });
  fillSelect(element("at"), [["head", words.chosen_head], ["mean", words.mean_heads], ...names.map((name) => [name, named(name)])], state.at);
  state.at = element("at").value;
  element("at").disabled = state.by !== "attention";
}

async function recolour() {
  const choices = await Promise.all(sides.map((side) => (side ? source.choices(side.id) : { heads: [], methods: [] })));
  fillTextControls(choices);
  const wanted = state.at === "head" ? `${state.layer}.${state.head}` : state.at;
  const notes = new Set();
  const rows = await Promise.all(sides.map(async (side, i) => {
    if (!side) return null;
    if (state.by !== "attention") {
      if (!choices[i].methods.includes(state.by)) { notes.add(filled_in(words.no_map, { id: side.id })); return null; }
      side.source = state.by;
      return decodedRows(await source.attribution(side.id, state.by));
    }
    const name = [wanted, "mean"].find((one) => choices[i].heads.includes(one));
    if (name === undefined) { notes.add(filled_in(overview.has_rows ? words.no_map : words.no_map_kept, { id: side.id })); return null; }
    notes.add(name === "mean" && wanted !== "mean" ? filled_in(words.mean_instead, { layer: wanted.split(".")[0], head: wanted.split(".")[1] })
      : name === "mean" ? words.shows_mean : filled_in(words.shows_head, { layer: name.split(".")[0], head: name.split(".")[1] }));
    const [layer, head] = name === "mean" ? [null, null] : name.split(".").map(Number);
    side.source = `attention ${name}`;
    return decodedRows(await source.attention(side.id, layer, head));
  }));
  sides.forEach((side, i) => side?.setRows(rows[i]));
  if (state.by !== "attention") notes.add(filled_in(words.shows_method, { method: state.by, target: overview.attributions[state.by].target, unit: overview.attributions[state.by].unit }));
  element("text-note").textContent = [...notes].join(" ");
  if (state.step && sides[state.step[0]]) sides[state.step[0]].pin(state.step[1], false);
}

function stepped(i, position) {
  state.step = position === null ? null : [i, position];
  sides.forEach((side, other) => { if (side && other !== i) side.pin(null, false); });
  writeAddress();
}

// About.
function drawAbout() {
  const { run, model, settings, contrast, notices } = overview;
  const methods = contrast?.methods?.[state.lang] ?? contrast?.methods?.en;
  element("methods").replaceChildren(make("p", { textContent: methods ?? (contrast ? contrast.verdict.at(-1) : words.no_methods), lang: contrast?.methods?.[state.lang] ? state.lang : "en" }));
  const worst = run.worst_error;
  element("certificates").textContent = worst === null || worst > 1e38 ? words.uncertified
    : filled_in(words.certified, { n: run.records.sealed, worst: Number(worst).toExponential(1) });
  const thin = notices.filter((notice) => notice.kind.startsWith("thinned"));
  element("thinned").replaceChildren(...(thin.length ? thin.map((notice) => make("li", { textContent: filled_in(words[`notice_${notice.kind}`], notice.values) })) : [make("li", { textContent: words.nothing_thinned })]));
  fillFacts(element("model"), Object.entries(model).map(([name, value]) => [name, flat(value)]));
  fillFacts(element("settings"), [...Object.entries(settings), ["created", run.created], ["format_version", run.format_version], ["settings_hash", run.settings_hash], ["made_by", overview.made_by]].map(([name, value]) => [name, flat(value)]));
}

// Downloads.
function save(what) {
  const { styles, title } = overview;
  const at = `layer${state.layer}-head${state.head}`;
  const made = {
    grid: () => overview.grid && [`${title}-heads.csv`, gridRows(overview)],
    segments: () => current?.segments && [`${title}-segments-${at}.csv`, segmentRows(current.segments, styles, state.layer, state.head)],
    profile: () => current?.profile && [`${title}-distance-${at}.csv`, profileRows(current.profile, styles, state.layer, state.head)],
    records: () => [`${title}-records.csv`, [Object.keys(records), ...matching().map((place) => Object.values(records).map((column) => column[place]))]],
    text: () => {
      const some = sides.filter((side) => side?.rows);
      return some.length && [`${title}-text.csv`, some.flatMap((side, i) => side.csvRows(side.id, side.source).slice(i ? 1 : 0))];
    },
  }[what]();
  if (made) download(...made);
}

function jumpTo(id) {
  element(id).focus({ preventScroll: true });
  element(id).scrollIntoView({ block: "start" });
}

function fail(error) {
  console.error(error);
  element("failure").textContent = `${words?.failure ?? "This page could not show everything:"} ${error.message ?? error}`;
  element("failure").hidden = false;
}

async function redraw() {
  applyWords();
  applyTheme();
  element("language").value = state.lang;
  element("theme").value = state.theme;
  drawVerdict();
  drawAbout();
  fillFilters();
  drawRecords();
  sides = [];
  await redrawGrid();
  await selectHead(state.layer, state.head);
  if (state.record !== null) await openRecord(state.record, { keepStep: true });
}

function listen() {
  const on = (id, event, act) => element(id).addEventListener(event, (said) => Promise.resolve(act(said)).catch(fail));
  on("language", "change", ({ target }) => { state.lang = target.value; return redraw(); });
  on("theme", "change", ({ target }) => { state.theme = target.value; return redraw(); });
  darkScheme.addEventListener("change", () => { if (state.theme === "auto") redraw().catch(fail); });
  on("view", "change", ({ target }) => { state.view = target.value; writeAddress(); return redrawGrid(); });
  for (const id of ["layer", "head"]) on(id, "change", () => selectHead(Number(element("layer").value), Number(element("head").value)));
  on("grid", "keydown", gridKeys);
  if (overview.grid) {
    element("grid").on("plotly_click", ({ points: [point] }) =>
      selectHead(overview.grid.layers[point.y], overview.grid.heads[point.x]).catch(fail));
  }
  for (const name of FILTERS) {
    on(`f-${name}`, name === "id" ? "input" : "change", ({ target }) => { state.filters[name] = target.value; state.page = 0; drawRecords(); writeAddress(); });
  }
  on("f-clear", "click", () => { for (const name of FILTERS) state.filters[name] = ""; state.page = 0; fillFilters(); drawRecords(); writeAddress(); });
  on("previous", "click", () => { state.page -= 1; drawRecords(); writeAddress(); });
  on("next", "click", () => { state.page += 1; drawRecords(); writeAddress(); });
  on("by", "change", ({ target }) => { state.by = target.value; writeAddress(); return recolour(); });
  on("at", "change", ({ target }) => { state.at = target.value; writeAddress(); return recolour(); });
  on("link", "click", async () => {
    writeAddress();
    try {
      await navigator.clipboard.writeText(location.href);
      element("link").textContent = words.copied;
      setTimeout(() => { element("link").textContent = words.copy_link; }, 1500);
    } catch {
      prompt(words.copy_link, location.href); // a file:// page may have no clipboard
    }
  });
  for (const button of document.querySelectorAll(".csv")) button.addEventListener("click", () => save(button.dataset.csv));
  for (const link of document.querySelectorAll("[data-jump]")) {
    link.addEventListener("click", (event) => { event.preventDefault(); jumpTo(link.dataset.jump); });
  }
  addEventListener("hashchange", () => { readAddress(); redraw().catch(fail); });
}

async function begin() {
  [overview, records, maps] = await Promise.all([source.overview(), source.records(), source.mapsOf()]);
  readAddress();
  if (state.record === null) state.record = firstRecord();
  await redraw();
  listen();
  document.body.dataset.ready = "true";
  performance.mark("ready");
}

// A record of the first style that can be coloured, by the chosen head if possible, is open from the
// start.
function firstRecord() {
  const places = records.id.map((_, place) => place).filter((place) => records.style[place] === overview.styles[0]);
  const attention = (place) => maps?.[records.id[place]]?.attention ?? {};
  const best = places.find((place) => `${state.layer}.${state.head}` in attention(place))
    ?? places.find((place) => "mean" in attention(place)) ?? places[0];
  return best === undefined ? null : records.id[best];
}

begin().catch(fail);
