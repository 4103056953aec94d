"use strict";
/* The page as a whole: wait for the model, then begin; colours; the key. */
const main = (() => {
  const $ = (id) => document.getElementById(id);
  const COLOURS = ["system", "light", "dark"];
  const RETRY_MS = 700;

  function state(words, bad = false) {
    if ($("state").textContent !== words) $("state").textContent = words;
    $("state").classList.toggle("bad", bad);
  }

  function showColours(wanted) {
    const name = COLOURS.includes(wanted) ? wanted : "system";
    document.documentElement.dataset.colours = name;
    $("theme").setAttribute("aria-label", `Colours: ${name === "system" ? "as the system" : name}`);
    picture.draw();
    return name;
  }

  function askForKey(words) {
    const dialog = $("key-dialog");
    $("key-said").textContent = words
      ? `The server says: ${words}.` : "It is kept in this browser and sent to this server only.";
    $("key").value = "";
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.addEventListener("close", () => resolve(dialog.returnValue === "use" ? $("key").value.trim() : null), { once: true });
    });
  }

  function offerKey(wanted = false) {
    $("forget-key").hidden = !wanted && !api.hasKey;
    $("forget-key").textContent = api.hasKey ? "Forget key" : "Enter key";
  }

  /** Once the server answers; also when another one does in its place. */
  async function begin() {
    try {
      const [plan, props] = await Promise.all([api.json("engine/plan"), api.json("props")]);
      $("model").textContent = plan.server.model;
      document.title = `${plan.server.model} · flexinfer`;
      chat.serve({ kind: plan.server.answers, sees: Boolean(props.modalities?.vision) });
      offerKey();
      state("");
      live.begin(plan);
    } catch (error) {
      state(error.status === 503 ? "Loading the model" : error.message, error.status !== 503);
      if (error.status !== 401) setTimeout(begin, RETRY_MS);
      else offerKey(true);
    }
  }

  $("theme").addEventListener("click", () => {
    const next = COLOURS[(COLOURS.indexOf(showColours(store.read("flexinfer.colours"))) + 1) % COLOURS.length];
    store.write("flexinfer.colours", next);
    showColours(next);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", picture.draw);
  $("key-form").addEventListener("submit", (event) => { event.preventDefault(); $("key-dialog").close("use"); });
  $("key-cancel").addEventListener("click", () => $("key-dialog").close(""));
  $("key-dialog").addEventListener("cancel", () => { $("key-dialog").returnValue = ""; });
  $("forget-key").addEventListener("click", () => { api.forgetKey(); location.reload(); });
  api.onKeyWanted(askForKey);
  chat.onKept(conversations.show);
  conversations.onDrawer(live.look);

  // Inside a page of somebody else it would be clicked on unseen.
  if (window.top === window.self) {
    document.documentElement.dataset.begun = "";
    showColours(store.read("flexinfer.colours"));
    chat.open(store.list()[0]?.id);
    conversations.show();
    $("prompt").focus();
    begin();
  }
  return { state, begin };
})();
