// The open record, its styles side by side, coloured by a head or an attribution.

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
