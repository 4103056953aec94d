"use strict";
/* Messages on the page: each an article whose nodes follow its data. */
const messages = (() => {
  const log = document.getElementById("messages");
  const scroll = document.getElementById("scroll");

  function make(message) {
    const node = document.getElementById("message-template").content.firstElementChild.cloneNode(true);
    node.classList.add(message.role);
    node.querySelector(".who").textContent = message.role === "user" ? "You" : "Model";
    const shown = node.querySelector(".shown");
    for (const url of message.images ?? []) {
      const image = document.createElement("img");
      image.src = url;
      image.alt = "Image of this message";
      const item = document.createElement("li");
      item.append(image);
      shown.append(item);
    }
    shown.hidden = !shown.children.length;
    return node;
  }

  function showThinking(node, message) {
    const thinking = node.querySelector(".thinking");
    thinking.hidden = !message.reasoning;
    if (message.reasoning) prose.show(thinking.querySelector(".prose"), message.reasoning);
  }

  function showReading(node, message, busy) {
    const reading = node.querySelector(".reading");
    const waiting = busy && !message.content && !message.reasoning;
    reading.hidden = !waiting;
    if (!waiting) return;
    const { total = 0, processed = 0 } = message.progress ?? {};
    const bar = reading.querySelector("progress");
    if (total) {
      bar.value = processed / total;
    } else {
      bar.removeAttribute("value");
    }
    reading.querySelector(".reading-said").textContent = total
      ? `Reading the prompt: ${sizes.count(processed)} of ${sizes.count(total)} tokens` : "Waiting for a slot";
  }

  function showActions(node, message, { busy, locked, last, plain }) {
    const model = message.role === "assistant";
    const offered = {
      copy: Boolean(message.content) && !busy,
      edit: !model && !locked,
      again: model && last && !locked,
      further: model && last && plain && !locked && Boolean(message.content),
    };
    for (const button of node.querySelectorAll("footer button")) button.hidden = !offered[button.dataset.does];
    node.querySelector(".note").textContent = busy ? "" : message.note ?? "";
  }

  /** `state`: busy, it is growing; locked, another one is; last; plain, the model has no template. */
  function update(node, message, state) {
    node.setAttribute("aria-busy", String(state.busy));
    prose.show(node.querySelector(".body"), message.content);
    showThinking(node, message);
    showReading(node, message, state.busy);
    const trouble = node.querySelector(".trouble");
    const words = state.busy ? "" : message.error ?? "";
    if (trouble.textContent !== words) trouble.textContent = words;
    trouble.hidden = !words;
    showActions(node, message, state);
  }

  const isNodeOf = (node, message) => node?.classList.contains(message.role)
    && node.querySelectorAll(".shown img").length === (message.images?.length ?? 0);

  const isAtEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;

  return {
    log,

    /** The number of the message that a node of it belongs to. */
    numberOf(node) {
      return [...log.children].indexOf(node.closest(".message"));
    },

    nodeOf(number) {
      return log.children[number];
    },

    /** Show a conversation anew. */
    show(list, stateOf) {
      log.replaceChildren(...list.map(make));
      list.forEach((message, at) => update(log.children[at], message, stateOf(at)));
    },

    /** Show what became of the conversation that is shown, where one reads or edits it. */
    follow(list, stateOf) {
      const atEnd = isAtEnd();
      while (log.children.length > list.length) log.lastElementChild.remove();
      list.forEach((message, at) => {
        if (!isNodeOf(log.children[at], message)) {
          const node = make(message);
          if (log.children[at]) log.children[at].replaceWith(node);
          else log.append(node);
        }
        update(log.children[at], message, stateOf(at));
      });
      if (atEnd) scroll.scrollTop = scroll.scrollHeight;
    },

    /** Only what changed of message `at`. */
    update(at, message, state) {
      const atEnd = isAtEnd();
      update(log.children[at], message, state);
      if (atEnd) scroll.scrollTop = scroll.scrollHeight;
    },

    toEnd() {
      scroll.scrollTop = scroll.scrollHeight;
    },

    /** Edit the text of message `at` in its place; `done` gets the new text and returns, as a promise,
        whether it was taken. */
    edit(at, text, done) {
      const node = log.children[at];
      const body = node.querySelector(".body"), footer = node.querySelector("footer");
      const form = document.getElementById("edit-template").content.firstElementChild.cloneNode(true);
      const field = form.querySelector("textarea");
      field.value = text;
      body.hidden = footer.hidden = true;
      body.after(form);
      const end = () => {
        form.remove();
        body.hidden = footer.hidden = false;
        footer.querySelector('[data-does="edit"]').focus();
      };
      form.addEventListener("submit", async (event) => {
        event.preventDefault();
        // What was taken is shown anew, without this form.
        if (field.value.trim() && await done(field.value)) document.getElementById("prompt").focus();
      });
      form.querySelector('[data-does="leave"]').addEventListener("click", end);
      form.addEventListener("keydown", (event) => {
        if (event.key === "Escape" && !event.isComposing) { event.stopPropagation(); end(); }
        if (sends(event)) { event.preventDefault(); form.requestSubmit(); }
      });
      field.focus();
    },
  };
})();

/** Whether a key press in a field of text sends it. */
function sends(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing;
}
