"use strict";
/* The budget: what it is spent on, a slider that changes it, and weights given back. */
const budget = (() => {
  const $ = (id) => document.getElementById(id);
  // Arrow keys come one by one.
  const SETTLE_MS = 400;
  const MIB = 2 ** 20;
  const PARTS = [
    ["overhead", "process"], ["server", "kept for requests"], ["draft", "model that drafts"], ["kv", "KV cache"], ["compute", "buffers"],
    ["locked", "weights"], ["experts", "experts"], ["window", "window"], ["free", "free"]];
  const slider = $("budget");
  let shown = "", held = false, changing = false, soon = 0, onChanged = () => {};

  function say(words) {
    $("budget-said").textContent = words;
  }

  const label = () => {
    const text = sizes.bytes(slider.value * MIB);
    $("budget-value").textContent = text;
    slider.setAttribute("aria-valuetext", text);
  };

  /** Set what the slider says; what it says by then, once that is done. */
  async function change() {
    if (changing) return;
    changing = true;
    for (let wanted = null; wanted !== slider.value && held;) {
      wanted = slider.value;
      say("Changing after the pass that runs.");
      try {
        await api.json("engine/memory", { body: { memory: wanted * MIB } });
        say("");
      } catch (error) {
        say(error.message);
      }
    }
    held = changing = false;
    onChanged();
  }

  async function release() {
    $("release").disabled = true;
    say("Giving back after the pass that runs.");
    try {
      await api.json("engine/release", { body: {} });
      say("All weights were given back; the next request reads them again.");
    } catch (error) {
      say(error.message);
    }
    $("release").disabled = false;
    onChanged();
  }

  function part(name, title, bytes) {
    const item = document.createElement("div"), mark = document.createElement("i");
    const term = document.createElement("dt"), value = document.createElement("dd");
    mark.className = name === "experts" ? "of-experts" : name;
    mark.setAttribute("aria-hidden", "true");
    term.textContent = title;
    value.textContent = sizes.bytes(bytes);
    term.prepend(mark, " ");
    item.append(term, value);
    return item;
  }

  // While it is dragged it is the user's.
  slider.addEventListener("input", () => { held = true; label(); });
  slider.addEventListener("change", () => { clearTimeout(soon); soon = setTimeout(change, SETTLE_MS); });
  $("release").addEventListener("click", release);

  return {
    onChanged(call) { onChanged = call; },

    /** From `least` to `most` bytes. */
    range({ least, most }) {
      slider.min = Math.ceil(least / MIB);
      slider.max = Math.floor(most / MIB);
      // Steps that can be aimed at, and with the arrow keys reached.
      slider.step = 1;
      slider.disabled = held = false;
      $("release").disabled = false;
    },

    /** The memory of `/engine/stats`, with `experts` among it. */
    show(memory) {
      const limit = memory.budget;
      const parts = PARTS.slice(0, -1).map(([name, title]) => [name, title, memory[name] ?? 0]);
      const used = parts.reduce((total, [, , bytes]) => total + bytes, 0);
      if (limit) parts.push(["free", "free", Math.max(limit - used, 0)]);
      const now = JSON.stringify(parts);
      if (now !== shown) {
        shown = now;
        const whole = Math.max(limit, used, 1);
        const drawn = parts.filter(([, , bytes]) => bytes > 0);
        $("memory-parts").replaceChildren(...drawn.map((one) => part(...one)));
        $("memory-bar").replaceChildren(...drawn.map(([name, , bytes]) => {
          const piece = document.createElement("i");
          piece.className = name === "experts" ? "of-experts" : name;
          piece.style.width = `${(100 * bytes) / whole}%`;
          return piece;
        }));
      }
      if (limit && !held && !slider.disabled && Number(slider.value) !== Math.round(limit / MIB)) {
        slider.value = Math.round(limit / MIB);
        label();
      }
    },
  };
})();
