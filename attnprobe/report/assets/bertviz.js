"use strict";
/* Between a run's weights and bertviz's views: what they ask of a script loader, and their data. */

const attnprobe = { params: null, views: {} };

/* bertviz names two scripts to be fetched. Both are in the page already, so nothing is. */
const require = { config() {} };
function requirejs(names, view) {
  attnprobe.views[document.currentScript.dataset.view] = view;
}

/* Decode [layer][head][query][key]: w = (code / 65535)². Keys after a row's last are left out. */
attnprobe.weights = function (record) {
  const text = atob(record.codes);
  let at = 0;
  function weight() {
    const code = text.charCodeAt(at) | (text.charCodeAt(at + 1) << 8);
    at += 2;
    return Math.round((code / 65535) ** 2 * 1e6) / 1e6;
  }
  function row(first, query) {
    const weights = new Array(Math.max(first, record.last[query] + 1)).fill(0);
    for (let key = first; key <= record.last[query]; key++) weights[key] = weight();
    return weights;
  }
  return record.layers.map(() => record.heads.map(() => record.first.map(row)));
};

/* The head view also reads weights by key, so its rows must be of one length. */
attnprobe.padded = function (weights, n_keys) {
  const fill = (row) => row.concat(new Array(n_keys - row.length).fill(0));
  return weights.map((heads) => heads.map((rows) => rows.map(fill)));
};

/* bertviz draws a head 930 / n pixels wide and 84 / n pixels high for each token, with n the number
   of heads: four heads and 40 tokens would fill a screen. A larger n makes an overview of them. */
attnprobe.scale = function (record) {
  const n_rows = Math.max(record.queries.length, ...record.last);
  return Math.max(record.heads.length, Math.min(30, Math.max(12, Math.ceil(n_rows * 84 / 240))));
};

attnprobe.draw = function (view, record, number) {
  const weights = attnprobe.weights(record);
  const n_seen = Math.max(...record.last) + 1; // later tokens are seen by none
  attnprobe.params = {
    attention: [{
      attn: view === "head" ? attnprobe.padded(weights, n_seen) : weights,
      left_text: record.queries,
      right_text: record.keys.slice(0, n_seen),
    }],
    default_filter: "0",
    root_div_id: `${view}-${number}`,
    display_mode: "light",
    layer: null,
    heads: null,
    include_layers: record.layers,
    include_heads: record.heads,
    total_heads: attnprobe.scale(record),
  };
  if (view === "head") { // bertviz draws a box of 20 pixels for each head
    const width = Math.max(345, 20 * record.heads.length + 5);
    document.getElementById(`head-${number}`).style.minWidth = `${width}px`;
  }
  attnprobe.views[view](jQuery, d3);
};

/* Styles side by side show the same layer. */
attnprobe.link = function (selects) {
  selects.on("change", (event) => {
    const layer = event.target.value;
    selects.filter((_, other) => other.value !== layer).val(layer).trigger("change");
  });
};

attnprobe.start = function () {
  const records = JSON.parse(document.getElementById("attnprobe-data").textContent);
  for (const section of document.querySelectorAll("details[data-view]")) {
    const { view } = section.dataset;
    const show = () => {
      if (!section.open || section.dataset.drawn) return;
      section.dataset.drawn = "yes";
      records.forEach((record, number) => attnprobe.draw(view, record, number));
      if (view === "head") attnprobe.link(jQuery("details[data-view=head] select"));
    };
    section.addEventListener("toggle", show);
    show();
  }
};
