"use strict";
/* The picture of layers by tensors: a column a layer, a row a kind of tensor, as full as it is in memory. */
const picture = (() => {
  const canvas = document.getElementById("layers");
  const said = document.getElementById("layers-said");
  const LABEL = 84, ROW = 13, GAP = 2;
  const sum = (list) => list.reduce((total, one) => total + one, 0);
  let rows = [], layers = 1, live = null, about = "", shown = "";

  /** Rows of cells, a cell being the numbers of its tensors; what is outside of layers has one cell. */
  function arrange(tensors) {
    const total = sum(tensors.map((tensor) => tensor.bytes));
    const kinds = new Map(), others = [];
    layers = 1;
    tensors.forEach((tensor, at) => {
      if (tensor.layer === null) {
        // What is too small to be seen is left out.
        if (tensor.bytes * 1000 >= total) others.push({ name: tensor.kind, cells: [[at]], bytes: tensor.bytes });
        return;
      }
      layers = Math.max(layers, tensor.layer + 1);
      if (!kinds.has(tensor.kind)) kinds.set(tensor.kind, { name: tensor.kind, cells: [], bytes: 0 });
      const row = kinds.get(tensor.kind);
      (row.cells[tensor.layer] ??= []).push(at);
      row.bytes += tensor.bytes;
    });
    const small = kinds.get("small");
    kinds.delete("small");
    rows = [...kinds.values(), ...(small ? [small] : []), ...others];
    canvas.style.height = `${rows.length * (ROW + GAP)}px`;
    for (const row of rows) {
      row.sizes = row.cells.map((cell) => sum(cell.map((at) => tensors[at].bytes)));
    }
  }

  function colours() {
    const found = {};
    for (const name of ["locked", "experts", "passing", "absent"]) {
      found[name] = getComputedStyle(document.getElementById(`swatch-${name}`)).backgroundColor;
    }
    return found;
  }

  function drawCell(pen, colour, x, y, width, cell, bytes) {
    pen.fillStyle = colour.absent;
    pen.fillRect(x, y, width, ROW);
    let top = y + ROW;
    for (const name of ["locked", "experts", "passing"]) {
      const share = sum(cell.map((at) => live[name][at])) / bytes;
      if (!share) continue;
      const height = Math.min(Math.max(Math.round(share * ROW), 2), top - y);
      top -= height;
      pen.fillStyle = colour[name];
      pen.fillRect(x, top, width, height);
    }
  }

  function draw() {
    if (!live || !canvas.clientWidth) return;
    const scale = devicePixelRatio || 1, width = canvas.clientWidth, height = rows.length * (ROW + GAP);
    const pen = canvas.getContext("2d"), style = getComputedStyle(canvas), colour = colours();
    const across = Math.floor(width * scale), down = Math.floor(height * scale);
    // A canvas that is given a size, even its own, begins anew.
    if (canvas.width !== across) canvas.width = across;
    if (canvas.height !== down) canvas.height = down;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = `${style.fontSize} ${style.fontFamily}`;
    pen.textBaseline = "middle";
    const step = (width - LABEL) / layers, gap = step >= 5 ? 1 : 0;
    rows.forEach((row, number) => {
      const y = number * (ROW + GAP);
      pen.fillStyle = style.color;
      pen.fillText(row.name, 0, y + ROW / 2 + 1, LABEL - 8);
      row.cells.forEach((cell, at) => {
        if (!cell) return;
        const wide = row.cells.length === 1 && layers > 1;
        const x = Math.round(LABEL + (wide ? 0 : at * step));
        const end = wide ? width - gap : Math.round(LABEL + (at + 1) * step) - gap;
        drawCell(pen, colour, x, y, end - x, cell, row.sizes[at]);
      });
    });
  }

  function shareOf(row, cell) {
    const here = (at) => live.locked[at] + live.experts[at];
    return sum(cell.map(here));
  }

  /** What lies under the pointer, in words. */
  function told(event) {
    if (!live) return "";
    const box = canvas.getBoundingClientRect();
    const row = rows[Math.floor((event.clientY - box.top) / (ROW + GAP))];
    if (!row) return "";
    const x = (event.clientX - box.left - LABEL) / ((box.width - LABEL) / layers);
    const at = row.cells.length === 1 && layers > 1 ? 0 : Math.floor(x);
    const cell = row.cells[at];
    if (!cell) return row.name;
    const place = row.cells.length > 1 ? `layer ${at}, ${row.name}` : row.name;
    return `${place}: ${sizes.bytes(shareOf(row, cell))} of ${sizes.bytes(row.sizes[at])} in memory`;
  }

  function say() {
    const total = sum(rows.flatMap((row) => row.sizes).filter(Boolean));
    const locked = sum(live.locked), experts = sum(live.experts), passing = sum(live.passing);
    const words = [`${sizes.bytes(locked)} of ${sizes.bytes(total)} locked`];
    if (experts) words.push(`${sizes.bytes(experts)} of experts`);
    if (passing) words.push(`${sizes.bytes(passing)} passing through`);
    const text = `${words.join(", ")}.`;
    if (text !== about) said.textContent = about = text;
  }

  function tabulate() {
    const body = document.querySelector("#kinds tbody");
    if (!live || !body.closest("details").open) return;
    body.replaceChildren(...rows.map((row) => {
      const line = document.createElement("tr"), name = document.createElement("th");
      name.scope = "row";
      name.textContent = row.name;
      const size = document.createElement("td"), here = document.createElement("td");
      size.textContent = sizes.bytes(row.bytes);
      here.textContent = sizes.percent(sum(row.cells.filter(Boolean).map((cell) => shareOf(row, cell))) / row.bytes);
      line.append(name, size, here);
      return line;
    }));
  }

  canvas.addEventListener("pointermove", (event) => { canvas.title = told(event); });
  document.querySelector("#kinds").closest("details").addEventListener("toggle", tabulate);
  new ResizeObserver(draw).observe(canvas);

  return {
    /** Which tensors the model has: {name, layer, kind, bytes} each, as `/engine/plan` lists them. */
    of(tensors) {
      shown = "";
      arrange(tensors);
      document.getElementById("legend-experts").hidden = !tensors.some((tensor) => tensor.experts > 1);
    },

    /** Where their bytes are now: lists `locked`, `passing` and `experts`, as `/engine/tensors` says. */
    show(now) {
      const words = JSON.stringify(now);
      if (words === shown) return;
      shown = words;
      live = now;
      draw();
      say();
      tabulate();
    },

    draw,
    get expertBytes() { return live ? sum(live.experts) : 0; },
  };
})();
