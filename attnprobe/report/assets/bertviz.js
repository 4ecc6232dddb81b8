"use strict";
/* Between a run's weights and bertviz's views: what they ask of a script loader, and their data. */

const attnprobe = { params: null, views: {} };

/* bertviz names two scripts to be fetched. Both are in the page already, so nothing is. */
const require = { config() {} };
function requirejs(names, view) {
  attnprobe.views[document.currentScript.dataset.view] = view;
}

/* Decode [layer][head][token][key]: w = (code / 65535)². Keys that a row does not reach are left
   out, and tokens without a row have none, so that bertviz draws no lines for them. */
attnprobe.weights = function (record) {
  const text = atob(record.codes);
  let at = 0;
  function weight() {
    const code = text.charCodeAt(at) | (text.charCodeAt(at + 1) << 8);
    at += 2;
    return Math.round((code / 65535) ** 2 * 1e6) / 1e6;
  }
  function rows() {
    const all = record.texts.map(() => []);
    record.places.forEach((place, row) => {
      const [first, last] = [record.first[row], record.last[row]];
      const weights = new Array(Math.max(first, last + 1)).fill(0);
      for (let key = first; key <= last; key++) weights[key] = weight();
      all[place] = weights;
    });
    return all;
  }
  return record.layers.map(() => record.heads.map(rows));
};

/* The head view takes the number of keys from the first row. What it reads beyond the end of
   other rows, the style of the page makes invisible. */
attnprobe.first_filled = function (weights, n_keys) {
  for (const rows of weights.flat()) rows[0] = rows[0].concat(new Array(n_keys - rows[0].length).fill(0));
  return weights;
};

/* bertviz draws a head 930 / n pixels wide and 84 / n pixels high for each token, with n the number
   of heads: four heads and 40 tokens would fill a screen. A larger n makes an overview of them. */
attnprobe.scale = function (record) {
  const overview = Math.min(30, Math.ceil(record.texts.length * 84 / 240));
  return Math.max(record.heads.length, 12, overview);
};

attnprobe.draw = function (view, record, number) {
  const weights = attnprobe.weights(record);
  const shown = new Set(record.places);
  attnprobe.params = {
    attention: [{
      attn: view === "head" ? attnprobe.first_filled(weights, record.texts.length) : weights,
      left_text: record.texts.map((text, place) => (shown.has(place) ? text : "")),
      right_text: record.texts,
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
