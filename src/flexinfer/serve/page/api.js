"use strict";
/* Calls of the server this page came from: with the key, errors in the server's own words. */
class EngineError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const api = (() => {
  const KEY = "flexinfer.key";
  let asking = null;
  let askForKey = async () => null;

  function wordsOf(text, response) {
    try {
      const { error } = JSON.parse(text);
      const words = typeof error === "string" ? error : error?.message;
      if (words) return words;
    } catch { /* plain text, or nothing */ }
    return text.trim().slice(0, 500) || `${response.status} ${response.statusText}`;
  }

  /** Any letters: a header carries bytes, which are written here as letters of Latin-1. */
  const bearer = (key) => `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}`;

  async function send(path, body, signal) {
    const headers = {};
    const key = store.read(KEY);
    if (key) headers.Authorization = bearer(key);
    const options = { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" };
    if (body !== undefined) {
      headers["Content-Type"] = "application/json";
      Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    }
    try {
      return await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new EngineError("The server does not answer. Is it still running?");
    }
  }

  /** One question at a time, however many calls want the key. */
  function newKey(words) {
    asking ??= askForKey(words).finally(() => { asking = null; });
    return asking;
  }

  return {
    /** `ask` resolves to a key, or to null where none is given. */
    onKeyWanted(ask) { askForKey = ask; },

    get hasKey() { return Boolean(store.read(KEY)); },

    forgetKey() { store.remove(KEY); },

    /** The response to a GET, or to a POST where there is a body.
        Throws EngineError in the server's words, AbortError where `signal` says so. */
    async call(path, { body, signal } = {}) {
      for (;;) {
        const sent = store.read(KEY);
        const response = await send(path, body, signal);
        if (response.ok) return response;
        const words = wordsOf(await response.text(), response);
        if (response.status !== 401) throw new EngineError(words, response.status);
        // Another call may have been given the key meanwhile.
        if (store.read(KEY) !== sent) continue;
        const key = await newKey(sent ? words : "");
        if (!key) throw new EngineError(words, 401);
        store.write(KEY, key);
      }
    },

    async json(path, options) {
      return (await api.call(path, options)).json();
    },

    /** The documents of a stream of events as they come. */
    async *events(response) {
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        let part;
        try {
          part = await reader.read();
        } catch (error) {
          if (error.name === "AbortError") throw error;
          throw new EngineError("The connection was lost before the answer was complete.");
        }
        if (part.done) return;
        const lines = (rest + part.value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          if (!line.startsWith("data: ") || line.startsWith("data: [DONE]")) continue;
          const found = JSON.parse(line.slice(6));
          if (found.error) throw new EngineError(found.error.message ?? String(found.error), found.error.code);
          yield found;
        }
      }
    },
  };
})();
