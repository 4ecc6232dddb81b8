// Where the pieces come from: embedded in this file, or asked of `attnprobe view` at api/….
// Both have the same asynchronous methods; see report/payload.py for what they return.

const bytesOf = (base64) => Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));

const inflate = (bytes) =>
  new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")));

const remembered = (load) => {
  const kept = new Map();
  return (...asked) => {
    const name = JSON.stringify(asked);
    if (!kept.has(name)) {
      const found = load(...asked);
      kept.set(name, found);
      found.catch(() => kept.delete(name));
    }
    return kept.get(name);
  };
};

function embeddedSource() {
  const piece = remembered(async (name) => {
    const element = document.querySelector(`script[data-piece="${name}"]`);
    if (!element) throw new Error(`piece ${name} is not in this file`);
    return element.dataset.coding === "deflate"
      ? inflate(bytesOf(element.textContent.trim())).json()
      : JSON.parse(element.textContent);
  });
  const rows = async (kind, id, name) => {
    const number = (await piece("maps"))[id]?.[kind]?.[name];
    if (number === undefined) throw new Error(`no ${kind} ${name} of ${id} in this file`);
    return piece(`map-${number}`);
  };
  return {
    overview: () => piece("overview"),
    records: () => piece("records"),
    head: async (layer, head) => (await piece("heads"))[`${layer}.${head}`]
      ?? { segments: null, profile: null, examples: [] },
    record: async (id) => (await piece("texts"))[id] ?? null,
    attention: (id, layer, head) =>
      rows("attention", id, layer === null ? "mean" : `${layer}.${head}`),
    attribution: (id, method) => rows("attribution", id, method),
    // What there is of a record: names of heads ("mean", "3.5"), and attribution methods.
    choices: async (id) => {
      const found = (await piece("maps"))[id] ?? {};
      return {
        heads: Object.keys(found.attention ?? {}),
        methods: Object.keys(found.attribution ?? {}),
      };
    },
    mapsOf: async () => piece("maps"),
  };
}

function servedSource() {
  const piece = remembered(async (name, query) => {
    const asked = new URLSearchParams(query);
    const answer = await fetch(`api/${name}?${asked}`, { credentials: "same-origin" });
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  });
  const overview = () => piece("overview", {});
  return {
    overview,
    records: () => piece("records", {}),
    head: (layer, head) => piece("head", { layer, head }),
    record: (id) => piece("record", { id }),
    attention: (id, layer, head) =>
      piece("attention", layer === null ? { id } : { id, layer, head }),
    attribution: (id, method) => piece("attribution", { id, method }),
    choices: async () => {
      const { run, has_rows, attributions } = await overview();
      const every = run.layers.flatMap((layer) => run.heads.map((head) => `${layer}.${head}`));
      return { heads: has_rows ? ["mean", ...every] : [], methods: Object.keys(attributions) };
    },
    mapsOf: async () => null,
  };
}

// Rows of bytes back into weights or scores: see coded_rows in report/coding.py.
const decodedRows = async (piece) => {
  const raw = await inflate(bytesOf(piece.codes)).arrayBuffer();
  const codes = piece.signed ? new Int8Array(raw) : new Uint8Array(raw);
  const levels = piece.signed ? 127 : 255;
  const starts = [];
  piece.length.reduce((start, length) => (starts.push(start), start + length), 0);
  const rowOf = new Map(piece.queries.map((query, row) => [query, row]));
  return {
    signed: piece.signed,
    unit: piece.unit,
    queries: piece.queries,
    // The value at each position of a query's row; null where no row of that query is stored.
    row(query) {
      const at = rowOf.get(query);
      if (at === undefined) return null;
      const first = piece.first[at];
      const values = [];
      for (let i = 0; i < piece.length[at]; i += 1) {
        const share = codes[starts[at] + i] / levels;
        values.push([first + i, Math.sign(share) * share * share * piece.max]);
      }
      return values;
    },
  };
};
