// The page: what each control does, and how it begins.

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
  fillHeadControls();
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

addEventListener("unhandledrejection", (event) => { event.preventDefault(); fail(event.reason); });
begin().catch(fail);
