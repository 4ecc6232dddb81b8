// The charts, drawn by plotly; and what each of them downloads as CSV.

const DIVERGING = {
  light: ["#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f"],
  dark: ["#b9dcff", "#7db4f0", "#4a88c9", "#2c5c8f", "#223c57", "#22272d", "#563029", "#8f4338", "#cc5f50", "#f08a7c", "#ffd0c9"],
};
const SEQUENTIAL = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const CONFIG = { displaylogo: false, responsive: true, modeBarButtons: [["toImage"]], doubleClick: false };

const scaleOf = (colours) => colours.map((colour, i) => [i / (colours.length - 1), colour]);
const isDark = () => document.documentElement.dataset.theme === "dark";
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const numbersIn = (rows) => rows.flat().filter((value) => value !== null);
const reachOf = (...grids) => Math.max(0, ...grids.flatMap((grid) => numbersIn(grid).map(Math.abs))) || 1;
const show = (value, digits = 3) =>
  value === null || value === undefined ? "–" : Number(Number(value).toPrecision(digits)).toString().replaceAll("-", "−");
const signed = (value) => (value > 0 ? "+" : "") + show(value);

// The middle of a long name is left out.
const shortened = (text, longest = 18) =>
  text.length <= longest ? text : `${text.slice(0, Math.ceil(longest / 2) - 1)}…${text.slice(-Math.floor(longest / 2))}`;

const layoutOf = (changes) => ({
  paper_bgcolor: "rgba(0,0,0,0)",
  plot_bgcolor: css("--empty"),
  font: { family: "system-ui, 'Noto Sans', 'Noto Sans CJK SC', sans-serif", size: 12, color: css("--ink") },
  margin: { l: 56, r: 10, t: 12, b: 44 },
  showlegend: false,
  hovermode: "closest",
  dragmode: false,
  hoverlabel: { align: "left" },
  ...changes,
});

// What plotly shows as rich text must not be taken from a record or a role as it is.
const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function coloursOf(signedValues, reach, title) {
  const bar = {
    title: { text: title, side: "right", font: { size: 11 } }, thickness: 11, outlinewidth: 0,
    tickfont: { size: 10 },
  };
  return signedValues
    ? { colorscale: scaleOf(DIVERGING[isDark() ? "dark" : "light"]), zmin: -reach, zmax: reach, colorbar: bar }
    : { colorscale: scaleOf(SEQUENTIAL), zmin: 0, zmax: reach, colorbar: bar };
}

const ticksOf = (names, room) => {
  const every = Math.max(1, Math.ceil(names.length / room));
  const places = names.map((_, i) => i).filter((i) => i % every === 0);
  return { tickmode: "array", tickvals: places, ticktext: places.map((i) => escaped(String(names[i]))) };
};

// Layers by heads. `view` is "difference", or the place of a style.
function drawGrid(element, overview, view, selected, words) {
  const { grid, measure, contrast, styles } = overview;
  const isDifference = view === "difference";
  const values = isDifference ? grid.effects?.estimate ?? grid.difference : grid.styles[Number(view)];
  const signedValues = isDifference || measure.unit === "bits";
  const reach = isDifference ? reachOf(values) : reachOf(...grid.styles);
  const name = isDifference ? `${styles[0]} − ${styles[1]}` : styles[Number(view)];
  const title = escaped(`${measure.name} (${measure.unit}): ${name}`);
  const words_of = (row, column) => {
    const lines = [
      `${words.layer} ${grid.layers[row]}, ${words.head} ${grid.heads[column]}`,
      `${escaped(name)}: ${show(values[row][column])} ${escaped(measure.unit)}`,
    ];
    if (isDifference && grid.effects) {
      lines.push(`[${show(grid.effects.low[row][column])}, ${show(grid.effects.high[row][column])}]`);
      lines.push(`${words.p_adjusted} ${show(grid.effects.p_adjusted[row][column], 2)}`);
    }
    return lines.join("<br>");
  };
  const traces = [{
    type: "heatmap", z: values, xgap: 1, ygap: 1, hoverinfo: "text",
    text: values.map((cells, row) => cells.map((_, column) => words_of(row, column))),
    ...coloursOf(signedValues, reach, title),
  }];
  const marked = [];
  if (isDifference && grid.effects) {
    grid.effects.p_adjusted.forEach((cells, row) =>
      cells.forEach((p, column) => { if (p !== null && p < contrast.alpha) marked.push([row, column]); }));
  }
  const size = Math.max(11, Math.min(40, 480 / grid.layers.length, 620 / grid.heads.length));
  const points = (places, marker) => ({
    type: "scatter", mode: "markers", hoverinfo: "skip",
    x: places.map(([, column]) => column), y: places.map(([row]) => row), marker,
  });
  traces.push(points(marked, { size: size / 4, color: isDark() ? "#ffffff" : "#111111" }));
  return Plotly.react(element, traces, layoutOf({
    shapes: frameOf(grid, selected),
    height: Math.round(size * grid.layers.length + 70),
    xaxis: { title: { text: words.head, standoff: 6 }, ...ticksOf(grid.heads, 18), range: [-0.5, grid.heads.length - 0.5], showgrid: false, zeroline: false, fixedrange: true },
    yaxis: { title: { text: words.layer, standoff: 6 }, ...ticksOf(grid.layers, 18), range: [grid.layers.length - 0.5, -0.5], showgrid: false, zeroline: false, fixedrange: true },
  }), CONFIG);
}

// The frame around the chosen head.
function frameOf(grid, [layer, head]) {
  const [row, column] = [grid.layers.indexOf(layer), grid.heads.indexOf(head)];
  if (row < 0 || column < 0) return [];
  return [{ type: "rect", x0: column - 0.5, x1: column + 0.5, y0: row - 0.5, y1: row + 0.5, line: { color: `rgb(${css("--weight")})`, width: 3 } }];
}
const moveFrame = (element, grid, selected) => Plotly.relayout(element, { shapes: frameOf(grid, selected) });

// Rows and columns that have a value in any style.
function filled(segments) {
  const rows = segments.queries.map((_, i) => i)
    .filter((i) => segments.styles.some((grid) => grid[i].some((value) => value !== null)));
  const columns = segments.keys.map((_, i) => i)
    .filter((i) => segments.styles.some((grid) => grid.some((row) => row[i] !== null)));
  const cut = (grid) => rows.map((row) => columns.map((column) => grid[row][column]));
  return {
    queries: rows.map((i) => segments.queries[i]), keys: columns.map((i) => segments.keys[i]),
    styles: segments.styles.map(cut), difference: segments.difference && cut(segments.difference),
  };
}

function drawSegments(element, segments, styles, words) {
  const { queries, keys, styles: grids, difference } = filled(segments);
  const isSigned = segments.unit === "bits";
  const shown = difference ? [...grids, difference] : grids;
  const names = difference ? [...styles, `${styles[0]} − ${styles[1]}`] : styles;
  const stacked = element.clientWidth < 720 && shown.length > 1;
  const n = shown.length;
  const cells = queries.length;
  const height = Math.max(110, cells * 24);
  const below = 110;
  const above = 26;
  const total = above + (stacked ? n : 1) * (height + below);
  const inner = total - above - below;
  const layout = layoutOf({ height: total, margin: { l: 150, r: 90, t: above, b: below }, annotations: [] });
  // Cells that are too narrow for their names are scrolled to.
  if (stacked) layout.width = Math.max(element.clientWidth, 240 + 22 * keys.length);
  const traces = shown.map((values, i) => {
    const [axis_x, axis_y] = [`x${i ? i + 1 : ""}`, `y${i ? i + 1 : ""}`];
    const isDifference = i === 2;
    const top = 1 - (i * (height + below)) / inner;
    const columnsOf = n === 1 ? [[0, 1]] : [[0, 0.27], [0.3, 0.57], [0.73, 1]];
    const domain_x = stacked ? [0, 1] : columnsOf[i];
    const domain_y = stacked ? [Math.max(0, top - height / inner), top] : [0, 1];
    layout[`xaxis${i ? i + 1 : ""}`] = { domain: domain_x, anchor: axis_y, ...ticksOf(keys.map((k) => shortened(k)), 40), range: [-0.5, keys.length - 0.5], tickangle: -45, showgrid: false, zeroline: false, fixedrange: true };
    layout[`yaxis${i ? i + 1 : ""}`] = { domain: domain_y, anchor: axis_x, ...ticksOf(queries.map((q) => shortened(q)), 60), range: [cells - 0.5, -0.5], showticklabels: stacked || i === 0, ticks: stacked || i === 0 ? "outside" : "", showgrid: false, zeroline: false, fixedrange: true };
    layout.annotations.push({ text: `<b>${escaped(names[i])}</b>`, x: domain_x[0], y: domain_y[1], xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom", showarrow: false });
    const reach = isDifference ? reachOf(values) : reachOf(...grids);
    const colours = coloursOf(isDifference || isSigned, reach, escaped(`${segments.measure} (${segments.unit})`));
    const hasBar = isDifference || stacked || i === Math.min(1, n - 1);
    Object.assign(colours.colorbar, { x: domain_x[1] + 0.005, xanchor: "left", y: (domain_y[0] + domain_y[1]) / 2, len: stacked ? height / inner : 1 });
    return {
      type: "heatmap", z: values, xaxis: axis_x, yaxis: axis_y, xgap: 1, ygap: 1, hoverinfo: "text", showscale: hasBar,
      text: values.map((row, q) => row.map((value, k) => `${escaped(queries[q])} → ${escaped(keys[k])}<br>${value === null ? words.no_value : `${show(value)} ${escaped(segments.unit)}`}`)),
      ...colours,
    };
  });
  return Plotly.react(element, traces, layout, CONFIG);
}

// A decade holds few labels; several decades need no more than one each.
function logTicks(profile) {
  const above = numbersIn(profile.styles).filter((value) => value > 0);
  const decades = Math.log10(Math.max(...above) / Math.min(...above));
  return decades > 2.5 ? { dtick: 1, exponentformat: "power" } : { dtick: "D2", tickformat: "~g" };
}

const binName = ([first, last]) => (first === last ? String(first) : `${first}–${last}`);

function drawProfile(element, profile, styles, words) {
  const colours = [css("--series-a"), css("--series-b")];
  const traces = profile.styles.map((values, i) => ({
    type: "scatter", mode: "lines+markers", name: escaped(styles[i]), x: profile.bins.map(binName),
    y: values.map((value) => (value > 0 ? value : null)),
    line: { color: colours[i], width: 2, dash: i ? "dot" : "solid" }, marker: { size: 6, symbol: i ? "square" : "circle" },
    hovertemplate: `%{x}: %{y:.3g}<extra>${escaped(styles[i])}</extra>`,
  }));
  return Plotly.react(element, traces, layoutOf({
    height: 250, showlegend: styles.length > 1, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 64, r: 10, t: 26, b: 50 },
    xaxis: { type: "category", title: { text: words.distance, standoff: 6 }, fixedrange: true, gridcolor: css("--line"), tickfont: { size: 10 } },
    yaxis: { type: "log", title: { text: words.weight_per_token, standoff: 6 }, fixedrange: true, gridcolor: css("--line"), ...logTicks(profile) },
  }), CONFIG);
}

const quoted = (value) => {
  const text = value === null || value === undefined ? "" : String(value);
  // A spreadsheet would run what begins like a formula.
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
};
const csvOf = (rows) => rows.map((row) => row.map(quoted).join(",")).join("\n") + "\n";

function gridRows({ grid, styles, measure }) {
  const effects = Object.keys(grid.effects ?? {});
  const head = ["layer", "head", ...styles.map((style) => `${measure.name}_${style}`), ...(grid.difference ? ["difference"] : []), ...effects];
  return [head, ...grid.layers.flatMap((layer, i) => grid.heads.map((number, j) => [
    layer, number, ...grid.styles.map((part) => part[i][j]), ...(grid.difference ? [grid.difference[i][j]] : []),
    ...effects.map((name) => grid.effects[name][i][j]),
  ]))];
}

function segmentRows(segments, styles, layer, head) {
  const rows = [["layer", "head", "query_role", "key_role", ...styles.map((style) => `${segments.measure}_${style}`), ...(segments.difference ? ["difference"] : [])]];
  segments.queries.forEach((query, i) => segments.keys.forEach((key, j) => rows.push([
    layer, head, query, key, ...segments.styles.map((part) => part[i][j]), ...(segments.difference ? [segments.difference[i][j]] : []),
  ])));
  return rows;
}

function profileRows(profile, styles, layer, head) {
  return [["layer", "head", "distance_from", "distance_to", ...styles.map((style) => `weight_${style}`)],
    ...profile.bins.map(([first, last], i) => [layer, head, first, last, ...profile.styles.map((part) => part[i])])];
}

function download(name, rows) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", csvOf(rows)], { type: "text/csv;charset=utf-8" }));
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
