"use strict";
/* The conversation that is open: sending, stopping, editing, asking again, each kept as it happens. */
const chat = (() => {
  const $ = (id) => document.getElementById(id);
  const PAINT_MS = 60, KEEP_MS = 1000;
  const NO_ROOM = "This browser has no room left: the conversation is lost when the page closes. Delete an older one.";
  const ELSEWHERE = "Another tab has this conversation answered. Stop it there, or wait for its end.";
  const KEEPS_NOTHING = "This browser keeps nothing of this page: the conversation is lost when it closes.";
  // Conversations that are being answered, and what stops each; those that were deleted meanwhile.
  const runs = new Map(), gone = new Set();
  let open = store.begin();
  // What the server serves: "chat", "text" without a template, "vectors" without text.
  let answers = "chat";
  let onKept = () => {};

  const running = () => runs.get(open.id);
  const stateOf = (at) => {
    const last = at === open.messages.length - 1;
    return { last, busy: last && Boolean(running()), locked: Boolean(running()), plain: answers === "text" };
  };

  function trouble(words) {
    $("trouble").textContent = words;
    $("trouble").hidden = !words;
  }

  function keep(conversation) {
    if (gone.has(conversation.id)) return;
    conversation.changed = Date.now();
    if (!store.save(conversation)) {
      trouble(store.works ? NO_ROOM : KEEPS_NOTHING);
    }
    onKept();
  }

  function showField() {
    const busy = Boolean(running());
    $("send").hidden = busy;
    $("stop").hidden = !busy;
    $("empty").hidden = open.messages.length > 0;
  }

  function show() {
    messages.show(open.messages, stateOf);
    $("system").value = open.system;
    $("system-box").open = Boolean(open.system) && !open.messages.length;
    $("system-summary").textContent = open.system ? "System message (set)" : "System message";
    showField();
    messages.toEnd();
  }

  /** Have the last message of the open conversation answered. */
  async function run() {
    const conversation = open, stop = new AbortController();
    let painted = 0, kept = Date.now(), waiting = 0;
    const paint = () => {
      waiting = 0;
      painted = performance.now();
      if (open === conversation) messages.update(open.messages.length - 1, open.messages.at(-1), stateOf(open.messages.length - 1));
    };
    runs.set(conversation.id, { conversation, stop });
    keep(conversation);
    show();
    $("said").textContent = "The model answers.";
    await answer.run(conversation, {
      plain: answers === "text",
      signal: stop.signal,
      changed() {
        waiting ||= setTimeout(paint, Math.max(0, PAINT_MS - (performance.now() - painted)));
        if (Date.now() - kept > KEEP_MS) { kept = Date.now(); keep(conversation); }
      },
    });
    clearTimeout(waiting);
    runs.delete(conversation.id);
    keep(conversation);
    if (open !== conversation) return;
    paint();
    conversation.messages.forEach((message, at) => messages.update(at, message, stateOf(at)));
    showField();
    $("said").textContent = conversation.messages.at(-1).error ? "" : "The answer is complete.";
  }

  /** One tab at a time has a conversation answered: what the other keeps would be lost.
      Returns whether this one does now; `change` is called before. */
  function start(change) {
    const conversation = open;
    trouble("");
    return new Promise((resolve) => {
      store.alone(conversation.id, async (may) => {
        const does = may && open === conversation && !running();
        resolve(does);
        if (!may && !runs.has(conversation.id)) trouble(ELSEWHERE);
        if (!does) return;
        change();
        await run();
      });
    });
  }

  function ask() {
    open.messages.push({ role: "assistant", content: "", images: [] });
  }

  function send() {
    const isEmpty = () => !$("prompt").value.trim() && !images.count;
    if (running() || answers === "vectors" || isEmpty()) return;
    start(() => {
      open.messages.push({ role: "user", content: $("prompt").value, images: images.take() });
      $("prompt").value = "";
      ask();
    });
  }

  async function addImages(files) {
    const unread = await images.add(files);
    trouble(unread.length ? `${unread.join(", ")}: this browser cannot read it as an image.` : "");
    $("prompt").focus();
  }

  const does = {
    async copy(at, button) {
      await copyText(open.messages[at].content, button);
    },
    edit(at) {
      messages.edit(at, open.messages[at].content, (text) => start(() => {
        open.messages[at].content = text;
        open.messages.length = at + 1;
        ask();
      }));
    },
    again(at) {
      start(() => {
        open.messages.length = at;
        ask();
      });
    },
    further() {
      start(() => {});
    },
  };

  async function copyText(text, button) {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  messages.log.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-does]");
    if (!button) return;
    if (button.dataset.does === "copy-code") copyText(button.closest(".code").querySelector("code").textContent, button);
    else does[button.dataset.does]?.(messages.numberOf(button), button);
    // What was pressed may be gone.
    if (!document.contains(document.activeElement) || document.activeElement === document.body) $("prompt").focus();
  });
  $("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); $("prompt").focus(); });
  $("prompt").addEventListener("keydown", (event) => { if (sends(event)) { event.preventDefault(); send(); } });
  $("stop").addEventListener("click", () => { running()?.stop.abort(); $("prompt").focus(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.isComposing && !document.querySelector("dialog[open], .open")) running()?.stop.abort();
  });
  $("system").addEventListener("change", () => {
    open.system = $("system").value;
    $("system-summary").textContent = open.system ? "System message (set)" : "System message";
    if (open.messages.length) keep(open);
  });
  $("attach").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", async () => { await addImages([...$("file").files]); $("file").value = ""; });
  document.addEventListener("paste", (event) => { if (!$("attach").hidden) addImages([...event.clipboardData.files]); });
  document.addEventListener("dragover", (event) => { if (!$("attach").hidden) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if ($("attach").hidden) return;
    event.preventDefault();
    addImages([...event.dataTransfer.files]);
  });

  return {
    get openId() { return open.id; },
    isRunning: (id) => runs.has(id),

    onKept(call) { onKept = call; },

    /** Open a conversation, a new one without an id. One that is being answered goes on. */
    open(id) {
      if (open.id === id) return;
      open = runs.get(id)?.conversation ?? ((id && store.load(id)) || store.begin());
      trouble("");
      show();
    },

    forget(id) {
      gone.add(id);
      runs.get(id)?.stop.abort();
      store.forget(id);
      if (open.id === id) this.open();
      onKept();
    },

    /** Another tab changed it. */
    refresh(id) {
      if (open.id !== id || runs.has(id)) return;
      open = store.load(id) ?? store.begin();
      messages.follow(open.messages, stateOf);
      if (document.activeElement !== $("system")) $("system").value = open.system;
      showField();
    },

    /** Follow what the server serves. */
    serve({ kind, sees }) {
      answers = kind;
      $("attach").hidden = !sees;
      $("prompt").disabled = $("send").disabled = kind === "vectors";
      $("prompt").placeholder = kind === "text" ? "Begin a text" : "Message";
      $("greeting").textContent = { chat: "Ask something.", text: "Begin a text.", vectors: "No chat here." }[kind];
      $("about").textContent = {
        chat: "", text: "This model has no chat template: it writes on from your lines.",
        vectors: "This server answers with vectors: embeddings or ranks.",
      }[kind];
      show();
    },
  };
})();
