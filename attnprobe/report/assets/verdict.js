// What was found, and about what: the verdict, the pass rates, the notices, and the settings.

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
