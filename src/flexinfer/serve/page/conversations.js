"use strict";
/* The list of conversations, and the two columns that are drawers where there is no room. */
const conversations = (() => {
  const list = document.getElementById("list");
  const shade = document.getElementById("shade");
  const OPENERS = { conversations: "open-conversations", engine: "open-engine" };
  let onDrawer = () => {};

  function entry(conversation) {
    const item = document.getElementById("entry-template").content.firstElementChild.cloneNode(true);
    const [opens, removes] = item.querySelectorAll("button");
    const title = store.title(conversation);
    opens.textContent = title;
    const current = conversation.id === chat.openId;
    item.classList.toggle("current", current);
    if (current) opens.setAttribute("aria-current", "true");
    opens.addEventListener("click", () => { chat.open(conversation.id); show(); close("conversations"); });
    removes.setAttribute("aria-label", `Delete: ${title}`);
    removes.addEventListener("click", () => {
      if (!confirm(`Delete "${title}" for good?`)) return;
      chat.forget(conversation.id);
      show();
      document.getElementById("begin").focus();
    });
    return item;
  }

  function show() {
    list.replaceChildren(...store.all().map(entry));
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
