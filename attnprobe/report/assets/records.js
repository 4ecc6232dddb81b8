// The table of records, and its filters.

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
