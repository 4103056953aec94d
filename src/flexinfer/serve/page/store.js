"use strict";
/* What stays in this browser: conversations, one entry each, so that two tabs do not overwrite each
   other's; the key; the colours. A browser that keeps nothing is no error: it lasts as long as the page. */
const store = (() => {
  const PREFIX = "flexinfer.conversation.";
  // What the browser did not take.
  const memory = new Map();
  // Conversations of the list, by name.
  const entries = new Map();

  function read(name) {
    if (memory.has(name)) return memory.get(name);
    try {
      return localStorage.getItem(name);
    } catch {
      return null;
    }
  }

  /** Returns whether the browser keeps it. */
  function write(name, text) {
    try {
      localStorage.setItem(name, text);
      memory.delete(name);
      return true;
    } catch {
      memory.set(name, text);
      return false;
    }
  }

  function remove(name) {
    memory.delete(name);
    try {
      localStorage.removeItem(name);
    } catch { /* then nothing was kept */ }
  }

  function names() {
    const found = new Set(memory.keys());
    try {
      for (let i = 0; i < localStorage.length; i++) found.add(localStorage.key(i));
    } catch { /* then nothing was kept */ }
    return [...found].filter((name) => name.startsWith(PREFIX));
  }

  const isText = (value) => typeof value === "string";

  /** What is not as it was written, by another version or by hand, is left out. */
  function parse(text) {
    try {
      const found = JSON.parse(text);
      if (!isText(found.id) || !Array.isArray(found.messages)) return null;
      const messages = found.messages.filter(
        (one) => ["user", "assistant"].includes(one?.role) && isText(one.content));
      for (const one of messages) {
        one.images = Array.isArray(one.images) ? one.images.filter((url) => /^data:image\//.test(url)) : [];
      }
      return {
        id: found.id, messages,
        system: isText(found.system) ? found.system : "",
        changed: Number(found.changed) || 0,
      };
    } catch {
      return null;
    }
  }

  function title(conversation) {
    const first = conversation.messages.find((one) => one.role === "user");
    const line = first?.content.trim().split("\n")[0].slice(0, 80);
    return line || (first ? "An image" : "New conversation");
  }

  /** What the list shows of it; parsed again only where its text is another. */
  function listed(name) {
    const text = read(name);
    if (entries.get(name)?.text !== text) {
      const found = parse(text);
      entries.set(name, { text, shown: found && { id: found.id, title: title(found), changed: found.changed } });
    }
    return entries.get(name).shown;
  }

  return {
    read, write, remove, PREFIX,

    /** Call with true once no other tab does so for this id, with false where one does, until it is done. */
    alone(id, call) {
      // Of a host that is neither this machine nor encrypted, browsers give no locks.
      if (!navigator.locks) return call(true);
      return navigator.locks.request(PREFIX + id, { ifAvailable: true }, (lock) => call(Boolean(lock)));
    },

    /** Whether the browser keeps anything at all. */
    get works() {
      try {
        return Boolean(localStorage);
      } catch {
        return false;
      }
    },

    /** An empty conversation, kept once something is said in it. */
    begin() {
      const id = Array.from(crypto.getRandomValues(new Uint8Array(9)), (n) => n.toString(36)).join("");
      return { id, system: "", messages: [], changed: Date.now() };
    },

    load(id) {
      const text = read(PREFIX + id);
      return text === null ? null : parse(text);
    },

    /** {id, title, changed} of all, the one changed last first. */
    list() {
      const found = names().map(listed).filter(Boolean);
      for (const name of entries.keys()) if (read(name) === null) entries.delete(name);
      return found.sort((a, b) => b.changed - a.changed);
    },

    /** Returns whether the browser keeps it. */
    save(conversation) {
      return write(PREFIX + conversation.id, JSON.stringify(conversation));
    },

    forget(id) {
      remove(PREFIX + id);
    },

  };
})();
