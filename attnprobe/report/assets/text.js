// The text of a record: hovering over a predicted token colours the tokens that it looks at.

const make = (tag, properties = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(element.dataset, value);
    else if (name.startsWith("aria-") || name === "role" || name === "lang") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
};

const visible = (text) => text.replace(/ /g, "·").replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/\r/g, "␍");

// One side: a record, its tokens, and the step that is shown.
class Side {
  constructor(record, title, words, onStep) {
    this.record = record;
    this.words = words;
    this.onStep = onStep;
    this.rows = null;
    this.pinned = null;
    this.tokens = new Map();
    this.info = make("div", { className: "step-info", role: "status" });
    this.box = make("div", { className: "tokens", tabIndex: 0, role: "application", "aria-label": `${words.text_label} ${title}` });
    this.element = make("div", { className: "side" }, make("h3", { textContent: title }), this.info, this.box);
    if (record.generated !== null && record.expected) {
      this.element.append(make("p", { className: "hint expected", textContent: `${words.expected} ${record.expected.replace(/\n/g, " ↵ ")}` }));
    }
    this.fill();
    this.listen();
    this.idle();
  }

  fill() {
    const { texts, merged, spans, n_prompt, sinks, n_virtual } = this.record;
    const joined = new Map(merged.map(([start, stop, text]) => [start, [stop, text]]));
    const sinkSet = new Set(sinks);
    let part = null;
    for (const [start, stop, role] of spans) {
      const name = start < n_prompt ? "prompt" : "target";
      if (name !== part) {
        part = name;
        const word = name === "prompt" ? "prompt" : this.record.generated === null ? "target" : "written";
        this.box.append(make("div", { className: "part", textContent: this.words[word] }));
      }
      const content = make("div", { className: "content" });
      for (let at = start; at < stop; ) {
        const [end, text] = joined.get(at) ?? [at + 1, texts[at]];
        content.append(this.token(at, Math.min(end, stop), text, { isStep: at >= n_prompt, isSink: sinkSet.has(at), isVirtual: at < n_virtual }));
        at = Math.min(end, stop);
      }
      this.box.append(make("div", { className: "segment" }, make("div", { className: "role", textContent: role }), content));
    }
  }

  token(start, stop, text, { isStep, isSink, isVirtual }) {
    const token = make("span", { className: "token", dataset: { position: start } });
    if (isStep) token.classList.add("step");
    if (isSink) token.classList.add("sink");
    const pieces = (isVirtual ? "▢" : text).split("\n");
    pieces.forEach((piece, i) => {
      if (i) token.append(make("span", { className: "newline", textContent: "↵" }), i < pieces.length - 1 || piece ? "\n" : make("wbr"));
      token.append(piece);
    });
    const entry = { start, stop, text, token, isStep };
    for (let at = start; at < stop; at += 1) this.tokens.set(at, entry);
    return token;
  }

  listen() {
    const entryOf = (event) => {
      const token = event.target.closest?.(".token");
      return token ? this.tokens.get(Number(token.dataset.position)) : null;
    };
    this.box.addEventListener("pointerover", (event) => {
      const entry = entryOf(event);
      if (entry && this.pinned === null && this.canShow(entry)) this.show(entry);
    });
    this.box.addEventListener("pointerleave", () => { if (this.pinned === null) this.idle(); });
    this.box.addEventListener("click", (event) => {
      const entry = entryOf(event);
      if (entry && this.canShow(entry)) this.pin(this.pinned === entry.start ? null : entry.start);
    });
    this.box.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const steps = [...new Set(this.tokens.values())].filter((entry) => this.canShow(entry));
    if (!steps.length) return;
    const at = steps.findIndex((entry) => entry.start === this.pinned);
    const places = {
      ArrowRight: at + 1, ArrowDown: at + 10, ArrowLeft: at < 0 ? 0 : at - 1, ArrowUp: at < 0 ? 0 : at - 10,
      Home: 0, End: steps.length - 1,
    };
    if (event.key === "Escape") this.pin(null);
    else if (event.key in places) {
      const entry = steps[Math.max(0, Math.min(steps.length - 1, places[event.key]))];
      this.pin(entry.start);
      entry.token.scrollIntoView({ block: "nearest" });
    } else return;
    event.preventDefault();
  }

  // Rows belong to the query before the token that is predicted.
  canShow(entry) {
    return entry.start > 0 && (this.rows ? this.rows.row(entry.start - 1) !== null : entry.isStep);
  }

  setRows(rows) {
    this.rows = rows;
    const entry = this.pinned === null ? null : this.tokens.get(this.pinned);
    if (entry && this.canShow(entry)) this.show(entry);
    else this.idle();
  }

  pin(position, tell = true) {
    const entry = position === null ? null : this.tokens.get(position);
    this.pinned = entry && this.canShow(entry) ? entry.start : null;
    if (this.pinned === null) this.idle();
    else this.show(entry);
    if (tell) this.onStep(this.pinned);
  }

  clear() {
    for (const { token } of this.tokens.values()) {
      token.style.backgroundColor = "";
      token.classList.remove("current");
    }
  }

  idle() {
    this.clear();
    this.info.replaceChildren(this.words.step_hint);
  }

  // The mean over the rows of a character that is split over several tokens.
  valuesAt(entry) {
    const sums = new Map();
    const found = [];
    for (let at = entry.start; at < entry.stop; at += 1) {
      const row = this.rows?.row(at - 1);
      if (row) found.push(row);
    }
    for (const row of found) {
      for (const [position, value] of row) {
        const key = this.tokens.get(position);
        if (key) sums.set(key, (sums.get(key) ?? 0) + value / found.length);
      }
    }
    return sums;
  }

  show(entry) {
    this.clear();
    entry.token.classList.add("current");
    const values = this.valuesAt(entry);
    const sinks = new Set(this.record.sinks);
    const ordinary = [...values].filter(([key]) => !sinks.has(key.start)).map(([, value]) => Math.abs(value));
    const reach = Math.max(0, ...ordinary) || 1;
    for (const [key, value] of values) {
      const colour = this.rows.signed ? (value > 0 ? "--more" : "--less") : "--weight";
      const strength = Math.sqrt(Math.min(1, Math.abs(value) / reach));
      key.token.style.backgroundColor = strength > 0.03 ? `rgba(${css(colour)}, ${(0.85 * strength).toFixed(3)})` : "";
    }
    this.describe(entry, values, reach);
  }

  describe(entry, values, reach) {
    const { words } = this;
    const step = entry.start - this.record.n_prompt;
    const surprise = step >= 0 ? this.record.log_probs[step] : null;
    const lines = [make("div", {}, make("b", { textContent: `“${visible(entry.text)}”` }),
      step >= 0 ? ` ${words.step} ${step + 1}` : ` ${words.position} ${entry.start}`,
      surprise === null || surprise === undefined ? "" : ` · ${words.log_prob} ${show(surprise)} nat`)];
    if (values.size) {
      const best = [...values].sort(([, a], [, b]) => Math.abs(b) - Math.abs(a)).slice(0, 6);
      const unit = this.rows.signed ? ` ${this.rows.unit || ""}` : "";
      lines.push(make("div", { textContent: `${this.rows.signed ? words.credits : words.looks_at} ` + best
        .map(([key, value]) => `“${visible(key.text)}” ${this.rows.signed ? signed(value) : show(value)}`).join(" · ") + unit }));
      const legend = make("span", { className: "legend" });
      const bar = make("i");
      const [more, less, weight] = [css("--more"), css("--less"), css("--weight")];
      bar.style.background = this.rows.signed
        ? `linear-gradient(90deg, rgba(${less}, .85), transparent, rgba(${more}, .85))`
        : `linear-gradient(90deg, transparent, rgba(${weight}, .85))`;
      legend.append(this.rows.signed ? `−${show(reach)}` : "0", bar, `${show(reach)}${unit} ${words.colour_scale}`);
      lines.push(legend);
    }
    this.info.replaceChildren(...lines);
  }

  // Every value of every step, for a download.
  csvRows(name, source) {
    const rows = [["record", "coloured_by", "query", "predicted_token", "source", "source_token", "value"]];
    for (const query of this.rows?.queries ?? []) {
      for (const [position, value] of this.rows.row(query)) {
        rows.push([name, source, query, this.record.texts[query + 1], position, this.record.texts[position], Number(value.toPrecision(4))]);
      }
    }
    return rows;
  }
}
