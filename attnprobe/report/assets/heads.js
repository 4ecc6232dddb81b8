// The grid of heads, and what a click on one shows.

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
  const panel = element("head-panel");
  const waiting = setTimeout(() => panel.classList.add("busy"), 150);
  const piece = await source.head(layer, head).finally(() => {
    clearTimeout(waiting);
    panel.classList.remove("busy");
  });
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
