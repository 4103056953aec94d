"use strict";
/* The engine, live: asked about every two seconds while somebody can see it, never twice at a time. */
const live = (() => {
  const $ = (id) => document.getElementById(id);
  // A look takes 20 ms of processor time of a browser that draws in software.
  const EVERY_MS = 2000, KEPT = 60;
  const panel = $("engine");
  const history = [];
  let before = null, timer = 0, asking = false, server = null, hasSlots = true;
  let placed = { at: "", tensors: null };

  const set = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };
  const visible = () => document.visibilityState === "visible" && panel.getClientRects().length > 0;

  /** What happened between two looks; null where no pass did. */
  function between(from, to) {
    const passes = to.passes - from.passes, seconds = to.compute_s + to.wait_s - from.compute_s - from.wait_s;
    if (passes <= 0 || seconds <= 0) return null;
    const answers = to.drafts ? to.drafts.passes - from.drafts.passes : 0;
    // Of a draft's rows only those count that came of it.
    const rows = answers >= passes ? (to.drafts.tokens - from.drafts.tokens) / answers : (to.tokens - from.tokens) / passes;
    return {
      passRate: passes / seconds,
      rows,
      drafted: answers >= passes,
      waits: (to.wait_s - from.wait_s) / seconds,
      read: (to.read_bytes - from.read_bytes) / seconds,
      readPass: (to.read_bytes - from.read_bytes) / passes,
    };
  }

  function showRate(now, stats) {
    // More rows than slots are a prompt: tokens a second then say nothing about the bound.
    const writes = now && (now.drafted || now.rows <= server.slots);
    history.push(writes ? now.passRate : 0);
    if (history.length > KEPT) history.shift();
    set("rate", now ? sizes.rate(now.passRate * now.rows) : "Idle");
    set("rate-unit", now ? `tokens/s${writes ? "" : ", reading a prompt"}` : "");
    const bound = stats.bound_tok_s;
    const words = [`Bound for one answer: ${sizes.rate(bound)} tokens/s`];
    if (writes) words.push(`${sizes.percent(now.passRate / bound)} of it reached`);
    if (writes && now.rows > 1.05) words.push(`${sizes.rate(now.rows)} ${now.drafted ? "tokens" : "answers"} a pass`);
    if (stats.drafts) words.push(`${stats.drafts.accepted} of ${stats.drafts.drafted} drafted tokens accepted`);
    set("bound", `${words.join(" · ")}.`);
    drawHistory(bound);
  }

  function drawHistory(bound) {
    const top = Math.max(bound, ...history) * 1.1 || 1;
    const y = (value) => (19.5 - (19 * value) / top).toFixed(2);
    // An attribute that is set is drawn again, also to what it was.
    const points = history.map((value, at) => `${at + KEPT - history.length},${y(value)}`).join(" ");
    if ($("history-line").getAttribute("points") !== points) $("history-line").setAttribute("points", points);
    if ($("history-bound").getAttribute("y1") === y(bound)) return;
    $("history-bound").setAttribute("y1", y(bound));
    $("history-bound").setAttribute("y2", y(bound));
  }

  function showDrive(now, stats) {
    set("read", now ? `${sizes.bytes(now.read)}/s` : "–");
    set("read-token", now ? sizes.bytes(now.readPass / Math.max(now.rows, 1)) : "–");
    set("waits", now ? sizes.percent(now.waits) : "–");
    $("hits-row").hidden = stats.expert_hit_rate === undefined;
    if (stats.expert_hit_rate !== undefined) set("hits", sizes.percent(stats.expert_hit_rate));
  }

  function slotItem() {
    const item = document.createElement("li"), number = document.createElement("span"), said = document.createElement("span");
    const track = document.createElement("div");
    said.className = "said";
    track.className = "track";
    track.append(document.createElement("i"));
    item.append(number, said, track);
    return item;
  }

  function showSlots(slots, requests) {
    const list = $("slots"), busy = slots.filter((slot) => slot.is_processing).length;
    const waiting = requests === undefined ? 0 : Math.max(requests - busy, 0);
    set("queue", `${busy} of ${server.slots} busy, ${waiting || "nobody"} waiting.`);
    while (list.children.length < slots.length) list.append(slotItem());
    slots.forEach((slot, at) => {
      const item = list.children[at], held = slot.n_prompt_tokens ?? 0;
      const written = slot.next_token?.[0]?.n_decoded ?? 0;
      const text = slot.is_processing
        ? written ? `writes token ${sizes.count(written)}` : "reads a prompt"
        : held ? `free, keeps ${sizes.count(held)} tokens` : "free";
      item.classList.toggle("busy", slot.is_processing);
      if (item.children[0].textContent !== String(slot.id)) item.children[0].textContent = slot.id;
      if (item.children[1].textContent !== text) item.children[1].textContent = text;
      item.querySelector("i").style.width = `${Math.min(100, (100 * held) / slot.n_ctx)}%`;
    });
  }

  async function slotsNow() {
    if (!hasSlots) return [];
    try {
      return await api.json("slots");
    } catch (error) {
      // Switched off by --no-slots.
      if (error.status === 501) hasSlots = false;
      return [];
    }
  }

  /** Where bytes are: it changes only as some are read or pass by, or memory is given or taken. */
  async function tensorsAt(stats) {
    const { budget, locked, window } = stats.memory;
    const now = JSON.stringify([stats.read_bytes, budget, locked, window && stats.passes]);
    if (now !== placed.at) placed = { at: now, tensors: await api.json("engine/tensors") };
    return placed.tensors;
  }

  async function look() {
    const [stats, slots] = await Promise.all([api.json("engine/stats"), slotsNow()]);
    const tensors = await tensorsAt(stats);
    const now = before && between(before, stats);
    before = stats;
    set("mode", `${tensors.mode[0].toUpperCase()}${tensors.mode.slice(1)}.`);
    picture.show(tensors);
    showRate(now, stats);
    showDrive(now, stats);
    budget.show({ ...stats.memory, experts: picture.expertBytes });
    showSlots(slots, stats.requests);
  }

  /** A server that is gone may come back with another model. */
  function failed(error) {
    if (error.status === 0 || error.status === 503) {
      server = null;
      main.begin();
    } else if (error.status !== 401) {
      timer = setTimeout(tick, EVERY_MS);
    }
  }

  async function tick() {
    clearTimeout(timer);
    if (asking || !server || !visible()) return;
    asking = true;
    try {
      await look();
      main.state("");
      timer = setTimeout(tick, EVERY_MS);
    } catch (error) {
      before = null;
      main.state(error.message, true);
      failed(error);
    }
    asking = false;
  }

  document.addEventListener("visibilitychange", () => { before = null; tick(); });
  budget.onChanged(tick);

  return {
    /** Follow the server whose `/engine/plan` this is. */
    begin(plan) {
      server = plan.server;
      placed = { at: "", tensors: null };
      picture.of(plan.tensors);
      if (server.memory) budget.range(server.memory);
      tick();
    },
    look: tick,
  };
})();
