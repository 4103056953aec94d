"use strict";
/* The list of conversations, and the two columns that are drawers where there is no room. */
const conversations = (() => {
  const list = document.getElementById("list");
  const shade = document.getElementById("shade");
  const OPENERS = { conversations: "open-conversations", engine: "open-engine" };
  const items = new Map();
  let onDrawer = () => {};

  function make(id) {
    const item = document.getElementById("entry-template").content.firstElementChild.cloneNode(true);
    const [opens, removes] = item.querySelectorAll("button");
    opens.addEventListener("click", () => { chat.open(id); show(); close("conversations"); });
    removes.addEventListener("click", () => {
      if (!confirm(`Delete "${opens.textContent}" for good?`)) return;
      chat.forget(id);
      show();
      document.getElementById("begin").focus();
    });
    return item;
  }

  function label(item, { id, title }) {
    const [opens, removes] = item.querySelectorAll("button");
    const current = id === chat.openId;
    if (opens.textContent !== title) {
      opens.textContent = title;
      removes.setAttribute("aria-label", `Delete: ${title}`);
    }
    item.classList.toggle("current", current);
    if (current) opens.setAttribute("aria-current", "true");
    else opens.removeAttribute("aria-current");
  }

  /** Entries keep their nodes, and so what has the focus, while an answer is kept again and again. */
  function show() {
    const known = store.list(), ids = new Set(known.map((one) => one.id));
    for (const [id, item] of items) {
      if (ids.has(id)) continue;
      item.remove();
      items.delete(id);
    }
    known.forEach((one, at) => {
      if (!items.has(one.id)) items.set(one.id, make(one.id));
      const item = items.get(one.id);
      label(item, one);
      if (list.children[at] !== item) list.insertBefore(item, list.children[at] ?? null);
    });
  }

  const isOpen = (name) => document.getElementById(name).classList.contains("open");

  function toggle(name, wanted) {
    const drawer = document.getElementById(name), opener = document.getElementById(OPENERS[name]);
    drawer.classList.toggle("open", wanted);
    opener.setAttribute("aria-expanded", String(wanted));
    shade.hidden = !document.querySelector(".open");
    // What lies under a drawer cannot be reached.
    for (const other of document.body.children) {
      if (other !== drawer && other !== shade && other.tagName !== "DIALOG") other.inert = wanted;
    }
    (wanted ? drawer.querySelector(".close") : opener).focus();
    onDrawer();
  }

  function close(name) {
    if (isOpen(name)) toggle(name, false);
  }

  for (const [name, opener] of Object.entries(OPENERS)) {
    document.getElementById(opener).addEventListener("click", () => toggle(name, true));
    document.querySelector(`[data-closes="${name}"]`).addEventListener("click", () => close(name));
  }
  const closeAll = () => Object.keys(OPENERS).forEach(close);
  shade.addEventListener("click", closeAll);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") closeAll(); });
  // A drawer is one no more when there is room for it as a column.
  for (const query of ["(max-width: 52rem)", "(max-width: 75rem)"]) matchMedia(query).addEventListener("change", closeAll);
  document.getElementById("begin").addEventListener("click", () => {
    chat.open();
    show();
    close("conversations");
    document.getElementById("prompt").focus();
  });
  addEventListener("storage", (event) => {
    if (!event.key?.startsWith(store.PREFIX)) return;
    chat.refresh(event.key.slice(store.PREFIX.length));
    show();
  });

  return { show, onDrawer(call) { onDrawer = call; } };
})();
